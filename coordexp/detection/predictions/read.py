"""Read a file of predictions in whichever of the known formats it is; its content decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coordexp.detection.predictions.coco_results import read_coco_results
from coordexp.detection.predictions.gt_vs_pred import is_gt_vs_pred, read_gt_vs_pred, why_not
from coordexp.detection.predictions.images import Predictions
from coordexp.detection.predictions.own import read_own
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

FORMATS = (
    "CoordExp's gt_vs_pred.jsonl, a COCO result file, "
    "or rollouts of this project (a probe's directory, rollouts-*.jsonl)"
)
OF_OWN = {"image_id", "text", "token_ends"}  # keys of a rollout of this project


def read_predictions(path: Path, ground_truth: Path | None = None) -> Predictions:
    """The predictions of a file, or of the directory of a probe.

    Args:
        ground_truth: COCO annotations or records, for a format that holds no ground truth.

    Raises:
        UserError: the content is of none of the known formats, or is damaged; see the reader of
            each format.
    """
    if path.is_dir():
        return read_own(path, ground_truth)
    content = read_bytes(path)
    first = None
    if not content.lstrip().startswith(b"["):
        first = _json(next((line for line in content.split(b"\n") if line.strip()), b""))
    if isinstance(first, dict):
        if is_gt_vs_pred(first):
            return read_gt_vs_pred(path)
        if first.keys() >= OF_OWN:
            return read_own(path, ground_truth)
    whole = _json(content)
    if isinstance(whole, list) and not is_per_image(whole) and not is_gt_vs_pred(first_of(whole)):
        return read_coco_results(path, whole, ground_truth)
    raise UserError(f"{path}: {_what_it_is(first, whole)}: --rollouts takes {FORMATS}")


def _json(content: bytes) -> Any:
    """The JSON value of some bytes; None where they are not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def first_of(whole: list[Any]) -> Any:
    return whole[0] if whole else None


def is_per_image(whole: list[Any]) -> bool:
    """Whether a list is per_image.json of CoordExp's evaluation: counts without boxes."""
    return (
        bool(whole)
        and isinstance(whole[0], dict)
        and "bbox" not in whole[0]
        and ("f1ish" in whole[0] or "pred_count" in whole[0])
    )


def _what_it_is(first: Any, whole: Any) -> str:
    """What a file of another form is, as far as it can be told."""
    if isinstance(whole, list) and is_gt_vs_pred(first_of(whole)):
        return "lines of gt_vs_pred.jsonl in one list (write each on a line of its own)"
    if isinstance(whole, list):
        return "per_image.json of CoordExp's evaluation, counts without boxes"
    if isinstance(whole, dict) and "annotations" in whole:
        return "COCO annotations, the truth and not predictions (--ground-truth takes them)"
    if isinstance(whole, dict) and "metrics" in whole:
        return "metrics without a result per image (--evidence takes published figures)"
    if isinstance(first, dict) and ("loss" in first or "global_step/max_steps" in first):
        return "a log, not predictions"
    if isinstance(first, dict):
        return why_not(first)
    return "of no known format"
