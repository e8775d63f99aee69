"""Atomic writes: to a temporary name, then fsync and rename, so that a kill leaves no partial file.

Also digests of files, and a lock that lets only one process at a time write to a directory.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from coordexp.errors import UserError, require_regular

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DAMAGED = (
    "damaged, or written by another version: restore it, or remove its directory and run again"
)


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary_beside(path: Path) -> Path:
    """A name for what becomes `path`; it ends in the id of this process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` that killed processes have left."""
    for temporary in list(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
        if is_abandoned(temporary):
            temporary.unlink(missing_ok=True)


def is_abandoned(temporary: Path) -> bool:
    """Whether no running process has the id that the name of a temporary file ends in."""
    pid = temporary.name.split(".")[-2]
    return not (pid.isdecimal() and is_running(int(pid)))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`.

    If the block ends without an error, the file is fsynced and renamed to `path`. Otherwise it is
    removed, and an earlier file at `path` is unchanged. What a killed process has left of the same
    file is removed.

    Raises:
        UserError: the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        if os.path.lexists(temporary):
            temporary.unlink()


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk while writing `path` into a one-line UserError.

    Libraries in Rust and C++ report a full disk only in the message of the exception, not by errno.

    Raises:
        UserError: the disk is full, or the file would be larger than `ulimit -f` allows.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise UserError(
                f"{path}: larger than files may be here: raise the limit (`ulimit -f`) "
                "and start the same command again"
            ) from error
        if getattr(error, "errno", None) in DISK_FULL or "No space left" in str(error):
            advice = "free some space and start the same command again, "
            advice += "it continues where it stopped"
            raise UserError(f"{path}: the disk is full: {advice}") from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON. A NaN raises ValueError: it is a bug in the caller."""
    write_bytes(path, json_content(value))


def json_content(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a column for each key, in order of appearance; missing values stay empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: it is missing, is not a file, or cannot be read.
    """
    require_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path, advice: str = DAMAGED) -> Any:
    """The content of a JSON file. `advice` is the end of the error message: it says what to do.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")  # Windows tools mark UTF-8
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{path}: not valid JSON (nested too deeply): {advice}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}): {advice}") from error


def write_with_checksum(path: Path, payload: bytes) -> None:
    """Write bytes after their own sha256 (32 bytes)."""
    write_bytes(path, hashlib.sha256(payload).digest() + payload)


def read_with_checksum(path: Path, advice: str) -> bytes:
    """The bytes that `write_with_checksum` wrote.

    Raises:
        UserError: they do not have the checksum before them; `advice` says what to do.
    """
    content = read_bytes(path)
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        raise UserError(f"{path}: damaged (its checksum does not match): {advice}")
    return content[size:]


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        UserError: nothing is there, or it is not a file.
    """
    require_regular(path)
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_files(files: Iterable[Path]) -> str:
    """One digest over the contents of files, in this order."""
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def sha256_directory(path: Path) -> str:
    """One digest over the names and contents of every file below `path`."""
    return sha256_of_tree(path, {file: sha256_file(file) for file in files_below(path)})


def files_below(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def sha256_of_tree(root: Path, digests: Mapping[Path, str]) -> str:
    """One digest over the names below `root` of files, and the sha256 of each."""
    total = hashlib.sha256()
    for file in sorted(digests):
        total.update(f"{file.relative_to(root).as_posix()}\0{digests[file]}\n".encode())
    return total.hexdigest()


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path`.

    If the block ends without an error, every file is fsynced and the directory replaces `path`.
    Whoever may read the directory may read its files; some libraries keep theirs for their owner.

    Raises:
        UserError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming_full_disk(path):
            temporary.mkdir(parents=True)
            yield temporary
            may_read = temporary.stat().st_mode & 0o666  # as the umask says
            for item in temporary.rglob("*"):
                if item.is_file():
                    item.chmod(may_read)
                sync(item)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def point_link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, atomically."""
    link.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(link)
    temporary = temporary_beside(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    os.replace(temporary, link)
    sync(link.parent)


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. The kernel releases the lock whenever the process ends.

    `lockf` takes the lock: worker processes would inherit a lock of `flock`. Only the holder may
    unlink the file. With `wait`, wait until another holder releases the lock.

    Raises:
        UserError: another process holds it (unless `wait`), naming its pid.
    """
    handle = acquired(path, what, wait)
    while not is_same_file(handle, path):  # the holder before has removed it with its directory
        handle.close()
        handle = acquired(path, what, wait)
    with handle:
        with naming_full_disk(path):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n".encode())
        yield


def acquired(path: Path, what: str, wait: bool) -> io.FileIO:
    """The opened lock file, locked."""
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: after a write fails on a full disk, close() would try to write a buffer again.
        handle = io.FileIO(path, "a+")
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        pid = handle.read().decode().strip() or "unknown"
        busy = f"{path.parent}: {what} by process {pid} already"
        if not wait:
            handle.close()
            raise UserError(f"{busy}: wait for it, or stop it, and start again") from error
        print(f"{busy}: waiting for it", file=sys.stderr, flush=True)
        fcntl.lockf(handle, fcntl.LOCK_EX)
    return handle


def is_same_file(handle: io.FileIO, path: Path) -> bool:
    """Whether the opened file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
