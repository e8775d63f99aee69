"""A database that cannot be used: one line in bounded time, and nothing is lost or doubled."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tracked_runs import (
    EVAL,
    FORK,
    TRAIN,
    client,
    counts,
    finish,
    log,
    make_run,
    query,
)

from coordexp.errors import UserError
from coordexp.tracking import database
from coordexp.tracking import mlflow_import as tracking
from coordexp.tracking.database import DATABASE, DatabaseUnavailableError

pytest_plugins = ("tracking_fixtures",)
pytestmark = pytest.mark.usefixtures("project")


def overwrite() -> None:
    DATABASE.write_bytes(os.urandom(DATABASE.stat().st_size))


def truncate() -> None:
    os.truncate(DATABASE, DATABASE.stat().st_size // 2)


def overwrite_a_third() -> None:
    content = bytearray(DATABASE.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = os.urandom(third)
    DATABASE.write_bytes(content)


def changed(sql: str) -> Callable[[], None]:
    def change() -> None:
        with sqlite3.connect(DATABASE) as connection:
            connection.execute(sql)

    return change


def be_a_directory() -> None:
    DATABASE.unlink()
    DATABASE.mkdir()


def be_a_file() -> None:
    shutil.rmtree(database.ROOT)
    database.ROOT.write_text("mine")


REVISION = "update alembic_version set version_num = '{}'"
REMOVE = r"remove results/mlflow and import again"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwrite, rf"mlflow\.db: not a database that MLflow can read: {REMOVE}"),
        (truncate, rf"mlflow\.db: not a database that MLflow can read: {REMOVE}"),
        (overwrite_a_third, rf"mlflow\.db: .*{REMOVE}"),
        (changed("drop table metrics"), rf"mlflow\.db: lacks the table metrics: {REMOVE}"),
        (changed("drop table alembic_version"), r"lacks the table alembic_version"),
        (changed("delete from alembic_version"), r"of a newer MLflow than 3\."),
        (changed(REVISION.format("451aebb31d03")), r"of an older MLflow: `mlflow db upgrade"),
        (changed(REVISION.format("f" * 12)), r"of a newer MLflow than 3\..*: use that one; or"),
        (be_a_directory, r"mlflow\.db: not a file: .*: move that away, and import again"),
        (be_a_file, r"results/mlflow: File exists: .*: move that away, and import again"),
    ],
)
def test_damage_is_one_line_at_once(damage: Callable[[], None], message: str) -> None:
    run = finish(make_run())
    damage()
    started = time.process_time()
    with pytest.raises(DatabaseUnavailableError, match=message) as caught:
        tracking.import_run(run)
    assert time.process_time() - started < 5, "MLflow retries for 100 s"
    assert len(str(caught.value).splitlines()) == 1


def test_empty_database_is_made() -> None:
    DATABASE.write_bytes(b"")
    killed = tracking.ROOT / ".new-killed"  # what a killed importer leaves
    killed.mkdir()
    (killed / "mlflow.db").write_bytes(b"half a schema")
    tracking.import_run(finish(make_run()))
    assert counts()["runs"] == 1
    assert not list(tracking.ROOT.glob(".new-*"))


def test_replaced_database_is_the_one_that_is_written() -> None:
    run = finish(make_run())
    shutil.copy(DATABASE, "backup")
    tracking.import_run(run)
    os.replace("backup", DATABASE)
    tracking.import_run(run)
    assert counts()["runs"] == 1


def lock(mode: str = "EXCLUSIVE") -> sqlite3.Connection:
    """A lock as another process holds it, until the connection is closed."""
    holder = sqlite3.connect(DATABASE, isolation_level=None, check_same_thread=False)
    holder.execute(f"BEGIN {mode}")
    return holder


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "IMMEDIATE"])
def test_lock_is_waited_for_and_then_told(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finish(make_run())
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.1)
    holder = lock(mode)
    with pytest.raises(DatabaseUnavailableError, match=r"mlflow\.db: locked by another process"):
        tracking.import_run(run)
    holder.close()

    monkeypatch.setattr(database, "LOCK_WAIT_S", 20)
    holder = lock(mode)
    threading.Timer(0.5, holder.close).start()
    assert client().get_run(tracking.import_run(run)).info.status == "FINISHED"


def test_lock_within_an_import_is_told_and_marks_nothing() -> None:
    run_id = tracking.import_run(make_run())
    holder = lock()
    impatient = create_engine(f"sqlite:///{DATABASE}", connect_args={"timeout": 0})
    started = time.monotonic()
    with (
        pytest.raises(DatabaseUnavailableError, match="locked by another process: import again"),
        database.refusals_in_one_line(),
        tracking.marking_failure(client(), run_id),
        impatient.connect() as connection,
    ):
        connection.execute(text("SELECT name FROM experiments"))
    assert time.monotonic() - started < database.LOCK_WAIT_S / 2
    holder.close()
    assert client().get_run(run_id).info.status == "RUNNING"


def import_within(limit: int) -> None:
    """Import where no file may be larger; the exit code says what came of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    (run,) = map(tracking.RunDirectory, Path("results/runs").glob("*/*"))
    try:
        tracking.import_run(run)
    except DatabaseUnavailableError as error:
        sys.exit(17 if "the disk does not take it" in str(error) else 1)


def test_full_disk_is_one_line_and_the_next_import_completes() -> None:
    run = make_run()
    log(run, "train", 6, {"loss": 1.0} | {f"many/{i}": float(i) for i in range(3000)})
    finish(run)
    limit = DATABASE.stat().st_size + 16384
    limited = FORK.Process(target=import_within, args=(limit,))
    limited.start()
    limited.join(60)
    assert limited.exitcode == 17
    tracking.import_run(run)
    assert counts()["metrics"] == 2 * len(TRAIN) + len(EVAL) + 3001


@pytest.mark.parametrize("path", ["results/mlflow/.lock", "results/mlflow/artifacts/1"])
def test_denied_file_of_the_database_is_one_line(path: str) -> None:
    with (
        pytest.raises(DatabaseUnavailableError, match=f"{path}: Permission denied: make results"),
        database.refusals_in_one_line(),
    ):
        raise PermissionError(13, "Permission denied", path)


def test_killed_imports_lose_and_double_nothing() -> None:
    run = make_run()
    log(run, "train", 6, {"loss": 1.0} | {f"many/{i}": float(i) for i in range(2000)})
    finish(run)
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        importer = FORK.Process(target=tracking.import_run, args=(run,))
        importer.start()
        importer.join(delay_s)
        importer.kill()
        importer.join()
    run_id = tracking.import_run(run)
    assert (counts()["runs"], counts()["metrics"]) == (1, 2 * len(TRAIN) + len(EVAL) + 2001)
    before = counts()
    assert tracking.import_run(run) == run_id
    assert counts() == before
    assert query("pragma integrity_check") == [("ok",)]


def test_another_tracking_server_is_not_used(capsys, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "IGNORED", ("MLFLOW_TRACKING_URI",))
    tracking.create_database()
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "MLFLOW_TRACKING_URI is not used: runs go to results/mlflow/mlflow.db alone"

    code = "import os, coordexp.tracking as t; print(t.IGNORED, sorted(os.environ))"
    theirs = {"MLFLOW_TRACKING_URI": "http://10.255.255.1", "_MLFLOW_SERVER_FILE_STORE": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[1])} | theirs,
        capture_output=True,
        text=True,
        check=True,
    )
    ignored, _, kept = done.stdout.partition(") [")
    assert all(name in ignored and name not in kept for name in theirs)
    assert "MLFLOW_DISABLE_TELEMETRY" in kept


def test_edited_step_tag_imports_all_again() -> None:
    run = make_run()
    run_id = tracking.import_run(run)
    before = counts()
    client().set_tag(run_id, tracking.STEP_TAG, "edited by hand")
    tracking.import_run(run)
    assert counts() == before


def test_refusals_of_other_files_are_not_the_databases() -> None:
    with pytest.raises(UserError) as caught, database.refusals_in_one_line():
        raise PermissionError(13, "Permission denied", "results/runs/a/b/config.yaml")
    assert not isinstance(caught.value, DatabaseUnavailableError)
