"""Read a candidate's probe: its metrics, and the contribution of each image. Does not need torch.

`<run>/stage2/step-<step>-<recipe8>/` is one probe (see coordexp/probe/run.py); recipe8 is the
digest of its settings. Shapes: I images, D resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.data.records import Record, read_records
from coordexp.detection.average_precision import average_precision
from coordexp.detection.probe_manifest import (
    PROBE_FILE,
    MissingProbe,
    ProbeManifest,
    read_probe_manifest,
)
from coordexp.detection.rollouts import read_rollouts
from coordexp.detection.scores import RolloutScores, figures, score_rollouts, scores_of_images
from coordexp.errors import UserError
from coordexp.metrics import PROBE_METRICS
from coordexp.storage.digest_store import require_sha256
from coordexp.storage.manifest import read_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.storage.token_tables import read_columns

# Of an image with its own picture and with another one, in bins.
SWAPPED_ERRORS = ("mae_right", "mae_swapped")


@dataclass(frozen=True)
class Swapped:
    """What a checkpoint predicts for an image that is shown the picture of another one.

    n_coord [I] is 0 for an image that kept its picture. The errors [I] are means over an image's
    coordinates, in bins. The rollouts are of some of the images.
    """

    n_coord: np.ndarray
    mae_right: np.ndarray
    mae_swapped: np.ndarray
    scores: RolloutScores  # with exchanged pictures
    scores_right: RolloutScores  # of the same images, with their own
    rolled_out: np.ndarray  # index of each of them in the probe's images

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of the exchange at image weights [D, I]  # [D] each"""
        totals = weights.astype(np.float64) @ np.column_stack(
            [self.n_coord, self.n_coord * self.mae_right, self.n_coord * self.mae_swapped]
        )
        coordinates = np.maximum(totals[:, 0], 1)
        right, swapped = totals[:, 1] / coordinates, totals[:, 2] / coordinates
        of_rollouts = weights[:, self.rolled_out]
        f1_right = figures(self.scores_right, of_rollouts)["f1_50_agnostic"]
        f1_swapped = figures(self.scores, of_rollouts)["f1_50_agnostic"]
        return {
            "mae_right": right,
            "mae_swapped": swapped,
            "visual_contribution": swapped - right,
            "f1_50_right": np.asarray(f1_right),
            "f1_50_swapped": np.asarray(f1_swapped),
        }


@dataclass(frozen=True)
class Probed:
    """One candidate's probe.

    `scores` and `geo_loss` are keyed by moment (before, after the fine-tune). `geo_loss` [I] is the
    mean over the image's `n_boxes` [I] objects.
    """

    directory: Path
    manifest: ProbeManifest
    scores: dict[str, RolloutScores]
    images: np.ndarray  # [I]
    n_boxes: np.ndarray  # [I]
    geo_loss: dict[str, np.ndarray]
    ap: float  # COCO's AP of the rollouts before the fine-tune
    swapped: Swapped | None  # None if no two images with objects have one size

    def figures(self, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Every metric that has per-image contributions, at the image weights of each resample.

        `weights` [D, I] gives [D] per metric; without weights each metric is a float.
        """
        found: dict[str, Any] = {}
        for moment, scores in self.scores.items():
            suffix = "" if moment == "before" else "_after"
            found |= {f"{name}{suffix}": value for name, value in figures(scores, weights).items()}
        once = np.ones((1, len(self.images))) if weights is None else weights.astype(np.float64)
        boxes = once @ self.n_boxes
        for moment, loss in self.geo_loss.items():
            mean = (once @ (loss * self.n_boxes)) / np.maximum(boxes, 1)
            found[f"geo_loss_{moment}"] = mean if weights is not None else float(mean[0])
        for name, values in (self.swapped.figures(once) if self.swapped else {}).items():
            found[name] = values if weights is not None else float(values[0])
        return {name: value for name, value in found.items() if name in PROBE_METRICS}

    def influence(self) -> dict[str, np.ndarray]:
        """The jackknife influence of each image on each metric: {metric: [I]}.

        It is computed by leaving one image out at a time.
        """
        n = len(self.images)
        without = self.figures(np.ones((n, n), dtype=np.uint16) - np.eye(n, dtype=np.uint16))
        whole = self.figures()
        return {name: (whole[name] - without[name]) * (n - 1) / n for name in whole}


def read_probe(directory: Path) -> Probed | None:
    """A finished probe; None where there is none, or where there was no checkpoint to probe.

    Raises:
        UserError: its files, or the records it was made from, are broken or missing.
    """
    if not (directory / PROBE_FILE).exists():
        return None
    manifest = read_probe_manifest(directory / PROBE_FILE)
    if isinstance(manifest, MissingProbe):
        return None
    require_probe(directory, manifest)
    records = read_records(Path(manifest.records))
    moments = [m for m in ("before", "after") if list(directory.glob(f"{m}/rollouts-*.jsonl"))]
    rows = {m: read_rollouts(sorted(directory.glob(f"{m}/rollouts-*.jsonl"))) for m in moments}
    scores = {m: score_rollouts(rows[m], records) for m in moments}
    table = read_images(directory, [f"geo_loss_{m}" for m in moments], manifest)
    images = scores["before"].images
    at = np.searchsorted(images, table["image_id"]).clip(max=len(images) - 1)
    if any(not np.array_equal(s.images, images) for s in scores.values()) or not np.array_equal(
        images[at], table["image_id"]
    ):
        raise UserError(
            f"{directory}: rollouts and losses are not of the same images: remove the directory "
            "and probe again"
        )
    # A picture without objects has rollouts but no loss.
    n_boxes = np.zeros(len(images), dtype=np.int64)
    n_boxes[at] = table["n_boxes"]
    geo_loss = {moment: np.zeros(len(images)) for moment in moments}
    for moment, loss in geo_loss.items():
        loss[at] = table[f"geo_loss_{moment}"]
    ap = average_precision(rows["before"], records)["ap"]
    swapped = None
    if manifest.swapped is not None:
        swapped = read_swapped(directory, table, at, scores["before"], records)
    return Probed(directory, manifest, scores, images, n_boxes, geo_loss, ap, swapped)


def require_probe(directory: Path, manifest: ProbeManifest) -> None:
    """Refuse files of a probe, or records, that are not those that probe.json records.

    Raises:
        UserError: a file is missing, changed or damaged.
    """
    where, records = f"{directory / PROBE_FILE}", Path(manifest.records)
    advice = f"restore it, or remove {directory} and probe again"
    for name, recorded in manifest.artifacts.items():
        require_sha256(directory / name, recorded, where, advice)
    require_same_checkpoint(directory, manifest)
    if recorded_records := manifest.data_sha256.get(records.stem):
        require_sha256(records, recorded_records, where, advice)


def require_same_checkpoint(directory: Path, manifest: ProbeManifest) -> None:
    """Refuse a probe of another checkpoint than the one beside which it lies.

    Raises:
        UserError: run.json records other weights at this step.
    """
    run = RunDirectory(directory.parents[1])
    trained = read_manifest(run)
    checkpoint = f"checkpoints/{directory.name.rpartition('-')[0]}"
    recorded = trained.artifacts.get(checkpoint) if trained else None
    if recorded not in (None, manifest.checkpoint_sha256):
        raise UserError(
            f"{directory / PROBE_FILE}: of a checkpoint with sha256 "
            f"{manifest.checkpoint_sha256[:12]}, and {run.manifest} recorded {recorded[:12]} for "
            f"{checkpoint}: remove {directory} and probe again"
        )


def read_images(
    directory: Path, losses: Sequence[str], manifest: ProbeManifest
) -> dict[str, np.ndarray]:
    """The columns of images.parquet: ids, numbers of boxes, losses, and errors where exchanged.

    Raises:
        UserError: the file is missing or damaged, or lacks a column.
    """
    errors = ["n_coord", *SWAPPED_ERRORS] if manifest.swapped is not None else []
    return read_columns(
        directory / "images.parquet",
        ["image_id", "n_boxes", *losses, *errors],
        gaps=frozenset(SWAPPED_ERRORS),
        advice=f"restore it, or remove {directory} and probe again",
    )


def read_swapped(
    directory: Path,
    table: Mapping[str, np.ndarray],
    at: np.ndarray,
    right: RolloutScores,
    records: Sequence[Record],
) -> Swapped:
    """The exchange of pictures of a finished probe.

    Args:
        table: the columns of images.parquet.
        at: the index of each of its rows in the images of `right`.
        right: the scores of all images with their own pictures.

    Raises:
        UserError: its rollouts are missing, or not of the probe's images.
    """
    n_coord = np.zeros(len(right.images), dtype=np.int64)
    errors = {name: np.zeros(len(right.images)) for name in SWAPPED_ERRORS}
    n_coord[at] = table["n_coord"]
    for name, values in errors.items():
        # An image that kept its picture has no error, and the weight 0.
        values[at] = np.where(n_coord[at] > 0, table[name], 0.0)
    rollouts = read_rollouts(sorted(directory.glob("swapped/rollouts-*.jsonl")))
    scores = score_rollouts(rollouts, records)
    rolled_out = np.searchsorted(right.images, scores.images).clip(max=len(right.images) - 1)
    if not np.array_equal(right.images[rolled_out], scores.images):
        raise UserError(
            f"{directory}: swapped/ holds rollouts of images that the probe does not have: remove "
            "the directory and probe again"
        )
    return Swapped(
        n_coord=n_coord,
        **errors,
        scores=scores,
        scores_right=scores_of_images(right, rolled_out),
        rolled_out=rolled_out,
    )
