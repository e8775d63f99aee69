"""UserError, what raises it before a file is read, and how a command ends after it.

A command ends with one line and a non-zero exit code.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

LONGEST_WORD = 300  # characters; a path may be much longer
# What the machine refuses: the user can mend it, and the message of the system says what it is.
REFUSALS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.ETXTBSY,
}
# PyTorch tells of it in a RuntimeError: "DefaultCPUAllocator: can't allocate memory: …" on a CPU,
# "CUDA out of memory. …" on a GPU.
OUT_OF_MEMORY = r"can't allocate memory|\bout of memory\b"
ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], object]
# What a command that was stopped leaves.
CONTINUES = "the same command continues"
NOTHING_WRITTEN = "nothing was written"
# EX_TEMPFAIL of sysexits.h: a failure that the same command may not meet again.
RESUME = 75


class UserError(Exception):
    """An error that only the user can fix. The message is one line: what, where, what to do.

    It may repeat names and values of a file: what does not print is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class Interrupted(KeyboardInterrupt):
    """A stop that was asked for: what to tell the user (may be empty), and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def require_regular(path: Path) -> None:
    """Refuse what is not a file: reading a pipe waits for ever, and /dev/zero has no end.

    Raises:
        UserError: nothing is there, or a directory, a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # a NUL in the name
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: a directory, not a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: a pipe or a device, not a file")


def one_line(message: object) -> str:
    """A message as one printable line: other characters escaped, endless words shortened."""
    return " ".join(map(_shortened, escaped(str(message)).split(" ")))


def escaped(text: str) -> str:
    """The text in one line, with an escape for each character that does not print."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _shortened(word: str) -> str:
    if len(word) <= LONGEST_WORD:
        return word
    half = LONGEST_WORD // 2
    return f"{word[:half]}…{word[-half:]}"


# What a signal is answered with: what to tell the user, and the exit code. A scheduler sends either
# of these to a training, some time before it kills it.
_AGAIN = ("interrupted before its first step: the same command starts again", RESUME)
RESUMABLE = {signal.SIGTERM: _AGAIN, signal.SIGUSR1: _AGAIN}


@contextmanager
def reported(
    program: str,
    stopped: str = CONTINUES,
    answers: Mapping[signal.Signals, tuple[str, int]] | None = None,
) -> Iterator[None]:
    """End the process with one line after an error that the user can fix, Ctrl-C or a signal.

    What was printed is flushed before, so that a full disk behind the output is told in one line.

    Args:
        stopped: what a stop leaves, the end of its message.
        answers: what ends the process beside Ctrl-C; else SIGTERM with 143.

    Raises:
        SystemExit: code 1 after an error, 130 after Ctrl-C and 143 after SIGTERM, as shells do
            (or what `answers` says).
    """
    answers = answers or {signal.SIGTERM: (f"terminated: {stopped}", 143)}
    _open_standard_streams()
    _escape_unprintable()
    try:
        with _minding_ctrl_c(), _answering(answers), _flushed():
            yield
    except UserError as error:
        sys.exit(f"{program}: {one_line(error)}")
    except BrokenPipeError:
        sys.exit(1)  # the reader of the output has ended
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = (
            f"{os.fsdecode(error.filename)}: "
            if isinstance(error.filename, str | bytes | os.PathLike)
            else ""
        )
        sys.exit(f"{program}: {one_line(f'{where}{error.strerror}')}")
    except MemoryError:
        sys.exit(f"{program}: out of memory")
    except RuntimeError as error:
        if not re.search(OUT_OF_MEMORY, str(error)):
            raise
        sys.exit(f"{program}: out of memory: a smaller batch, adapter rank or picture needs less")
    except Interrupted as stop:
        if message := str(stop):
            print(f"\n{program}: {message}", file=sys.stderr)
        sys.exit(stop.code)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted: {stopped}", file=sys.stderr)
        sys.exit(130)
    finally:
        _drop_unwritable_output()


def tell_interruption(program: str, otherwise: ExceptHook) -> ExceptHook:
    """A `sys.excepthook` that tells of Ctrl-C in one line; other exceptions are left to
    `otherwise`. The interpreter then ends with 130, as after a traceback.

    For a program whose main function is another's, such as Snakemake.
    """

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"\n{program}: interrupted: {CONTINUES}", file=sys.stderr)
        else:
            otherwise(kind, error, traceback)

    return hook


def _open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams (`>&-`).

    A file that is opened later would else take the number of one, and what is meant for the stream
    would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _escape_unprintable() -> None:
    """Print what the output's encoding lacks, as ± in ASCII, by its escape."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def _flushed() -> Iterator[None]:
    """Flush the output at the end, also after `--help` and the like."""
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            sys.stdout.flush()
        raise
    sys.stdout.flush()


def _drop_unwritable_output() -> None:
    """Drop what cannot be written: the interpreter would write it again, with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)


@contextmanager
def _minding_ctrl_c() -> Iterator[None]:
    """Raise Interrupted at the end where Ctrl-C came and a library has dropped it: C code that asks
    for an attribute may clear whatever exception that raises.
    """
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # only the main thread may set a handler, and others have their own answer
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise Interrupted("interrupted, but it had finished", 130)


@contextmanager
def _answering(answers: Mapping[signal.Signals, tuple[str, int]]) -> Iterator[None]:
    """Raise Interrupted at these signals in this process, but not in the workers that it forks.

    A signal that the process ignores stays ignored.
    """
    owner = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Interrupted(*answers[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    heard = [n for n in answers if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
