"""Records (an image with its objects), what makes them, and the batches of training."""
