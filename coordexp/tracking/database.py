"""The MLflow database: its schema, its one writer, and what is said when it cannot be used.

MLflow tries ten times in 100 s to open a database that is damaged, adds tables of an old form where
some are missing, and logs a traceback. So SQLite looks at the file first. Waiting is bounded:
`LOCK_WAIT_S` for a lock that another process holds when the database is opened, and as long again
in a statement of MLflow.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.base_sql_model import Base
from sqlalchemy.exc import SQLAlchemyError

from coordexp.errors import UserError, first_line
from coordexp.storage.files import DISK_FULL, locked, sync
from coordexp.tracking.experiment import ROOT

DATABASE = ROOT / "mlflow.db"
LOCK_WAIT_S = 20  # MLflow waits as long in each of its statements
COPIES = f"remove {ROOT} and import again, it holds copies only"
DAMAGED = f"not a database that MLflow can read: {COPIES}"
LOCKED = "locked by another process: import again when that has ended"
FULL = "the disk is full: free some space and import again"
NOT_WRITTEN = (
    "the disk does not take it (full, faulty, or files larger than `ulimit -f` allows): "
    "mend that and import again"
)
READ_ONLY = f"may not be written: make {ROOT} and its files writable, and import again"
KEPT_OUT = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # something else is in a file's place
MOVE_AWAY = "something else is in its place: move that away, and import again"
# What is wrong and what to do, by SQLite's primary error code.
REFUSALS = {
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: NOT_WRITTEN,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: READ_ONLY,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}
PRIMARY = 0xFF  # the bits of the primary code in an extended one

# What it logs, with a traceback, is told in one line here.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


class DatabaseUnavailableError(UserError):
    """No run can be imported now, whatever it holds."""


@contextmanager
def writable_database() -> Iterator[MlflowClient]:
    """MLflow's client, for one process at a time; the schema is made where there is none.

    Raises:
        DatabaseUnavailableError: the database is locked, damaged, read-only or of another version
            of MLflow, or the disk is full.
        UserError: MLflow or the file system refused what was to be written.
    """
    with refusals_in_one_line(), locked(ROOT / ".lock", "MLflow is being written", wait=True):
        if DATABASE.exists() and not DATABASE.is_file():
            raise DatabaseUnavailableError(f"{DATABASE}: not a file: {MOVE_AWAY}")
        if DATABASE.exists() and DATABASE.stat().st_size:
            require_usable()
        else:
            create_schema()
        # An absolute path: MLflow keeps an engine for each URI.
        uri = f"sqlite:///{DATABASE.resolve()}"
        yield MlflowClient(uri, registry_uri=uri)


def require_usable() -> None:
    """Refuse a database that cannot be written, or that this MLflow cannot read.

    Raises:
        DatabaseUnavailableError: it has another schema than this MLflow.
        sqlite3.Error: it is locked, damaged or read-only.
    """
    uri = f"{DATABASE.resolve().as_uri()}?mode=rw"
    connecting = sqlite3.connect(uri, uri=True, timeout=LOCK_WAIT_S, isolation_level=None)
    with closing(connecting) as connection:
        connection.execute("BEGIN IMMEDIATE")  # waits for the lock of a writer
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if missing := sorted({"alembic_version", *Base.metadata.tables} - names):
            raise DatabaseUnavailableError(f"{DATABASE}: lacks the table {missing[0]}: {COPIES}")
        (revision,) = connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()
        connection.execute("ROLLBACK")
    current, known = schema_revisions()
    if revision in known - {current}:
        raise DatabaseUnavailableError(
            f"{DATABASE}: of an older MLflow: `mlflow db upgrade sqlite:///{DATABASE}` brings it "
            f"to version {mlflow.__version__}; or {COPIES}"
        )
    if revision != current:
        raise DatabaseUnavailableError(
            f"{DATABASE}: of a newer MLflow than {mlflow.__version__}: use that one; or {COPIES}"
        )


@cache
def schema_revisions() -> tuple[str | None, set[str]]:
    """The schema of this MLflow, and all that it knows how to upgrade."""
    migrations = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    known = {script.revision for script in migrations.walk_revisions()}
    return migrations.get_current_head(), known


def create_schema() -> None:
    """An empty database, under another name first: a kill leaves no half of a schema.

    The workflow's marks of what the former one held are removed, so that it imports again.
    """
    for left in ROOT.glob(".new-*"):
        shutil.rmtree(left, ignore_errors=True)
    for mark in ROOT.glob("*.imported"):
        mark.unlink()
    with tempfile.TemporaryDirectory(prefix=".new-", dir=ROOT) as directory:
        new = Path(directory).resolve() / DATABASE.name
        MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
        sync(new)
        os.replace(new, DATABASE)
        sync(ROOT)


@contextmanager
def refusals_in_one_line() -> Iterator[None]:
    """Raises UserError: MLflow, its database or the disk refused what was to be written."""
    try:
        yield
    except DatabaseUnavailableError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, UserError) as error:
        if refusal := database_refusal(error):
            raise DatabaseUnavailableError(refusal) from error
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{ROOT}: the import into MLflow failed ({first_line(error)}): results are not "
            f"affected; mend it, or remove {ROOT}, which holds copies only, and import again"
        ) from error


def database_refusal(error: BaseException) -> str | None:
    """What is wrong and what to do, if the database or its disk is the cause of an error."""
    for cause in causes(error):
        if isinstance(cause, sqlite3.Error):
            code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY
            if code in REFUSALS:
                return f"{DATABASE}: {REFUSALS[code]}"
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return f"{ROOT}: {FULL}"
        if isinstance(cause, OSError) and cause.errno == errno.EFBIG:
            return f"{ROOT}: {NOT_WRITTEN}"
        if isinstance(cause, OSError) and is_below_root(cause.filename):
            if cause.errno in KEPT_OUT:
                return f"{cause.filename}: {cause.strerror}: {READ_ONLY.partition(': ')[2]}"
            if cause.errno in IN_THE_WAY:
                return f"{cause.filename}: {cause.strerror}: {MOVE_AWAY}"
    return None


def is_below_root(path: object) -> bool:
    """Whether an OSError names the database's directory or something in it."""
    return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(
        ROOT.absolute()
    )


def is_locked(error: BaseException) -> bool:
    """Whether another process's lock is the cause of an error."""
    return (database_refusal(error) or "").endswith(LOCKED)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
