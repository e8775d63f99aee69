"""Which runs a study consists of, what was written down before training, and where other runs come from."""
