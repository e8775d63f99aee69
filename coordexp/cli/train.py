"""Entry point of `coordexp-train`: a mistake is answered before torch is imported (seconds)."""

from __future__ import annotations

import sys

from coordexp.config.command_line import check_arguments
from coordexp.errors import RESUMABLE, reported


def main() -> None:
    """Train one run, or hand a sweep and Hydra's own flags to Hydra."""
    with reported("coordexp-train", RESUMABLE):
        cfg = check_arguments(sys.argv[1:])

        from coordexp.training.train import train_or_sweep

        train_or_sweep(cfg, sys.argv[1:])
