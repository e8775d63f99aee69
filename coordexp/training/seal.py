"""The end of a run: write its manifest from the trainer's settings and measurements."""

from __future__ import annotations

import shutil

import numpy as np

from coordexp.data.coco.conversion_stats import conversion_notes
from coordexp.data.records import RENDERED, TILE
from coordexp.storage.identity import data_path, run_hash
from coordexp.storage.manifest import (
    ImageSides,
    RunManifest,
    Status,
    artifact_digests,
    installed_versions,
    utc_now,
    write_manifest,
)
from coordexp.training.step import Training


def seal(t: Training, status: Status, reason: str | None) -> None:
    """Write run.json, then remove the resumable state."""
    write_manifest(t.run, manifest_of(t, status, reason))
    shutil.rmtree(t.run.state.parent)


def manifest_of(t: Training, status: Status, reason: str | None) -> RunManifest:
    """The manifest of a run that has ended with this status and reason."""
    images, records = t.processor.image_processor, t.val.records
    return RunManifest(
        status=status,
        reason=reason,
        variant=t.cfg.variant.name,
        seed=t.cfg.seed,
        hash8=run_hash(t.cfg),
        max_steps=t.cfg.train.max_steps,
        finished_at=utc_now(),
        inputs_sha256=t.digests,
        data=str(data_path(t.cfg)),
        step=t.progress.step,
        tokens_seen=t.progress.tokens_seen,
        supervised_seen=t.progress.supervised_seen,
        train_wall_s=t.progress.train_wall_s,
        train_cpu_s=t.progress.train_cpu_s,
        eval_wall_s=t.progress.eval_wall_s,
        preflight=t.progress.preflight,
        preflight_wall_s=t.progress.preflight_wall_s,
        processes=t.accelerator.num_processes,
        device=str(t.accelerator.device),
        modules_sha256=t.modules,
        cell_px=images.patch_size * images.merge_size,
        val_images=len(records),
        val_images_rendered=sum(bool(r.metadata.get(RENDERED)) for r in records),
        val_images_tiles=sum(TILE in r.metadata for r in records),
        val_sides_px=ImageSides(
            width=spread([r.width for r in records]), height=spread([r.height for r in records])
        ),
        data_notes=conversion_notes(data_path(t.cfg)),
        checkpoints=t.run.checkpoint_steps(),
        token_tables=t.run.table_steps(),
        versions=installed_versions(),
        artifacts=artifact_digests(t.run),
    )


def spread(sides_px: list[int]) -> list[float]:
    """[smallest, median, largest]."""
    return [min(sides_px), float(np.median(sides_px)), max(sides_px)]
