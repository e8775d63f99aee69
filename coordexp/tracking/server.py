"""`coordexp ui`: MLflow's server on this machine; imports what the runs write while it is open."""

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

from coordexp.errors import UserError
from coordexp.storage.runs import RESULTS, RunDirectory
from coordexp.tracking.experiment import HOST, PORT, ROOT, read_experiment, ui_link
from coordexp.tracking.mlflow_import import create_database, import_run

FOLLOW_EVERY_S = 3
STOP_WITHIN_S = 10

Stamp = list[tuple[int, int]]  # modification time (ns) and size of a run's log and manifest


def serve(port: int = PORT) -> None:
    """Serve MLflow on 127.0.0.1 and import what the runs write, until Ctrl-C or SIGTERM.

    Raises:
        UserError: the port is taken, or the server ended by itself.
    """
    require_free(port)
    experiment_id = read_experiment(create_database()).experiment_id
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # nohup sets SIG_IGN
            signal.signal(stop, signal.default_int_handler)
    with suppress(KeyboardInterrupt), server_process(port) as server:
        wait_until_up(server, port)
        if server.poll() is None:
            print(f"MLflow: {ui_link(experiment_id, port)}")
            print("importing what the runs write; Ctrl-C ends both", flush=True)
        imported: dict[Path, Stamp] = {}
        while server.poll() is None:
            import_changes(imported)
            time.sleep(FOLLOW_EVERY_S)
        raise UserError(
            f"the MLflow server ended with status {server.returncode}: {ROOT}/server.log says why"
        )


def require_free(port: int) -> None:
    """Raises UserError: no such port, another process listens on it, or it may not be used."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port}: must be between 1 and 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"{HOST}:{port}: {error.strerror}: stop what listens there, or choose another port"
            ) from error


@contextmanager
def server_process(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the MLflow server in a separate session.

    Ctrl-C then reaches only this process, which stops every process of the server.
    """
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{ROOT}/mlflow.db"]
    command += ["--default-artifact-root", f"{ROOT}/artifacts", "--no-serve-artifacts"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
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
        with suppress(ProcessLookupError):  # every process of the server has ended
            os.killpg(server.pid, signal.SIGKILL)


def wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server takes connections, or has ended."""
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)


def import_changes(imported: dict[Path, Stamp]) -> None:
    """Import the runs whose log or manifest has changed since the last import; update `imported`.

    A run that cannot be read does not prevent the import of the others.
    """
    for path in sorted((RESULTS / "runs").glob("*/*")):
        if ".aside-" in path.name:
            continue
        run = RunDirectory(path)
        try:
            stamp = stamp_of(run)
            if imported.get(path) != stamp:
                imported[path] = stamp
                import_run(run)
        except FileNotFoundError:
            continue  # the run has just been moved aside
        except UserError as error:
            print(f"not imported: {error}", file=sys.stderr, flush=True)


def stamp_of(run: RunDirectory) -> Stamp:
    stamp = []
    for file in (run.log, run.manifest):
        if file.exists():
            facts = file.stat()
            stamp.append((facts.st_mtime_ns, facts.st_size))
    return stamp
