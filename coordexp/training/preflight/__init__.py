"""Before step 1: losses and gradients, each computed in two ways."""
