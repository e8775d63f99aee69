"""Files on disk: run directories and their manifest, token tables, typed JSON, atomic writes."""
