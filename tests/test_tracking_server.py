"""`coordexp ui`: it follows the runs, says once what prevents an import, and leaves no process."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tracked_runs import (
    FORK,
    TRAIN,
    counts,
    finish,
    log,
    make_run,
    query,
)

from coordexp.errors import UserError, reported
from coordexp.storage.files import read_json
from coordexp.storage.manifest import evidence_digests, read_manifest, write_manifest
from coordexp.tracking import database, follower
from coordexp.tracking import mlflow_import as tracking
from coordexp.tracking import server as ui
from coordexp.tracking.experiment import HOST
from coordexp.tracking.follower import Follower

pytest_plugins = ("tracking_fixtures",)
pytestmark = pytest.mark.usefixtures("project")


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def test_only_changed_runs_are_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(follower, "import_run", lambda run: seen.append(run.path.parent.name))
    first, second, following = make_run("mixed"), make_run("pure_ce"), Follower()
    shutil.copytree(first.path, first.path.with_name("s0-0badcafe.aside-1"))

    def looked_at() -> list[str]:
        seen.clear()
        following.import_changes()
        return list(seen)

    assert looked_at() == ["mixed", "pure_ce"]
    assert looked_at() == []
    log(second, "train", 6, TRAIN)
    assert looked_at() == ["pure_ce"]
    finish(first)
    assert looked_at() == ["mixed"]


def said(capsys: pytest.CaptureFixture[str], following: Follower) -> list[str]:
    """What one round says."""
    following.import_changes()
    return capsys.readouterr().err.splitlines()


def test_broken_log_does_not_stop_the_others_and_is_told_once(capsys) -> None:
    broken, good = make_run("mixed"), make_run("pure_ce")
    whole = broken.log.read_text()
    broken.log.write_text("not json\n" + whole)
    following = Follower()
    (line,) = said(capsys, following)
    assert line.startswith("not imported: ")
    assert "line 1 is broken" in line
    assert query("select name from runs") == [(f"{good.path.parent.name} s0",)]
    log(good, "train", 6, TRAIN)
    assert said(capsys, following) == []
    broken.log.write_text(whole)
    assert said(capsys, following) == ["importing again"]
    assert counts()["runs"] == 2


def test_log_edited_after_the_run_finished_is_not_imported(capsys) -> None:
    run = finish(make_run("mixed"))
    found = read_manifest(run)
    write_manifest(run, replace(found, artifacts=evidence_digests(run)))
    whole = run.log.read_text()
    run.log.write_text(whole.replace("190.0", "19.0"))
    following = Follower()
    (line,) = said(capsys, following)
    assert line.startswith(f"not imported: {run.log}: changed or damaged")
    assert counts()["runs"] == 0
    run.log.write_text(whole)
    assert said(capsys, following) == ["importing again"]
    assert counts()["runs"] == 1


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), UserError("odd")])
def test_no_run_ends_the_follower(capsys, monkeypatch, error: Exception) -> None:
    def refuse(_: object) -> None:
        raise error

    make_run("mixed")
    make_run("pure_ce")
    monkeypatch.setattr(follower, "import_run", refuse)
    following = Follower()
    assert all(line.startswith("not imported: ") for line in said(capsys, following))
    assert said(capsys, following) == []


def test_locked_database_is_told_once_and_tried_again(capsys, monkeypatch) -> None:
    for variant in ("mixed", "pure_ce"):
        finish(make_run(variant))
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.05)
    holder = database.sqlite3.connect(database.DATABASE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    following = Follower()
    (line,) = said(capsys, following)
    assert "mlflow.db: locked by another process" in line
    assert said(capsys, following) == []
    holder.close()
    assert said(capsys, following) == ["importing again"]
    assert counts()["runs"] == 2


def test_database_damaged_for_a_moment_is_told_once(capsys) -> None:
    finish(make_run())
    sound = database.DATABASE.read_bytes()
    following = Follower()
    database.DATABASE.write_bytes(b"x" * len(sound))
    (line,) = said(capsys, following)
    assert "not a database" in line
    assert said(capsys, following) == []
    database.DATABASE.write_bytes(sound)
    assert said(capsys, following) == ["importing again"]
    assert counts()["runs"] == 1


def test_results_that_vanish_are_told_once_and_followed_again(capsys) -> None:
    finish(make_run())
    following = Follower()
    assert said(capsys, following) == []
    os.rename("results", "elsewhere")
    assert said(capsys, following) == ["not imported: results: gone: waiting for it to come back"]
    assert said(capsys, following) == []
    assert not Path("results").exists()
    os.rename("elsewhere", "results")
    assert said(capsys, following) == ["importing again"]


def test_removed_database_is_made_again_with_every_run(capsys) -> None:
    finish(make_run("mixed"))
    finish(make_run("pure_ce"))
    following = Follower()
    assert said(capsys, following) == []
    shutil.rmtree(tracking.ROOT)
    assert said(capsys, following) == []
    assert counts()["runs"] == 2
    assert (tracking.ROOT / "experiment.json").exists()


def test_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: .*another port"):
            ui.serve(port)


def test_server_that_dies_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UserError, match=r"ended with status 1.*server\.log"):
        ui.serve(free_port())


def test_port_taken_while_the_server_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    real, checks = ui.require_free, []

    def taken_later(port: int) -> None:
        if checks:
            real(port)
        else:
            checks.append(taken.bind((HOST, port)))

    port = free_port()
    monkeypatch.setattr(ui, "require_free", taken_later)
    with socket.socket() as taken, pytest.raises(UserError, match="in use: stop what listens"):
        ui.serve(port)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
    return result


@contextmanager
def serving(port: int, stop: signal.Signals, python: str = sys.executable) -> Iterator[str]:
    """`coordexp ui` in a fork, stopped by this signal at the end; the lines that it prints first.

    `python` is the interpreter that runs MLflow's server.
    """
    printed = Path("printed")
    served = FORK.Process(target=serve_in_fork, args=(port, printed, python))
    served.start()
    try:
        wait_for(lambda: printed.exists() and "Ctrl-C ends both" in printed.read_text())
        yield printed.read_text()
    finally:
        os.kill(served.pid, stop)
        served.join(30)
        assert served.exitcode == 0
    ui.require_free(port)  # the server is gone too


def serve_in_fork(port: int, printed: Path, python: str) -> None:
    sys.stdout = open(printed, "w")  # noqa: SIM115 open until the process ends
    sys.executable = python
    # What runs the tests in the background has SIGINT or SIGHUP ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with reported("coordexp", ""):
        ui.serve(port)


@pytest.mark.slow
def test_server_shows_a_run_while_it_grows() -> None:
    run, port = make_run(), free_port()
    log(run, "train", 6, {"loss": math.nan})
    with serving(port, signal.SIGINT) as printed:
        experiment_id = read_json(tracking.ROOT / "experiment.json")["experiment_id"]
        assert f"http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs" in printed

        def shown() -> list[dict[str, Any]]:
            body = json.dumps({"experiment_ids": [experiment_id]}).encode()
            url = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search"
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            return json.load(DIRECT.open(request, timeout=30)).get("runs", [])

        found = wait_for(shown)[0]
        assert (found["info"]["run_name"], found["info"]["status"]) == ("mixed s0", "RUNNING")
        log(run, "train", 8, TRAIN)
        finish(run)
        wait_for(lambda: shown()[0]["info"]["status"] == "FINISHED")
        metrics = shown()[0]["data"]["metrics"]
        assert {m["step"] for m in metrics if m["key"] == "detail/mixed/loss"} == {8}
    # It was not killed:
    assert "Finished server process" in (tracking.ROOT / "server.log").read_text()


# In the place of MLflow's server, which takes seconds to start: it listens until SIGTERM.
LISTENER = """#!{python} -IS
import os, signal, socket, sys
if "coordexp.tracking.supervise" in sys.argv:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
def end(*_):
    print("asked to end")
    sys.exit()
signal.signal(signal.SIGTERM, end)
port = int(sys.argv[sys.argv.index("--port") + 1])
with socket.create_server(("127.0.0.1", port)) as server:
    while True:
        server.accept()
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_to_stop_ends_the_server_too(tmp_path: Path, stop: signal.Signals) -> None:
    python = tmp_path / "python"
    python.write_text(LISTENER.format(python=sys.executable))
    python.chmod(0o755)
    with serving(free_port(), stop, str(python)) as printed:
        assert "Ctrl-C ends both" in printed
    assert (tracking.ROOT / "server.log").read_text() == "asked to end\n"


def test_killed_ui_leaves_no_server(tmp_path: Path) -> None:
    python, printed, port = tmp_path / "python", Path("printed"), free_port()
    python.write_text(LISTENER.format(python=sys.executable))
    python.chmod(0o755)
    served = FORK.Process(target=serve_in_fork, args=(port, printed, str(python)))
    served.start()
    wait_for(lambda: printed.exists() and "Ctrl-C ends both" in printed.read_text())
    served.kill()
    served.join(30)
    wait_for(lambda: "asked to end" in (tracking.ROOT / "server.log").read_text())
    ui.require_free(port)
