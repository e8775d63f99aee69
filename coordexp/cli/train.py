"""Entry point of `coordexp-train`."""

from coordexp.training.launch import main

__all__ = ["main"]
