"""Text that stays, and below it lines that are drawn again; a file takes only what stays."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from typing import TextIO

UP, CLEAR_BELOW = "\x1b[{n}A", "\x1b[J"
FILE_EVERY_S = 60  # a file gets the changing lines this often, as one line


class Screen:
    """A terminal, or a file that takes no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0  # lines that the next text replaces
        self._last_in_file_s = time.monotonic()
        self._last_in_file = ""

    def say(self, text: str) -> None:
        """Write text that stays."""
        self.erase()
        self._stream.write(text + "\n")
        self._stream.flush()

    def show(self, lines: Sequence[str]) -> None:
        """Draw the changing lines in place of the last ones."""
        if not self.is_terminal:
            self._tell_file("; ".join(line.strip() for line in lines))
            return
        width, height = shutil.get_terminal_size()
        shown = [line[: width - 1] for line in lines[: height - 1]]
        self.erase()
        self._stream.write("\n".join(shown))
        self._stream.flush()
        self._drawn = len(shown)

    def erase(self) -> None:
        """Remove the changing lines."""
        if self._drawn:
            up = UP.format(n=self._drawn - 1) if self._drawn > 1 else ""
            self._stream.write(f"\r{up}{CLEAR_BELOW}")
            self._stream.flush()
            self._drawn = 0

    def _tell_file(self, line: str) -> None:
        now_s = time.monotonic()
        if line != self._last_in_file and now_s - self._last_in_file_s >= FILE_EVERY_S:
            self._last_in_file, self._last_in_file_s = line, now_s
            self.say(f"{clock()}  {line}")


def clock() -> str:
    return time.strftime("%H:%M:%S")
