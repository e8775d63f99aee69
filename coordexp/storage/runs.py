"""The run directory: the only interface between training and everything after it.

config.yaml                 resolved configuration
logging.jsonl               flat rows (see logs/)
eval/step-000040.parquet    token table: a row per supervised coordinate token of the validation set
checkpoints/step-000720/    a complete Hugging Face directory
state/                      resumable trainer state, removed when the run is finished
.lock                       held by the process that writes
stage2/step-000720-<hash8>/ Stage-2 probe of a checkpoint; hash8 is the digest of its recipe
run.json                    manifest: status, hashes, versions, timings, sha256 of each artifact
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coordexp.config.digests import group_hash, plain
from coordexp.config.schema import Config, ProbeConfig
from coordexp.errors import UserError
from coordexp.storage.files import is_abandoned, write_text

RESULTS = Path("results")


def refuse_no_directory(results: Path) -> None:
    """Raises UserError: something stands in the place of the results that is no directory."""
    if os.path.lexists(results) and not results.is_dir():
        raise UserError(f"{results}: not a directory: move it away")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run. `path` is results/runs/<variant>/s<seed>-<hash8>."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        return self.path / "logging.jsonl"

    @property
    def state(self) -> Path:
        return self.path / "state" / "state.pt"

    @property
    def manifest(self) -> Path:
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def table(self, step: int) -> Path:
        return self.path / "eval" / f"step-{step:06d}.parquet"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        return sorted(
            int(p.name.removeprefix("step-")) for p in self.path.glob("checkpoints/step-*")
        )

    def table_steps(self) -> list[int]:
        return sorted(
            int(p.stem.removeprefix("step-")) for p in self.path.glob("eval/step-*.parquet")
        )


def run_directory(variant: str, seed: int, hash8: str) -> RunDirectory:
    return RunDirectory(RESULTS / "runs" / variant / f"s{seed}-{hash8}")


def probe_directory(run: RunDirectory, step: int, recipe: ProbeConfig | Mapping[str, Any]) -> Path:
    """The directory of the Stage-2 probe of a checkpoint with this recipe."""
    return run.path / "stage2" / f"step-{step:06d}-{group_hash(recipe)}"


def write_config(run: RunDirectory, cfg: Config) -> None:
    write_text(run.config, OmegaConf.to_yaml(OmegaConf.create(plain(cfg))))


def remove_leftovers(run: RunDirectory) -> None:
    """Remove temporary files and directories of a killed trainer. The caller holds the lock.

    A probe of the run may be writing at the same time: its files are kept.
    """
    for leftover in list(run.path.rglob(".*.tmp")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif is_abandoned(leftover):
            leftover.unlink(missing_ok=True)


def holds_results(run: RunDirectory) -> bool:
    return run.log.exists() or bool(run.table_steps() or run.checkpoint_steps())


def set_aside(run: RunDirectory) -> None:
    """Move everything but the lock to <name>.aside-<n>.

    The results there belong to other data or to another base model.
    """
    n = 1
    while (aside := run.path.with_name(f"{run.path.name}.aside-{n}")).exists():
        n += 1
    aside.mkdir()
    for item in run.path.iterdir():
        if item != run.lock:
            os.replace(item, aside / item.name)
