"""What a probe says of one candidate: figures, and what each image contributes to them. No torch.

`<run>/stage2/step-<step>-<recipe8>/` is one probe (see probe.py); recipe8 is the digest of its settings.
Shapes: I images, D resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from coordexp.config import digest
from coordexp.data.records import read_records
from coordexp.files import read_json
from coordexp.runs import RunDirectory
from coordexp.schema import UserError
from coordexp.stage2.scores import RolloutScores, figures, read_rollouts, score_rollouts


@dataclass(frozen=True)
class Signal:
    """A figure of a probe. `votes`: may rank candidates (the others explain)."""

    name: str
    label: str
    lower_is_better: bool | None
    of_images: bool = True  # has per-image contributions, so an interval


SIGNALS = {
    s.name: s
    for s in (
        Signal("parse_rate", "parse rate", False),
        Signal("f1_50", "F1@.5", False),
        Signal("f1_75", "F1@.75", False),
        Signal("f1", "F1@.5:.95", False),
        Signal("f1_50_agnostic", "F1@.5, names aside", False),
        Signal("precision_50", "precision@.5", False),
        Signal("recall_50", "recall@.5", False),
        Signal("mean_matched_iou", "matched IoU", False),
        Signal("count_ratio", "count ratio", None),
        Signal("duplicate_rate", "duplicates", True),
        Signal("truncation_rate", "truncated", True),
        Signal("ap", "COCO AP", False, of_images=False),
        Signal("geo_loss_before", "geometric loss, start", True),
        Signal("geo_loss_after", "geometric loss, end", True),
        Signal("geo_loss_slope", "slope a step", None, of_images=False),
        Signal("parse_rate_after", "parse rate, end", False),
        Signal("f1_50_after", "F1@.5, end", False),
        Signal("f1_after", "F1@.5:.95, end", False),
    )
}


@dataclass(frozen=True)
class Probed:
    """One candidate's probe. `scores` by moment (before, after); `geo_loss` by moment [I], over `n_boxes` [I]."""

    directory: Path
    manifest: dict[str, Any]
    scores: dict[str, RolloutScores]
    images: np.ndarray  # [I]
    n_boxes: np.ndarray  # [I]
    geo_loss: dict[str, np.ndarray]

    def figures(self, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Every signal that has per-image contributions  # [D, I] -> [D] each; no weights -> floats"""
        found: dict[str, Any] = {}
        for moment, scores in self.scores.items():
            suffix = "" if moment == "before" else "_after"
            found |= {f"{name}{suffix}": value for name, value in figures(scores, weights).items()}
        once = np.ones((1, len(self.images))) if weights is None else weights.astype(np.float64)
        boxes = once @ self.n_boxes
        for moment, loss in self.geo_loss.items():
            mean = (once @ (loss * self.n_boxes)) / np.maximum(boxes, 1)
            found[f"geo_loss_{moment}"] = mean if weights is not None else float(mean[0])
        return {name: value for name, value in found.items() if name in SIGNALS}

    def influence(self) -> dict[str, np.ndarray]:
        """How much each image moves each signal, by leaving it out (the jackknife's influence)  # [I] each"""
        n = len(self.images)
        without = self.figures(np.ones((n, n), dtype=np.uint16) - np.eye(n, dtype=np.uint16))
        whole = self.figures()
        return {name: (whole[name] - without[name]) * (n - 1) / n for name in whole}


def recipe8(settings: Mapping[str, Any]) -> str:
    return digest(dict(settings))[:8]


def probe_directory(run: RunDirectory, step: int, settings: Mapping[str, Any]) -> Path:
    return run.path / "stage2" / f"step-{step:06d}-{recipe8(settings)}"


def read_probe(directory: Path) -> Probed | None:
    """A finished probe; None where there is none, or where there was no checkpoint to probe.

    Raises:
        UserError: its files, or the records it was made from, are broken or missing.
    """
    if not (directory / "probe.json").exists():
        return None
    manifest = read_json(directory / "probe.json")
    if manifest["status"] == "no checkpoint":
        return None
    records = read_records(Path(manifest["records"]))
    moments = [m for m in ("before", "after") if list(directory.glob(f"{m}/rollouts-*.jsonl"))]
    scores = {m: score_rollouts(read_rollouts(sorted(directory.glob(f"{m}/rollouts-*.jsonl"))), records) for m in moments}
    table = pq.read_table(directory / "images.parquet").to_pydict()
    images, n_boxes = np.array(table["image_id"]), np.array(table["n_boxes"])
    if any(not np.array_equal(s.images, images) for s in scores.values()):
        raise UserError(f"{directory}: rollouts and losses are not of the same images: remove the directory and probe again")
    geo_loss = {m: np.array(table[f"geo_loss_{m}"], dtype=np.float64) for m in moments}
    return Probed(directory, manifest, scores, images, n_boxes, {m: np.where(n_boxes > 0, v, 0.0) for m, v in geo_loss.items()})
