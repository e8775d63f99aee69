"""Records and what makes them, and the batches that a model is trained on."""
