"""A training before torch is imported, which takes seconds: mistakes are answered first."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from coordexp.errors import RESUMABLE, reported


def launch(arguments: Sequence[str]) -> None:
    """Train one run, or hand a sweep and Hydra's own flags to Hydra.

    Raises:
        UserError: a mistake in the arguments, or what `train` refuses.
    """
    from coordexp.config.command_line import check_arguments

    cfg = check_arguments(arguments)

    from coordexp.training.train import train_or_sweep

    train_or_sweep(cfg, arguments)


def main() -> None:
    """Entry point of `python -m coordexp.training.train`.

    torch.distributed.run starts every rank by it.
    """
    with reported("coordexp-train", answers=RESUMABLE):
        launch(sys.argv[1:])
