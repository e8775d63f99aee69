"""Files on disk: run directories, logs and their readers, token tables, atomic writes."""
