"""Run a command for as long as the process that started this one lives.

    python -m coordexp.tracking.supervise COMMAND …

The parent holds the other end of standard input. However the parent ends, kill -9 included, that
end is closed, and every process of the command is ended: none is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

STOP_WITHIN_S = 10
POLL_S = 0.2


def main() -> int:
    """Returns the exit code of the command; a signal's is 128 and its number, as shells say it."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while command.poll() is None and not parent_has_ended():
        pass
    if command.returncode is None:
        command.terminate()
        with suppress(subprocess.TimeoutExpired):
            command.wait(STOP_WITHIN_S)
        os.killpg(0, signal.SIGKILL)  # this process, and what the command has left
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


def parent_has_ended() -> bool:
    """Wait a moment for the other end of standard input to be closed."""
    return bool(select.select([sys.stdin], [], [], POLL_S)[0])


if __name__ == "__main__":
    sys.exit(main())
