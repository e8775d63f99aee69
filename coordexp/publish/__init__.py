"""A checkpoint as a directory that others can use: files, model card, and the hub."""
