"""The arguments of `coordexp`: one call, and the verbs.

What a verb does is in verbs.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coordexp.cli.completion import PrintCompletion
from coordexp.cli.data_arguments import add_convert, add_prepare, add_validate
from coordexp.cli.export_arguments import add_export
from coordexp.cli.result_arguments import (
    add_clean,
    add_diff,
    add_list,
    add_show,
    add_step,
    add_ui,
    add_verify,
)
from coordexp.cli.run_arguments import add_compare, add_evaluate, add_probe
from coordexp.cli.subparsers import OneLineParser
from coordexp.config.package import VERSION
from coordexp.errors import UserError

DESCRIPTION = (
    "CoordExp Stage-1: audit and compare runs that were trained with different losses, "
    "and recommend the checkpoint to start Stage-2 from."
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one call.

    argparse accepts positional arguments only up to the first option. Overrides may also follow
    options, so the arguments that argparse does not recognise are added to them.
    """
    top = parser()
    args, rest = top.parse_known_args(arguments)
    refuse_unprintable(args)
    if not rest:
        return args
    if not hasattr(args, "overrides") or any(word.startswith("-") for word in rest):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides += rest
    return args


def refuse_unprintable(args: argparse.Namespace) -> None:
    """Refuse paths with line breaks and other characters that no message or card can print.

    Raises:
        UserError: naming the path.
    """
    for value in vars(args).values():
        if isinstance(value, Path) and not str(value).isprintable():
            raise UserError(f"{str(value)!a}: holds characters that cannot be printed")


def parser() -> argparse.ArgumentParser:
    top = OneLineParser(prog="coordexp", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"coordexp {VERSION}")
    top.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help='for tab completion: eval "$(coordexp --print-completion bash)"',
    )
    subparsers = top.add_subparsers(required=True, metavar="VERB")
    for add in (
        add_show,
        add_list,
        add_diff,
        add_clean,
        add_ui,
        add_prepare,
        add_convert,
        add_validate,
        add_verify,
        add_export,
        add_compare,
        add_probe,
        add_evaluate,
        add_step,
    ):
        add(subparsers)
    return top
