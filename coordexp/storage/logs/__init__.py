"""The log of a run: its writer, and a reader for each format."""
