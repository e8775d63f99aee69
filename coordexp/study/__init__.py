"""The runs of a study: planned, preregistered, or found and read where given as NAME=PATH."""
