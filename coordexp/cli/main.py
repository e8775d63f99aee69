"""The entry point of `coordexp`. Its verbs and their arguments are in arguments.py."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.errors import NOTHING_WRITTEN, reported


def main(arguments: Sequence[str] | None = None) -> None:
    with reported("coordexp", NOTHING_WRITTEN):
        # Imported here, because the import takes up to a second: Ctrl-C then also gives one line.
        from coordexp.cli.arguments import parse
        from coordexp.config.overrides import refuse_repeated

        args = parse(arguments)
        refuse_repeated(getattr(args, "overrides", ()), "command line")
        with reported("coordexp", args.stopped):
            args.verb(args)
