"""Import what the runs write while it is written, and say once what prevents it."""

from __future__ import annotations

import sys
from pathlib import Path

from coordexp.errors import UserError, one_line
from coordexp.storage.runs import RESULTS, RunDirectory
from coordexp.tracking.database import DATABASE, DatabaseUnavailableError
from coordexp.tracking.mlflow_import import create_database, import_run

RUNS = RESULTS / "runs"

Stamp = list[tuple[int, int]]  # modification time (ns) and size of a run's log and manifest
FileIdentity = tuple[int, int]  # device and inode


class Follower:
    """Imports each run again when its log or manifest has changed.

    A run that cannot be read does not prevent the import of the others, and is tried again when it
    has changed. A database that cannot be used is tried again in the next round. What prevents an
    import is said when it arises, and not again before it has gone.
    """

    def __init__(self) -> None:
        self._imported: dict[Path, Stamp] = {}
        self._unreadable: dict[Path, str] = {}
        self._said: set[str] = set()
        self._database = database_identity()

    def import_changes(self) -> None:
        """One round over all runs."""
        obstacles = set()
        try:
            self._import_changed_runs()
        except UserError as error:
            obstacles = {str(error)}
        except OSError as error:
            obstacles = {f"{RESULTS}: cannot be read ({error.strerror})"}
        obstacles |= set(self._unreadable.values())
        for message in sorted(obstacles - self._said):
            say(f"not imported: {message}")
        if self._said and not obstacles:
            say("importing again")
        self._said = obstacles

    def _import_changed_runs(self) -> None:
        self._follow_database()
        paths = [path for path in sorted(RUNS.glob("*/*")) if ".aside-" not in path.name]
        for gone in self._unreadable.keys() - set(paths):
            del self._unreadable[gone]
        for path in paths:
            self._import_if_changed(RunDirectory(path))

    def _follow_database(self) -> None:
        """Make the database again if it was removed, and import all into one that is another.

        Raises:
            DatabaseUnavailableError: it is gone, and so are the runs it could be made from.
        """
        if not RUNS.is_dir() and not DATABASE.exists():
            raise DatabaseUnavailableError(f"{RESULTS}: gone: waiting for it to come back")
        if (found := database_identity()) != self._database or found is None:
            create_database()
            self._database = database_identity()
            self._imported.clear()

    def _import_if_changed(self, run: RunDirectory) -> None:
        """Raises DatabaseUnavailableError: no run can be imported now."""
        try:
            stamp = stamp_of(run)
            if self._imported.get(run.path) == stamp:
                return
            import_run(run)
        except FileNotFoundError:
            return  # the run has just been moved aside
        except DatabaseUnavailableError:
            raise
        except OSError as error:
            self._unreadable[run.path] = f"{run.path}: cannot be read ({error.strerror})"
            return
        except UserError as error:
            self._unreadable[run.path] = str(error)
        else:
            self._unreadable.pop(run.path, None)
        self._imported[run.path] = stamp


def say(message: str) -> None:
    print(one_line(message), file=sys.stderr, flush=True)


def database_identity() -> FileIdentity | None:
    """Which file the database is; None where there is none."""
    try:
        facts = DATABASE.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def stamp_of(run: RunDirectory) -> Stamp:
    stamp = []
    for file in (run.log, run.manifest):
        if file.exists():
            facts = file.stat()
            stamp.append((facts.st_mtime_ns, facts.st_size))
    return stamp
