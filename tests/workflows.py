"""Snakemake in a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "conf", "coordexp", "workflow", "profiles", "environment.yml")


def copy_project(to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        shutil.copytree(source, to / part) if source.is_dir() else shutil.copy(source, to)
    return to


def snakemake(cwd: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]


def environment() -> dict[str, str]:
    """The rules' `python` is that of the tests; that `make` runs the tests is left out."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if name != "MAKELEVEL"}
    return inherited | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
