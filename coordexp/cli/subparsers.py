"""How `coordexp` adds a verb, and the arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from coordexp.errors import CONTINUES, one_line
from coordexp.storage.runs import RESULTS

Verb = Callable[[argparse.Namespace], None]
Subparsers = argparse._SubParsersAction  # argparse has no public name for it


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line; argparse prints the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f"{self.prog}: {one_line(message)} (`{self.prog} --help` lists the arguments)\n"
        )


def add_verb(
    subparsers: Subparsers, name: str, verb: Verb, help_text: str, stopped: str = CONTINUES
) -> argparse.ArgumentParser:
    """The parser of one verb; its longer description is the docstring of the function.

    `stopped` says what the verb leaves where it is stopped.
    """
    sub: argparse.ArgumentParser = subparsers.add_parser(
        name, help=help_text, description=verb.__doc__
    )
    sub.set_defaults(verb=verb, stopped=stopped)
    return sub


def named_path(word: str) -> Path:
    """A path that was given. An empty one, of a variable that is not set, would be the directory
    where the command runs.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not word:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(word)


def add_overrides(sub: argparse.ArgumentParser, help_text: str) -> None:
    sub.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=help_text)


def add_repeated(sub: argparse.ArgumentParser, option: str, metavar: str, help_text: str) -> None:
    """An option that may be given several times; its value is a list."""
    sub.add_argument(
        option, action="append", default=[], metavar=metavar, help=f"{help_text}; may be repeated"
    )


def add_results(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "results", type=named_path, nargs="?", default=RESULTS, help="default: results"
    )
