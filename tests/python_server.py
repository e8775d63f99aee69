"""`python -m` without the seconds that a new interpreter imports torch for.

    python tests/python_server.py <project> <directory>

imports the package of a copy of the project once, and listens on <directory>/socket. The `python`
that it writes to <directory> hands its command line, directory, environment and open files to the
server, which forks: the child runs the module's main() as a new interpreter would. What is none of
SERVED goes to the real interpreter. The server ends when its standard input is closed.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from fork_server import end_after

# Modules that are run with `-m` in a fork, and whose main() that is.
SERVED = {
    "coordexp.cli": "coordexp.cli.main",
    "coordexp.training.train": "coordexp.training.launch",
    "snakemake": "snakemake.cli",
}
# What their verbs and rules import when they run.
PRELOADED = (
    "coordexp.analysis.recommendation.recommend",
    "coordexp.models.base",
    "coordexp.probe.job",
    "coordexp.report.html",
    "coordexp.training.train",
    "coordexp.tracking.study_import",
    "mlflow.tracking",
)

CLIENT = """#!/usr/bin/env -S {python} -IS
import json, os, socket, sys
if sys.argv[1:2] != ["-m"] or sys.argv[2] not in {served!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    answer = server.recv(8)
sys.exit(int(answer) if answer else 1)
"""


def main(project: str, directory: str) -> None:
    sys.path.insert(0, project)
    for module in (*SERVED.values(), *PRELOADED):
        importlib.import_module(module)
    address = f"{directory}/socket"
    client = Path(directory) / "python"
    client.write_text(CLIENT.format(python=sys.executable, served=tuple(SERVED), address=address))
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as selector:
        listening.bind(address)
        listening.listen()
        selector.register(listening, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            chosen = [key.fileobj for key, _ in selector.select(timeout=1)]
            reap(os.WNOHANG)
            if listening in chosen:
                serve(listening)
            elif sys.stdin in chosen:
                break
    reap(0)


def serve(listening: socket.socket) -> None:
    """Fork a child that takes one request, runs it in a child of its own and answers."""
    connection, _ = listening.accept()
    if os.fork():
        connection.close()
        return
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    content = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    arguments, cwd, environment = json.loads(content)
    worker = os.fork()
    if not worker:
        listening.close()
        connection.close()
        run(arguments, cwd, environment, files)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def run(arguments: list[str], cwd: str, environment: dict[str, str], files: list[int]) -> NoReturn:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    module, *rest = arguments
    sys.argv = [module, *rest]
    end_after(sys.modules[SERVED[module]].main)


def reap(options: int) -> None:
    """Take note of children that have ended, so that their CPU time counts as that of the tests."""
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
