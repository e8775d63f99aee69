"""Kill a command at a chosen system call: strace records the calls of a writer, and injects kills.

A child of the fork server stops itself; strace attaches to it, and lets it go on.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training import TIMEOUT_S, Child, ForkServer, wait_for

OPENS = ("open", "openat", "creat")
CALLS = (
    *OPENS,
    *("write", "writev", "pwrite64", "sendfile", "copy_file_range", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "symlink", "link"),
    *("unlink", "unlinkat", "mkdir", "rmdir"),
)
CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (\?|-?\d+)")
NUMBER_OF_FD = re.compile(r"\d+<(/[^>]*)>")
TEXT = re.compile(r'"([^"]*)"')
DIRECTORY = re.compile(r"(?:AT_FDCWD|\d+)<([^>]*)>, \"")


@dataclass(frozen=True)
class Call:
    """A system call on a file.

    path: absolute; of a rename that of the old name.
    of_path, of_thread: its number among the calls of this name by this thread, on this path and on
        any; from 1. strace counts either.
    """

    name: str
    path: str
    thread: int
    of_path: int
    of_thread: int
    writes: bool
    has_ended: bool
    is_named_whole: bool  # by its whole path: strace can select it by that


def traced(
    server: ForkServer, cwd: Path, log: Path, options: Callable[[int], list[str]], *arguments, **how
) -> Child:
    """A command that strace has followed from its first call, with its workers; it has ended.

    Args:
        log: the file strace writes to.
        options: strace's, for a process id.
    """
    child = server.start(cwd, *arguments, fault=("stop_until_traced",), **how)
    wait_for(lambda: state_of(child.pid) == "T")
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), *options(child.pid)]
    command += ["-p", str(child.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr
        while "attached" not in (line := tracer.stderr.readline()):
            assert line, f"strace could not attach: {shlex.join(command)}"
        child.signal(signal.SIGCONT)
        tracer.communicate(timeout=TIMEOUT_S)  # until every worker has ended
    return child.wait()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def recorded(
    server: ForkServer, cwd: Path, log: Path, *arguments: str, **how: str
) -> tuple[Child, list[Call]]:
    """A command that ends undisturbed, and its calls on files below cwd/results."""
    options = ["-e", f"trace={','.join(CALLS)}"]
    child = traced(server, cwd, log, lambda _: options, *arguments, **how)
    below = f"{cwd}/results/"
    return child, [call for call in calls_of(log, cwd) if call.path.startswith(below)]


def calls_of(log: Path, cwd: Path) -> Iterator[Call]:
    of_path: Counter[tuple[int, str, str]] = Counter()
    of_thread: Counter[tuple[int, str]] = Counter()
    for line in whole_lines(log.read_text(errors="replace")):
        if not (found := CALL.match(line)):
            continue
        thread, name, arguments = int(found[1]), found[2], found[3]
        of_thread[thread, name] += 1
        path, is_named_whole = path_of(name, arguments, cwd)
        of_path[thread, name, path] += 1
        writes = name not in OPENS or "O_CREAT" in arguments or "O_TRUNC" in arguments
        numbers = of_path[thread, name, path], of_thread[thread, name]
        yield Call(name, path, thread, *numbers, writes, found[4] != "?", is_named_whole)


def whole_lines(text: str) -> Iterator[str]:
    """Lines of strace's log; a call that another thread interrupted is told in two of them."""
    started: dict[str, str] = {}
    for line in text.splitlines():
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            started[thread] = rest.removesuffix("<unfinished ...>")
        elif rest.startswith("<... "):
            end = rest.partition(" resumed>")[2]
            yield f"{thread} {started.pop(thread, '')}{end}"
        else:
            yield line
    for thread, start in started.items():  # killed in it
        yield f"{thread} {start.rstrip(', ')}) = ?"


def path_of(name: str, arguments: str, cwd: Path) -> tuple[str, bool]:
    """The file a call is about, and whether its arguments name it by its whole path."""
    is_relative = name.endswith(("at", "at2"))
    if is_relative and (named := DIRECTORY.match(arguments)):
        text = TEXT.search(arguments)
        assert text
        path = Path(named[1], text[1])
        return str(path), named[1] == str(cwd) or text[1].startswith("/")
    if arguments.startswith('"'):
        text = TEXT.match(arguments)
        assert text
        return str(Path(cwd, text[1])), True
    opened = NUMBER_OF_FD.match(arguments)
    return (opened[1] if opened else ""), True


@dataclass(frozen=True)
class Point:
    """Where to kill: before the n-th call of this name, on a path (below the directory of the
    command; {pid} stands for its process) or, where that is not known beforehand, of a thread.
    """

    name: str
    path: str  # may be a pattern for people if by_path is False
    number: int
    by_path: bool


def killed_at(
    server: ForkServer, cwd: Path, log: Path, point: Point, *arguments: str, **how: str
) -> tuple[Child, Call | None]:
    """The child, and the call before which it or a worker was killed (None: none was)."""

    def options(pid: int) -> list[str]:
        chosen = ["-e", f"trace={point.name}"]
        chosen += ["-e", f"inject={point.name}:signal=KILL:when={point.number}"]
        if point.by_path:
            path = point.path.format(pid=pid)
            chosen += ["-P", f"{cwd}/{path}", "-P", path]
        return chosen

    child = traced(server, cwd, log, options, *arguments, **how)
    return child, landing(log, cwd)


def landing(log: Path, cwd: Path) -> Call | None:
    """The call in which strace's kill came: it has no result."""
    if "+++ killed by SIGKILL +++" not in log.read_text(errors="replace"):
        return None
    return next((call for call in calls_of(log, cwd) if not call.has_ended), None)
