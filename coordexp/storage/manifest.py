"""run.json, the manifest of a finished run: its type, reader, writer and verification."""

from __future__ import annotations

import datetime
import hashlib
import platform
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from coordexp.errors import UserError
from coordexp.storage.digest_store import (
    known_sha256_directory,
    known_sha256s,
    require_sha256,
)
from coordexp.storage.runs import RunDirectory, set_aside
from coordexp.storage.typed import read_typed, write_typed

PACKAGE = Path(__file__).resolve().parents[1]

# Every module whose code can change a trained weight or a logged number. Their digests go into the
# manifest, and the audit compares them between runs.
TRAINING_MODULES = (
    "training/train.py",
    "training/setup.py",
    "training/preflight/checks.py",
    "training/preflight/passes.py",
    "training/preflight/windows.py",
    "training/preflight/projection.py",
    "training/preflight/explain.py",
    "training/step.py",
    "training/evaluate.py",
    "training/optim.py",
    "training/stage1_model.py",
    "models/checkpoints.py",
    "models/adapters.py",
    "models/lora.py",
    "models/merging.py",
    "models/attention.py",
    "models/processor.py",
    "models/processor_files.py",
    "models/usage.py",
    "losses/fused.py",
    "losses/products.py",
    "losses/gradients.py",
    "losses/chunk.py",
    "losses/kernel.py",
    "losses/slices.py",
    "losses/terms.py",
    "losses/reference.py",
    "losses/diagnostics.py",
    "data/batches.py",
    "data/chat.py",
    "data/packing.py",
    "data/patches.py",
    "data/records.py",
    "coords.py",
)
VERSIONED = ("torch", "transformers", "accelerate", "peft")
# Relative difference that the pre-flight allows between two losses, norms or projections.
PREFLIGHT_TOLERANCE = 1e-5
# bfloat16 rounds each logit by up to 2^-8 (relative); losses and norms are sums over thousands of
# numbers and have a smaller error. A missing factor gives a difference of about 1/2.
PREFLIGHT_TOLERANCE_BFLOAT16 = 2.0**-8
# A projection shows the length of the difference of two gradients. Rounding errors do not cancel in
# it: 0.01 of the norm in bfloat16 (docs/performance.md).
PROJECTION_TOLERANCE_BFLOAT16 = 2.0**-4

Status = Literal["complete", "diverged"]


@dataclass(frozen=True)
class InputDigests:
    """sha256 of what a run was trained on: its records (with data.json), and its base model."""

    data: str
    base: str


@dataclass(frozen=True, kw_only=True)
class GradientAgreement:
    """Loss and gradient of the same images, computed in two ways. Differences are relative."""

    loss_difference: float
    norm: float  # of the whole gradient, as the training path computes it
    norm_difference: float
    # By part of the model: length of the difference of two random projections over the part's norm.
    projection_difference: dict[str, float]
    micro_batches: list[int]  # of a rank, in the two ways


@dataclass(frozen=True)
class Preflight:
    """Losses and gradients before step 1, each computed in two ways (training/preflight.py).

    A manifest of an earlier version has the losses only.
    """

    train_loss: float | None = None  # of the images of step 1
    eval_loss: float | None = None  # of the same images, by the evaluation path
    relative_difference: float | None = None  # of these two
    cut: GradientAgreement | None = None  # images of step 1: as configured, and cut otherwise
    reference: GradientAgreement | None = None  # a small micro-batch: the reference formula


@dataclass(frozen=True)
class ImageSides:
    """Sides of the validation images: [smallest, median, largest], in pixels."""

    width: list[float]
    height: list[float]


@dataclass(frozen=True, kw_only=True)
class RunManifest:
    """run.json: how a run ended, what it was trained on and with, and sha256 of its files."""

    status: Status
    reason: str | None  # of a divergence
    variant: str
    seed: int
    hash8: str  # of the configuration
    max_steps: int
    finished_at: str  # ISO 8601, UTC
    inputs_sha256: InputDigests
    data: str | None = None  # the directory of its records; None in an earlier version
    step: int  # the last one trained
    tokens_seen: int
    supervised_seen: int | None = None  # tokens with a loss
    train_wall_s: float
    eval_wall_s: float
    preflight: Preflight
    preflight_wall_s: float | None = None
    train_cpu_s: float | None = None  # CPU seconds of the steps, of the main process
    processes: int = 1
    device: str | None = None
    modules_sha256: dict[str, str]  # of the code, by module
    cell_px: int | None = None  # side of the square that one visual token covers
    val_images: int | None = None
    val_images_rendered: int = 0  # of these, drawn from annotations
    val_images_tiles: int = 0  # of these, cut from larger pictures
    val_sides_px: ImageSides | None = None
    data_notes: list[str] = field(default_factory=list)  # of the conversion, such as copies
    checkpoints: list[int] = field(default_factory=list)  # steps
    token_tables: list[int] = field(default_factory=list)  # steps
    versions: dict[str, str]
    artifacts: dict[str, str]  # sha256 by path inside the run directory


def read_manifest(run: RunDirectory) -> RunManifest | None:
    """The manifest of a finished run, or None while it is not finished.

    Raises:
        UserError: it is damaged; the message names the file and the key.
    """
    return read_typed(run.manifest, RunManifest) if run.manifest.exists() else None


def write_manifest(run: RunDirectory, manifest: RunManifest) -> None:
    """Write run.json atomically. Once it exists, the run counts as finished."""
    write_typed(run.manifest, manifest)


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        found[name] = version(name)
    return found


def module_digests() -> dict[str, str]:
    """sha256 of the source of each module in TRAINING_MODULES."""
    return {
        name: hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() for name in TRAINING_MODULES
    }


def preflight_tolerance(dtype: str) -> float:
    """Allowed relative difference of two losses, or of the norms of two gradients.

    The two ways pad differently, so matrix products have other shapes and round differently. In
    float32 this changes the seventh digit. In bfloat16 every activation is rounded to eight bits.
    """
    return PREFLIGHT_TOLERANCE_BFLOAT16 if dtype == "bfloat16" else PREFLIGHT_TOLERANCE


def projection_tolerance(dtype: str) -> float:
    """Allowed length of the difference of two projections, over the norm of the gradient."""
    return PROJECTION_TOLERANCE_BFLOAT16 if dtype == "bfloat16" else PREFLIGHT_TOLERANCE


def artifact_digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of every file and checkpoint directory that the manifest records, by relative path."""
    digests = evidence_digests(run)
    for checkpoint in map(run.checkpoint, run.checkpoint_steps()):
        digests[str(checkpoint.relative_to(run.path))] = known_sha256_directory(checkpoint)
    return digests


def evidence_digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of the files that an analysis reads: configuration, log and token tables."""
    files = [run.config, run.log, *map(run.table, run.table_steps())]
    found = known_sha256s([file for file in files if file.exists()])
    return {str(file.relative_to(run.path)): sha256 for file, sha256 in found.items()}


def damaged_artifacts(run: RunDirectory, manifest: RunManifest) -> list[str]:
    """The artifacts that are missing or whose bytes differ from the digest in the manifest."""
    found = artifact_digests(run)
    return sorted(name for name, sha256 in manifest.artifacts.items() if found.get(name) != sha256)


def require_recorded(run: RunDirectory, *files: Path) -> None:
    """Refuse files of a finished run that are not what run.json records of them.

    Of a run that has not finished nothing is recorded yet, and of one of an earlier version not
    every file.

    Raises:
        UserError: one is missing, changed or damaged, or run.json itself is damaged.
    """
    manifest = read_manifest(run)
    if manifest is None:
        return
    advice = f"restore it, or remove {run.path} to train again"
    for file in files:
        recorded = manifest.artifacts.get(str(file.relative_to(run.path)))
        if recorded is not None:
            require_sha256(file, recorded, "run.json", advice)


def require_checkpoint(run: RunDirectory, manifest: RunManifest, step: int) -> None:
    """Refuse a checkpoint that is not the one that run.json records.

    Raises:
        UserError: it is missing, changed or damaged, or run.json does not record it.
    """
    checkpoint = run.checkpoint(step)
    recorded = manifest.artifacts.get(str(checkpoint.relative_to(run.path)))
    if recorded is None:
        raise UserError(f"{checkpoint}: run.json does not record it: train the run again")
    advice = f"restore it, or remove {run.path} to train again"
    require_sha256(checkpoint, recorded, "run.json", advice)


def verify_finished(run: RunDirectory, inputs: InputDigests) -> bool:
    """Whether the run is finished. If so, run.json is touched: a workflow then sees a new output.

    If the run was made from other data or another base model (their files have changed under the
    same name), it is moved aside and does not count.

    Raises:
        UserError: run.json is damaged, or files that it records have changed since.
    """
    manifest = read_manifest(run)
    if manifest is None:
        return False
    if manifest.inputs_sha256 != inputs:
        set_aside(run)
        return False
    if damaged := damaged_artifacts(run, manifest):
        advice = "restore it, or remove the directory to train again"
        raise UserError(
            f"{run.path}: {damaged[0]} differs from its digest in {run.manifest.name}: {advice}"
        )
    run.manifest.touch()
    # The trainer may have been killed after it wrote run.json and before it removed the state.
    shutil.rmtree(run.state.parent, ignore_errors=True)
    return True
