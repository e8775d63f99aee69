"""What a reader may do with hostile input: return, or refuse in one line. All else is a finding.

It may neither write outside the results, nor start a process, nor connect, nor take more than
5 seconds of CPU or a gigabyte, nor wait for ever.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from coordexp.errors import REFUSALS, UserError

CPU_SECONDS = 5
SECONDS = 60  # on the clock: what waits for ever takes no CPU, and a busy machine takes its time
BYTES = 2**30  # beyond what the process has when a kind begins
TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that change a file, and which of their arguments are paths: (path, its dir_fd).
CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.link": ((1, 3),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "sqlite3.connect": ((0, None),),
}
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")


class Forbidden(BaseException):  # no reader may catch it
    """A reader wrote outside the results, started a process or connected."""


class Hang(BaseException):
    """A reader took more than CPU_SECONDS, or SECONDS on the clock."""


class _Watch:
    active = False
    allowed: Sequence[str] = ()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _Watch.active:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & WRITING:
            _require_allowed(event, path, None)
    elif event in CHANGES:
        for at, fd in CHANGES[event]:
            if isinstance(arguments[at], str | bytes):
                _require_allowed(event, arguments[at], arguments[fd] if fd else None)
    elif event in FORBIDDEN:
        raise Forbidden(f"{event}: {arguments!r}")


def _require_allowed(event: str, path: str | bytes, dir_fd: int | None) -> None:
    name = os.fsdecode(path)
    if name in (":memory:", os.devnull):
        return
    if not os.path.isabs(name):
        base = os.getcwd() if dir_fd in (None, -1) else os.readlink(f"/proc/self/fd/{dir_fd}")
        name = os.path.join(base, name)
    # The directory by its real path; the name itself may be a link that is replaced.
    real = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
    if not any(real == root or real.startswith(f"{root}/") for root in _Watch.allowed):
        raise Forbidden(f"{event}: {name}")


def _too_long(number: int, _: FrameType | None) -> None:
    raise Hang(f"too long ({signal.Signals(number).name})")


sys.addaudithook(_audit)


@contextmanager
def limited(*allowed: Path) -> Iterator[None]:
    """Limit what `watched` blocks write (below `allowed`) and how much memory they take."""
    before = {number: signal.signal(number, _too_long) for number in TIMERS.values()}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, hard))
    _Watch.allowed = [os.path.realpath(path) for path in allowed]
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched() -> Iterator[None]:
    """Raises Forbidden and Hang, see above."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _Watch.active = True
    try:
        yield
    finally:
        _Watch.active = False
        for timer in TIMERS:
            signal.setitimer(timer, 0)


def refusal(error: BaseException) -> str | None:
    """The line that a command prints after an error; None if it would end in a traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return str(error)
    if isinstance(error, SystemExit) and error.code in (0, 2):
        return ""  # argparse has printed the usage
    return None
