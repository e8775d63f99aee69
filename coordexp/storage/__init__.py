"""Files on disk: run directories, manifests, token tables, JSON as dataclasses, atomic writes."""
