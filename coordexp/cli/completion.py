"""`--print-completion`: the script that completes verbs, options and paths in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from coordexp.cli.subparsers import named_path


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        import shtab  # takes longer to import than a short verb may take

        _, shell, *_ = args
        for action in path_arguments(parser):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab looks for it
        print(shtab.complete(parser, shell))
        parser.exit()


def path_arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser, and of its verbs, that are paths."""
    for action in parser._actions:
        if action.type is named_path:
            yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from path_arguments(sub)
