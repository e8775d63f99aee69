"""sha256 of files, remembered between commands: checking an unchanged file again costs a stat.

A digest counts while path, size, inode and modification time of its file are the same. The store is
a cache: it may be removed at any time, and where it cannot be used every file is read.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from coordexp.errors import UserError
from coordexp.storage.files import files_below, sha256_file, sha256_of_tree
from coordexp.storage.runs import RESULTS

STORE = RESULTS / ".digests.sqlite"
WAIT_S = 5.0  # for another process that writes to the store
# A file that changed less than this before it was read may change again within one tick of the
# clock of modification times: its digest is not remembered.
SETTLED_NS = 2_000_000_000

Stamp = tuple[int, int, int]  # size, inode, mtime_ns
# What this process has read. A study asks for the same files once for each of its runs, also where
# there is no store yet.
_READ: dict[tuple[str, Stamp], str] = {}


def known_sha256(path: Path) -> str:
    """sha256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    return known_sha256s([path])[path]


def known_sha256_directory(path: Path) -> str:
    """One digest over the names and contents below `path`, as `files.sha256_directory` gives."""
    return sha256_of_tree(path, known_sha256s(files_below(path)))


def require_sha256(path: Path, recorded: str, where: str, advice: str) -> None:
    """Refuse a file or directory that is not what was recorded of it.

    Args:
        where: the file that holds the digest.
        advice: what to do, the end of the message.

    Raises:
        UserError: it is missing, or has another digest.
    """
    if not path.exists():
        raise UserError(f"{path}: missing, but {where} records it: {advice}")
    found = known_sha256_directory(path) if path.is_dir() else known_sha256(path)
    if found != recorded:
        raise UserError(
            f"{path}: changed or damaged: its sha256 is {found[:12]}, and {where} recorded "
            f"{recorded[:12]}: {advice}"
        )


def known_sha256s(paths: Sequence[Path]) -> dict[Path, str]:
    """sha256 of each file, in this order; those that the store does not know are read and
    remembered.
    """
    stamps = {path: _stamp(path) for path in paths}
    found = _remembered(stamps)
    new = {}
    for path in stamps.keys() - found.keys():
        new[path] = sha256_file(path)
        unchanged = _stamp(path) == stamps[path]
        if not unchanged or time.time_ns() - stamps[path][2] < SETTLED_NS:
            del stamps[path]
    _remember({path: (stamps[path], sha256) for path, sha256 in new.items() if path in stamps})
    sha256s = found | new
    return {path: sha256s[path] for path in paths}


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns


def _remembered(stamps: Mapping[Path, Stamp]) -> dict[Path, str]:
    """The digests whose stamp is still that of the file."""
    keys = {path: (os.path.abspath(path), stamp) for path, stamp in stamps.items()}
    found = {path: _READ[key] for path, key in keys.items() if key in _READ}
    unread = [path for path in keys if path not in found]
    if not unread or not STORE.is_file():
        return found
    try:
        with closing(sqlite3.connect(STORE, timeout=WAIT_S)) as store:
            for path in unread:
                name, stamp = keys[path]
                row = store.execute(
                    "SELECT sha256, seal FROM sealed_digests WHERE path = ?", (name,)
                ).fetchone()
                if row and row[1] == _seal(name, stamp, row[0]):
                    found[path] = row[0]
    except (sqlite3.Error, UnicodeDecodeError):  # locked or damaged: the files themselves are read
        return found
    return found


def _seal(path: str, stamp: Stamp, sha256: str) -> str:
    """Digest of an entry: it is that of the file as it is, and no bit of it is damaged."""
    return hashlib.sha256(f"{path}\0{stamp}\0{sha256}".encode()).hexdigest()


def _remember(new: Mapping[Path, tuple[Stamp, str]]) -> None:
    """Add digests to the store, or remove it where it is damaged."""
    keys = {(os.path.abspath(path), stamp): sha256 for path, (stamp, sha256) in new.items()}
    _READ.update(keys)
    if not new or not RESULTS.is_dir():
        return
    try:
        _write(
            [(path, sha256, _seal(path, stamp, sha256)) for (path, stamp), sha256 in keys.items()]
        )
    except sqlite3.OperationalError:  # locked, read-only, full: nothing is remembered
        return
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # not a database, or a damaged one
        STORE.unlink(missing_ok=True)


def _write(rows: Iterable[tuple[str, str, str]]) -> None:
    with closing(sqlite3.connect(STORE, timeout=WAIT_S)) as store, store:
        store.execute("PRAGMA synchronous = OFF")
        store.execute(
            "CREATE TABLE IF NOT EXISTS sealed_digests "
            "(path TEXT PRIMARY KEY, sha256 TEXT, seal TEXT) WITHOUT ROWID"
        )
        store.executemany("REPLACE INTO sealed_digests VALUES (?, ?, ?)", rows)
