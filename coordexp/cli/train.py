"""Entry point of `coordexp-train`."""

from __future__ import annotations

import sys

from coordexp.errors import RESUMABLE, reported


def main() -> None:
    """Train, or say what each setting means."""
    with reported("coordexp-train", answers=RESUMABLE):
        from coordexp.config.command_line import parse_flags

        flags = parse_flags(sys.argv[1:])
        if flags.help:
            from coordexp.cli.settings_page import help_text

            print(help_text(flags.overrides))
        else:
            from coordexp.training.launch import launch

            launch(sys.argv[1:])
