"""Records, what makes them, and the batches a model is trained on."""
