"""Which runs a study has: planned, preregistered, or handed over as NAME=PATH."""
