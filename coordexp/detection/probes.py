"""Read a candidate's probe: its metrics, and the contribution of each image. Does not need torch.

`<run>/stage2/step-<step>-<recipe8>/` is one probe (see coordexp/probe/run.py); recipe8 is the
digest of its settings. Shapes: I images, D resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from coordexp.data.records import read_records
from coordexp.detection.average_precision import average_precision
from coordexp.detection.probe_manifest import (
    PROBE_FILE,
    MissingProbe,
    ProbeManifest,
    read_probe_manifest,
)
from coordexp.detection.rollouts import read_rollouts
from coordexp.detection.scores import RolloutScores, figures, score_rollouts
from coordexp.errors import UserError
from coordexp.metrics import PROBE_METRICS


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
    records = read_records(Path(manifest.records))
    moments = [m for m in ("before", "after") if list(directory.glob(f"{m}/rollouts-*.jsonl"))]
    rows = {m: read_rollouts(sorted(directory.glob(f"{m}/rollouts-*.jsonl"))) for m in moments}
    scores = {m: score_rollouts(rows[m], records) for m in moments}
    table = pq.read_table(directory / "images.parquet").to_pydict()
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
    return Probed(directory, manifest, scores, images, n_boxes, geo_loss, ap)
