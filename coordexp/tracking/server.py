"""`coordexp ui`: MLflow's server on this machine, and a follower that keeps importing what the runs write."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.runs import RESULTS, RunDirectory
from coordexp.tracking.files import read_experiment
from coordexp.tracking.mlflow_import import HOST, PORT, ROOT, create_database, import_run, ui_link

FOLLOW_EVERY_S, STOP_WITHIN_S = 3, 10


def serve(port: int = PORT) -> None:
    """Serve MLflow on 127.0.0.1 and keep importing what the runs write, until Ctrl-C or SIGTERM.

    Raises:
        UserError: the port is taken, or the server ended by itself.
    """
    require_free(port)
    experiment_id = read_experiment(create_database()).experiment_id
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # as under nohup
            signal.signal(stop, signal.default_int_handler)
    with suppress(KeyboardInterrupt), server_process(port) as server:
        wait_until_up(server, port)
        if server.poll() is None:
            print(
                f"MLflow: {ui_link(experiment_id, port)}\nimporting what the runs write; Ctrl-C ends both",
                flush=True,
            )
        imported: dict[Path, Any] = {}
        while server.poll() is None:
            import_changes(imported)
            time.sleep(FOLLOW_EVERY_S)
        raise UserError(
            f"the MLflow server ended with status {server.returncode}: {ROOT}/server.log says why"
        )


def require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"{HOST}:{port}: {error.strerror}: stop what listens there, or choose another port"
            ) from error


@contextmanager
def server_process(port: int) -> Iterator[subprocess.Popen]:
    """The MLflow server, in a session of its own: Ctrl-C reaches only us, and we stop all of it."""
    store = f"--backend-store-uri sqlite:///{ROOT}/mlflow.db --default-artifact-root {ROOT}/artifacts --no-serve-artifacts"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store.split(),
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with open(ROOT / "server.log", "wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield server
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_WITHIN_S)
        with suppress(ProcessLookupError):  # whatever of it is left
            os.killpg(server.pid, signal.SIGKILL)


def wait_until_up(server: subprocess.Popen, port: int) -> None:
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)


def import_changes(imported: dict[Path, Any]) -> None:
    """Import the runs whose log or manifest has changed since it was `imported`. A broken one does not stop the others."""
    for path in sorted((RESULTS / "runs").glob("*/*")):
        run = RunDirectory(path)
        try:
            stamp = [
                (file.stat().st_mtime_ns, file.stat().st_size)
                for file in (run.log, run.manifest)
                if file.exists()
            ]
            if ".aside-" not in path.name and imported.get(path) != stamp:
                imported[path] = stamp
                import_run(run)
        except FileNotFoundError:
            continue  # set aside at this very moment
        except UserError as error:
            print(f"not imported: {error}", file=sys.stderr, flush=True)
