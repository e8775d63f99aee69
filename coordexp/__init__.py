"""CoordExp Stage-1: train three loss variants, audit their logs, recommend a Stage-2 checkpoint."""

__version__ = "0.1.0"
