"""A training before torch is imported, which takes seconds: mistakes are answered first."""

from __future__ import annotations

import sys

from coordexp.errors import RESUMABLE, reported


def main() -> None:
    """Train one run, or hand a sweep and Hydra's own flags to Hydra.

    Entry point of `coordexp-train` and of `python -m coordexp.training.train`, by which
    torch.distributed.run starts every rank.
    """
    with reported("coordexp-train", answers=RESUMABLE):
        from coordexp.config.command_line import check_arguments

        cfg = check_arguments(sys.argv[1:])

        from coordexp.training.train import train_or_sweep

        train_or_sweep(cfg, sys.argv[1:])
