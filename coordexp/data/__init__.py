"""Records and where they come from; batches and what is in them."""
