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

from coordexp.errors import Interrupted, UserError
from coordexp.tracking.database import DATABASE
from coordexp.tracking.experiment import HOST, PORT, ROOT, read_experiment, ui_link
from coordexp.tracking.follower import Follower
from coordexp.tracking.mlflow_import import create_database
from coordexp.tracking.supervise import STOP_WITHIN_S

FOLLOW_EVERY_S = 3
START_WITHIN_S = 120


def serve(port: int = PORT) -> None:
    """Serve MLflow on 127.0.0.1 and import what the runs write.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, which are the ways to end it; the code is 0.
        UserError: the port is taken, the database cannot be used, or the server ended by itself.
    """
    require_free(port)
    experiment_id = read_experiment(create_database()).experiment_id
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # nohup sets SIG_IGN
            signal.signal(stop, signal.default_int_handler)
    with told_when_stopped(), server_process(port) as server:
        wait_until_up(server, port)
        if server.poll() is None:
            print(f"MLflow: {ui_link(experiment_id, port)}")
            print("importing what the runs write; Ctrl-C ends both", flush=True)
        follower = Follower()
        while server.poll() is None:
            follower.import_changes()
            time.sleep(FOLLOW_EVERY_S)
        require_free(port)  # another process may have taken it while the server started
        raise UserError(
            f"the MLflow server ended with status {server.returncode}: {ROOT}/server.log says why"
        )


@contextmanager
def told_when_stopped() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted("stopped: the server has ended, nothing is imported", 0) from stop


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
    """Run the MLflow server in a separate session, under `supervise`.

    Ctrl-C then reaches only this process; the server ends when this process closes the pipe, or
    ends itself, at whatever moment.
    """
    command = [sys.executable, "-m", "coordexp.tracking.supervise"]
    command += [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{DATABASE}"]
    command += ["--default-artifact-root", f"{ROOT}/artifacts", "--no-serve-artifacts"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    with open(ROOT / "server.log", "wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert server.stdin is not None
    try:
        yield server
    finally:
        server.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            server.wait(2 * STOP_WITHIN_S)
        with suppress(ProcessLookupError):  # every process of the server has ended
            os.killpg(server.pid, signal.SIGKILL)


def wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server takes connections, or has ended.

    Raises:
        UserError: it does neither.
    """
    deadline = time.monotonic() + START_WITHIN_S
    while server.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise UserError(
                f"the MLflow server takes no connections after {START_WITHIN_S} s: "
                f"{ROOT}/server.log says why"
            )
        time.sleep(0.2)
