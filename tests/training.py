"""Trainer processes for the tests of the trainer, and what two runs must have in common.

A spawned trainer imports torch for six seconds. So one process (fork_server.py) imports it once and
forks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.config.overrides import last_of_each_key
from coordexp.storage.files import sha256_directory, sha256_file
from coordexp.storage.typed import write_sealed

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120
TIME_LIKE = ("time_unix_s", "eval_time_unix_s", "tokens_per_s", "eval_runtime_s")

# Eight steps of four images in about a second. Train rows (every 3) and states (every 2) fall apart
# on purpose: a window that is open when the state is written must survive.
SMALL = (
    *(
        "model.text_layers=1",
        "model.text_hidden_size=32",
        "model.text_heads=2",
        "model.text_intermediate_size=48",
    ),
    *(
        "model.vision_layers=2",
        "model.vision_hidden_size=16",
        "model.vision_heads=2",
        "model.vision_intermediate_size=24",
    ),
    *(
        "model.vocabulary_size=300",
        "data.image_size=64",
        "data.train_images=12",
        "data.val_images=8",
    ),
    *(
        "train.max_steps=8",
        "train.images_per_step=4",
        "train.micro_batch=1",
        "train.eval_steps=2",
        "train.logging_steps=3",
    ),
    *(
        "train.state_steps=2",
        "train.checkpoint_steps=4",
        "train.eval_micro_batch=4",
        "train.audit_images=5",
    ),
    "runtime.device=cpu",
)
MIXED = ("variant=mixed", *SMALL)


def environment() -> dict[str, str]:
    """The interpreter of the tests is also the `python` of what it starts, and the package is found
    from anywhere.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@dataclass
class Child:
    """A forked process, possibly still running."""

    fork_server: ForkServer
    pid: int
    files: tuple[Path, Path]
    returncode: int | None = None

    @property
    def stdout(self) -> str:
        return self.files[0].read_text()

    @property
    def stderr(self) -> str:
        return self.files[1].read_text()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.fork_server.ask(poll=self.pid)["returncode"]
        return self.returncode

    def wait(self) -> Child:
        wait_for(lambda: self.poll() is not None)
        return self

    def signal(self, number: int) -> None:
        assert self.poll() is None, f"ended before signal {number}: {self.stderr}"
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            wait_for(
                lambda: (
                    Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
                )
            )

    def refusal(self) -> str:
        """The one line with which it stopped."""
        assert self.returncode == 1, (self.returncode, self.stdout, self.stderr)
        assert "Traceback" not in self.stderr, self.stderr
        last = self.stderr.strip().replace("\r", "\n").splitlines()[-1]
        assert last.startswith("coordexp"), self.stderr
        return last


@dataclass
class ForkServer:
    process: subprocess.Popen
    files: Path
    children: list[Child] = field(default_factory=list)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self, cwd: Path, *arguments: str, fault: tuple = (), entry: str = "train", **env: str
    ) -> Child:
        files = tuple(self.files / f"{len(self.children)}.{stream}" for stream in ("out", "err"))
        for file in files:
            file.touch()
        request = {
            "cwd": str(cwd),
            "arguments": last_of_each_key(arguments),
            "fault": fault,
            "entry": entry,
            "env": env,
        }
        pid = self.ask(**request, files=[str(file) for file in files])["pid"]
        self.children.append(Child(self, pid, files))
        return self.children[-1]

    def run(self, cwd: Path, *arguments: str, **how: Any) -> Child:
        """A child that has ended."""
        return self.start(cwd, *arguments, **how).wait()


@dataclass
class Workspace:
    """A directory with data and base model, in which `variant` has been trained undisturbed by a
    process of its own.
    """

    path: Path

    def run(self, variant: str) -> Path:
        return only(self.path / "results" / "runs" / variant)

    def empty_copy(self, path: Path) -> Path:
        """Another directory with the same data and base model and no run."""
        (path / "results").mkdir(parents=True)
        for part in ("data", "base"):
            (path / "results" / part).symlink_to(self.path / "results" / part)
        return path


def only(directory: Path) -> Path:
    """The one run below a directory of runs (what was set aside left out)."""
    (found,) = [path for path in directory.iterdir() if ".aside-" not in path.name]
    return found


def wait_for(condition) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def rows(run: Path) -> list[dict[str, Any]]:
    """The log's rows without what a clock wrote."""
    found = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIME_LIKE} for row in found]


def artifacts(run: Path) -> dict[str, str]:
    """sha256 of token tables, checkpoints and configuration, from the manifest (which
    test_a_finished_run… verifies).
    """
    found = json.loads((run / "run.json").read_text())["artifacts"]
    return {name: sha256 for name, sha256 in found.items() if name != "logging.jsonl"}


def names(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def assert_same_run(run: Path, reference: Path) -> None:
    """Bit for bit, but for clocks; and nothing is left lying about."""
    for row, expected in zip(rows(run), rows(reference), strict=True):
        assert row == expected, {
            key: (row.get(key), expected.get(key))
            for key in row | expected
            if row.get(key) != expected.get(key)
        }
    assert artifacts(run) == artifacts(reference)
    assert names(run) == names(reference), names(run) ^ names(reference)
    found, expected = (json.loads((path / "run.json").read_text()) for path in (run, reference))
    clocks = (
        "finished_at",
        "preflight_wall_s",
        "train_wall_s",
        "train_cpu_s",
        "eval_wall_s",
        "artifacts",
        "seal",
    )
    assert {k: v for k, v in found.items() if k not in clocks} == {
        k: v for k, v in expected.items() if k not in clocks
    }


def contents(path: Path) -> dict[str, tuple[str, int]]:
    """sha256 and modification time (ns) of every file but the lock, whose pid is the last
    holder's.
    """
    files = [p for p in path.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(path)): (sha256_file(p), p.stat().st_mtime_ns) for p in files}


def flip_byte(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def change_input(cwd: Path, which: str) -> None:
    """Give the data or the base model another digest (and the same numbers, so that a run of it is
    the same run).
    """
    own = cwd / "results" / which
    original = own.resolve()
    own.unlink()
    shutil.copytree(original, own)
    (manifest,) = own.glob(f"*/{which}.json")
    content = json.loads(manifest.read_text())
    if which == "data":
        content |= {"note": "changed"}
    else:
        (manifest.parent / "model" / "README.md").write_text("changed\n")
        content |= {"sha256": sha256_directory(manifest.parent / "model")}
    write_sealed(manifest, content)
