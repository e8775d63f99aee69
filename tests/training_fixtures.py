"""Fixtures of the trainer's tests: the fork server, and the directories it trains in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training import MIXED, SMALL, ForkServer, Workspace, environment

from coordexp.storage.files import locked


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory):
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        made = ForkServer(process, tmp_path_factory.mktemp("children"))
        yield made
        for child in made.children:
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def workspace(fork_server, tmp_path_factory) -> Workspace:
    """Its two runs are those of one `--multirun`, spawned, not forked. No test changes them."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers of this session
    path = shared / "workspace"
    with locked(shared / ".workspace.lock", "being trained", wait=True):
        if not (path / "finished").exists():
            train_both(fork_server, path)
            (path / "finished").touch()
    return Workspace(path)


def train_both(fork_server: ForkServer, path: Path) -> None:
    path.mkdir(exist_ok=True)
    fork_server.run(path, "prepare", *SMALL, entry="cli")
    command = [sys.executable, "-m", "coordexp.training.train", "--multirun"]
    command += ["variant=pure_ce,mixed", *SMALL]
    done = subprocess.run(command, cwd=path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def empty(workspace, tmp_path) -> Path:
    """Another directory with the same data and base model, where nothing has been trained."""
    return workspace.empty_copy(tmp_path / "empty")


@pytest.fixture
def finished(workspace, empty) -> Path:
    """A copy of the finished run of `mixed`, in the directory `empty`."""
    return Path(
        shutil.copytree(
            workspace.run("mixed"), empty / workspace.run("mixed").relative_to(workspace.path)
        )
    )


@pytest.fixture(scope="session")
def killed(fork_server, workspace, tmp_path_factory) -> Path:
    """A run of `mixed` killed before it writes the token table of step 6, two steps after a
    state.
    """
    path = workspace.empty_copy(tmp_path_factory.mktemp("killed") / "run")
    assert (
        fork_server.run(path, *MIXED, fault=("die_before", "os.mkdir", "eval", 3)).returncode
        == -signal.SIGKILL
    )
    return path / workspace.run("mixed").relative_to(workspace.path)


@pytest.fixture
def unfinished(workspace, killed, empty) -> Path:
    """A copy of the killed run, in the directory `empty`."""
    return Path(shutil.copytree(killed, empty / workspace.run("mixed").relative_to(workspace.path)))
