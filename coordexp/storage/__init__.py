"""Files on disk: atomic writes, run directories, logs, token tables; reader and writer side by side."""
