"""Snakemake in a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "conf", "coordexp", "workflow", "profiles", "environment.yml")


def copy_project(to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        shutil.copytree(source, to / part) if source.is_dir() else shutil.copy(source, to)
    return to


# Directory of the `python` of each copy that is served (see python_server.py).
SERVED: dict[Path, str] = {}


@contextmanager
def served(copy: Path) -> Iterator[Path]:
    """In this copy, Snakemake and its jobs are forks of one process that imported its code.

    What a test changes in the code of the copy is then not seen: it takes a copy that is not
    served.
    """
    server = str(Path(__file__).with_name("python_server.py"))
    with TemporaryDirectory(prefix="python-") as directory:
        command = [sys.executable, server, str(copy), directory]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            SERVED[copy] = directory
            yield copy
            del SERVED[copy]


def snakemake(cwd: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(*arguments, python=python_of(cwd)),
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def command(*arguments: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "snakemake", "--cores", "2", *arguments]


def python_of(copy: Path) -> str:
    return f"{SERVED[copy]}/python" if copy in SERVED else sys.executable


def environment(copy: Path) -> dict[str, str]:
    """The rules' `python` is that of the copy."""
    own = Path(sys.executable).parent
    path = os.pathsep.join([str(Path(python_of(copy)).parent), str(own), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
