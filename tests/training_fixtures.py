"""Fixtures of the trainer's tests: the forge, and the directories it trains in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training import MIXED, SMALL, Forge, House, environment


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
    command = [sys.executable, str(Path(__file__).with_name("lives.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        made = Forge(process, tmp_path_factory.mktemp("lives"))
        yield made
        for life in made.lives:
            if life.poll() is None:
                os.kill(life.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def house(forge, tmp_path_factory) -> House:
    """Its two runs are those of one `--multirun`, spawned, not forked."""
    path = tmp_path_factory.mktemp("house")
    forge.run(path, "prepare", *SMALL, entry="cli")
    command = [
        sys.executable,
        "-m",
        "coordexp.training.train",
        "--multirun",
        "variant=pure_ce,mixed",
        *SMALL,
    ]
    done = subprocess.run(command, cwd=path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return House(path)


@pytest.fixture
def empty(house, tmp_path) -> Path:
    """Another directory with the same data and base model, where nothing has been trained."""
    return house.empty_copy(tmp_path / "empty")


@pytest.fixture
def finished(house, empty) -> Path:
    """A copy of the finished run of `mixed`, in the directory `empty`."""
    return Path(
        shutil.copytree(house.run("mixed"), empty / house.run("mixed").relative_to(house.path))
    )


@pytest.fixture(scope="session")
def killed(forge, house, tmp_path_factory) -> Path:
    """A run of `mixed` killed before it writes the token table of step 6, two steps after a
    state.
    """
    path = house.empty_copy(tmp_path_factory.mktemp("killed") / "run")
    assert (
        forge.run(path, *MIXED, fault=("die_before", "os.mkdir", "eval", 3)).returncode
        == -signal.SIGKILL
    )
    return path / house.run("mixed").relative_to(house.path)


@pytest.fixture
def unfinished(house, killed, empty) -> Path:
    """A copy of the killed run, in the directory `empty`."""
    return Path(shutil.copytree(killed, empty / house.run("mixed").relative_to(house.path)))
