"""The built package: what it holds, and its commands in a fresh environment and an empty directory.

Takes minutes, so `make test` leaves it out; `.ci/run` runs it. By hand: `pytest -n 0 -m wheel`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from note import write_log

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

pytestmark = pytest.mark.wheel


def run(command: list[str | Path], cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """A command that sees neither the checkout nor the environment of the tests."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    outside |= {"PATH": path, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=outside, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def fresh_environment(path: Path) -> Path:
    """A new virtual environment; returns the directory of its programs."""
    run([sys.executable, "-m", "venv", path], path.parent)
    return path / "bin"


@pytest.fixture(scope="module")
def builder(tmp_path_factory) -> Path:
    """Programs of an environment that holds the build backend alone."""
    where = tmp_path_factory.mktemp("builder")
    programs = fresh_environment(where / "environment")
    done = run(
        [programs / "pip", "install", "--quiet", *PROJECT["build-system"]["requires"]],
        where,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the build backend cannot be installed here: {done.stderr.strip()[-200:]}")
    return programs


@pytest.fixture(scope="module")
def archives(builder, tmp_path_factory) -> tuple[Path, Path]:
    """The source archive and the wheel."""
    to = tmp_path_factory.mktemp("archives")
    run([builder / "python", "-m", "hatchling", "build", "--directory", to], ROOT)
    (source,), (wheel,) = to.glob("*.tar.gz"), to.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def programs(archives, tmp_path_factory) -> Path:
    """Programs of a fresh environment in which the wheel is installed, at the locked versions."""
    where = tmp_path_factory.mktemp("installed")
    found = fresh_environment(where / "environment")
    pip = [found / "pip", "install", "--quiet", "--no-compile", "--no-deps"]
    locked = [*pip, "--require-hashes", "-r"]
    run([*locked, ROOT / "requirements-build.lock"], where)
    if run([*locked, ROOT / "requirements-torch-cpu.lock"], where, check=False).returncode:
        run([*locked, ROOT / "requirements-torch.lock"], where)
    run([*pip, "--require-hashes", "--no-build-isolation", "-r", ROOT / "requirements.lock"], where)
    run([*pip, archives[1]], where)
    run([found / "pip", "check"], where)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """The directory the commands run in; it begins empty."""
    return tmp_path_factory.mktemp("empty")


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_settings_and_schemas(archives):
    held = contents(archives[1])
    for source, inside in (("conf", "conf"), ("workflow/schemas", "schemas")):
        for file in (ROOT / source).rglob("*.*"):
            name = f"coordexp/{inside}/{file.relative_to(ROOT / source).as_posix()}"
            assert held[name] == file.read_bytes()


def test_source_archive_builds_the_same_wheel(archives, builder, tmp_path):
    with tarfile.open(archives[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    to = tmp_path / "again"
    run([builder / "python", "-m", "hatchling", "build", "-t", "wheel", "-d", to], unpacked)
    (wheel,) = to.glob("*.whl")
    assert contents(wheel) == contents(archives[1])


def test_version_is_that_of_the_project(programs, empty):
    version = run([programs / "coordexp", "--version"], empty).stdout
    installed = run([programs / "pip", "show", "coordexp"], empty).stdout
    assert f"Version: {version.split()[1]}\n" in installed


def test_completion_scripts_are_printed_for_both_commands(programs, empty):
    for command in (
        ["coordexp", "--print-completion", "bash"],
        ["coordexp-train", "-sc", "install=bash"],
    ):
        script = run([programs / command[0], *command[1:]], empty).stdout
        assert command[0] in script
        assert "complete " in script


def test_compare_runs_in_an_empty_directory(programs, empty):
    names = ("pure_ce", "softce_w1_gate", "mixed")
    logs = [f"{name}={write_log(empty / f'{name}.jsonl', name).name}" for name in names]
    card = run([programs / "coordexp", "compare", *logs, "--out", "compared"], empty).stdout
    assert card.startswith("# Start Stage-2 from ")
    recommendation = json.loads((empty / "compared" / "recommendation.json").read_text())
    assert recommendation["primary"]["variant"] in names


def test_one_run_is_prepared_and_trained(programs, empty):
    shown = run([programs / "coordexp-train", "experiment=smoke", "--cfg", "job"], empty).stdout
    assert "max_steps: 12" in shown
    run([programs / "coordexp", "prepare", "experiment=smoke"], empty)
    run([programs / "coordexp-train", "experiment=smoke"], empty)
    (manifest,) = empty.glob("results/runs/pure_ce/*/run.json")
    assert json.loads(manifest.read_text())["status"] == "complete"
