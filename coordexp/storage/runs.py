"""The run directory: the one interface between training and everything after it.

config.yaml                 resolved configuration
logging.jsonl               flat rows (see logs.py)
eval/step-000040.parquet    token table: a row per supervised coordinate token of the validation set
checkpoints/step-000720/    a complete Hugging Face directory
state/                      resumable trainer state, gone when the run is finished
.lock                       held by the one writer
stage2/step-000720-<hash8>/ Stage-2 probe of a checkpoint; hash8 stands for its recipe
run.json                    manifest: status, hashes, versions, timings, sha256 of each artifact
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from coordexp.config.compose import digest, group_hash, run_hash
from coordexp.errors import UserError
from coordexp.storage.files import read_json, sha256_directory, sha256_file, write_json, write_text

RESULTS = Path("results")
PACKAGE = Path(__file__).resolve().parents[1]

# What can change a trained weight or a logged number. Digests go into the manifest, and the audit compares them.
TRAINING_MODULES = (
    "training/train.py",
    "training/setup.py",
    "training/step.py",
    "training/evaluate.py",
    "training/optim.py",
    "training/stage1_model.py",
    "models/checkpoints.py",
    "models/adapters.py",
    "models/attention.py",
    "models/processor.py",
    "losses/fused.py",
    "losses/chunk.py",
    "losses/kernel.py",
    "losses/slices.py",
    "losses/terms.py",
    "losses/reference.py",
    "losses/diagnostics.py",
    "data/batches.py",
    "data/packing.py",
    "data/patches.py",
    "data/records.py",
    "coords.py",
)
VERSIONED = ("torch", "transformers", "accelerate", "peft")
PREFLIGHT_TOLERANCE = 1e-5  # relative, between the training path and the evaluation path
PREFLIGHT_TOLERANCE_BFLOAT16 = (
    2.0**-8
)  # the rounding of one logit; a mean over thousands errs less. A lost factor is 1/2 or so


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


def data_directory(name: str, hash8: str) -> Path:
    return RESULTS / "data" / f"{name}-{hash8}"


def base_path(cfg: DictConfig) -> Path:
    """Where the base model of this configuration lies."""
    return RESULTS / "base" / f"{cfg.model.name}-{group_hash(cfg.model)}"


def probe_directory(run: RunDirectory, step: int, recipe: Mapping[str, Any]) -> Path:
    """Where the Stage-2 probe of a checkpoint lies; another recipe, another place."""
    return run.path / "stage2" / f"step-{step:06d}-{digest(dict(recipe))[:8]}"


def artifact_digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of every file (or checkpoint directory) that the manifest vouches for, by relative path."""
    files = [run.config, run.log, *(run.table(step) for step in run.table_steps())]
    digests = {str(f.relative_to(run.path)): sha256_file(f) for f in files if f.exists()}
    for step in run.checkpoint_steps():
        digests[str(run.checkpoint(step).relative_to(run.path))] = sha256_directory(
            run.checkpoint(step)
        )
    return digests


def preflight_tolerance(dtype: str) -> float:
    """How far apart, relatively, the loss of the training path and that of the evaluation path may be.

    The two pad differently. In float32 that shows in the eighth digit; in bfloat16 every activation is rounded to its
    eighth bit, differently for every shape of a matrix product.
    """
    return PREFLIGHT_TOLERANCE_BFLOAT16 if dtype == "bfloat16" else PREFLIGHT_TOLERANCE


def damaged_artifacts(run: RunDirectory, manifest: dict[str, Any]) -> list[str]:
    """The artifacts whose bytes are not those the manifest vouches for (missing ones too)."""
    found = artifact_digests(run)
    return sorted(
        name for name, sha256 in manifest["artifacts"].items() if found.get(name) != sha256
    )


def module_digests() -> dict[str, str]:
    """sha256 of the source of each module that touches training."""
    return {
        name: hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() for name in TRAINING_MODULES
    }


def read_manifest(run: RunDirectory) -> dict[str, Any] | None:
    """The manifest of a finished run, or None while it is not finished."""
    return read_json(run.manifest) if run.manifest.exists() else None


def write_config(run: RunDirectory, cfg: DictConfig) -> None:
    write_text(run.config, OmegaConf.to_yaml(cfg))


def write_manifest(
    run: RunDirectory,
    cfg: DictConfig,
    digests: dict[str, str],
    status: str,
    reason: str | None,
    facts: dict[str, Any],
) -> None:
    """Seal a run: `status` is complete or diverged, `facts` what the trainer measured."""
    manifest = {
        "status": status,
        "reason": reason,
        "variant": cfg.variant.name,
        "seed": cfg.seed,
        "hash8": run_hash(cfg),
        "max_steps": cfg.train.max_steps,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "inputs_sha256": digests,
        **facts,
        "checkpoints": run.checkpoint_steps(),
        "token_tables": run.table_steps(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in VERSIONED},
        "artifacts": artifact_digests(run),
    }
    write_json(run.manifest, manifest)


def verify_finished(run: RunDirectory, digests: dict[str, str]) -> bool:
    """Whether the run is finished. If so its manifest is touched, so that a workflow sees a fresh output.

    A finished run of other data or another base model (their files changed under the same name) is set aside.

    Raises:
        UserError: the manifest vouches for files that have changed since.
    """
    manifest = read_manifest(run)
    if manifest is None:
        return False
    if manifest["inputs_sha256"] != digests:
        set_aside(run)
        return False
    if damaged := damaged_artifacts(run, manifest):
        advice = "restore it, or remove the directory to train again"
        raise UserError(
            f"{run.path}: {damaged[0]} is not what {run.manifest.name} vouches for: {advice}"
        )
    run.manifest.touch()
    shutil.rmtree(
        run.state.parent, ignore_errors=True
    )  # killed between sealing the run and removing its state
    return True


def remove_leftovers(run: RunDirectory) -> None:
    """Temporary files and directories of a killed trainer. Whoever calls this holds the lock."""
    for leftover in [*run.path.rglob(".*.tmp")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def holds_results(run: RunDirectory) -> bool:
    return run.log.exists() or bool(run.table_steps() or run.checkpoint_steps())


def set_aside(run: RunDirectory) -> None:
    """Move everything but the lock to <name>.aside-<n>: it belongs to other data or another base model."""
    n = 1
    while (aside := run.path.with_name(f"{run.path.name}.aside-{n}")).exists():
        n += 1
    aside.mkdir()
    for item in run.path.iterdir():
        if item != run.lock:
            os.replace(item, aside / item.name)
