"""Kills at chosen system calls inside a write (benchmarks/kills.py has many more)."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from final_files import differences, final_files
from traced import Point, killed_at
from training import MIXED, SMALL, assert_same_run

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def strace():
    """It is there, and may attach to a process."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed here")
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        command = ["timeout", "5", "strace", "-p", str(sleeping.pid)]
        tried = subprocess.run(command, capture_output=True, text=True)
        sleeping.kill()
    if "attached" not in tried.stderr:
        pytest.skip(f"strace may not attach to a process here: {tried.stderr.strip()}")


def test_a_training_killed_inside_its_writes_is_the_same(fork_server, workspace, empty, tmp_path):
    run = workspace.run("mixed").relative_to(workspace.path)
    for name, path, number in (
        ("write", f"{run}/state/.state.pt.{{pid}}.tmp", 1),
        ("fsync", f"{run}/logging.jsonl", 1),
        ("rename", f"{run}/state/.state.pt.{{pid}}.tmp", 2),
        ("fsync", f"{run}/eval", 1),
        ("fsync", f"{run}/checkpoints/.step-000008.tmp/model.safetensors", 1),
        ("fsync", f"{run}/.run.json.{{pid}}.tmp", 1),
        ("fsync", f"{run}", 1),  # run.json has its name, the state is still there
    ):
        point = Point(name, path, number, by_path=True)
        child, call = killed_at(
            fork_server, empty, tmp_path / "strace.log", point, *MIXED, entry="train"
        )
        assert call, (point, child.stdout, child.stderr)
        assert call.name == name
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(empty / run, workspace.run("mixed"))


def test_a_base_model_killed_inside_its_writes_is_the_same(fork_server, workspace, tmp_path):
    (base,) = (workspace.path / "results/base").iterdir()
    place = tmp_path / "place"
    (place / "results").mkdir(parents=True)
    made = base.relative_to(workspace.path)
    for name, path in (
        ("fsync", f"{made}/.model.tmp/config.json"),
        ("rename", f"{made}/.model.tmp"),
        ("fsync", f"{made}/.base.json.{{pid}}.tmp"),
    ):
        point = Point(name, path, 1, by_path=True)
        command = ("prepare", "--only=base", *SMALL)
        _, call = killed_at(
            fork_server, place, tmp_path / "strace.log", point, *command, entry="cli"
        )
        assert call, point
    assert fork_server.run(place, *command, entry="cli").returncode == 0
    assert not differences(final_files(place / made), final_files(base))
