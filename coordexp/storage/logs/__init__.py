"""The log of a run: written row by row while training, and read from every format that is known."""
