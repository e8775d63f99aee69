"""Rollouts scored against the records they were made from: counts of each image, and figures as ratios of their sums.

A rollout is what a checkpoint wrote for one image, a JSON line of a shard:

    {"image_id": 0, "image": "images/000001.png", "text": "…", "finished": true, "n_tokens": 27, "token_ends": [13, …],
     "token_logprobs": [-0.02, …]}

`image_id` counts the records from 0, `finished` is false where the budget of tokens ran out, `token_ends` is the number of
characters of `text` up to the end of each token. Truth is rounded to bins as in training: the best a model can write.
Shapes: I images, T thresholds of IoU, D resamples.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.coords import CoordObject, Parsed, parse_coordjson
from coordexp.data.records import Record
from coordexp.detection.matching import THRESHOLDS, Box, score_image
from coordexp.errors import UserError
from coordexp.resampling import weighted_sums

FIELDS = {
    "image_id": int, "image": str, "text": str, "finished": bool, "n_tokens": int, "token_ends": list, "token_logprobs": list,
}  # fmt: skip


@dataclass(frozen=True)
class RolloutScores:
    """What was counted in each image; the columns are those of `_count`."""

    images: np.ndarray  # [I] image_id, ascending
    columns: dict[str, np.ndarray]  # [I], and [I, T] for tp_aware and tp_agnostic
    dropped_by_reason: Counter[str]  # over all images; the reasons of parse_coordjson


def read_rollouts(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rollouts of all shards, sorted by image_id; an image that stands there twice with one text counts once.

    Raises:
        UserError: a shard is missing, a line is broken (named), an image stands there twice with different texts, or
            no shard holds a rollout.
    """
    paths = list(paths)
    rows: dict[int, dict[str, Any]] = {}
    for path in paths:
        for where, row in _lines(path):
            if rows.setdefault(row["image_id"], row)["text"] != row["text"]:
                raise UserError(
                    f"{where}: image {row['image_id']} stands there twice with different texts: keep one run's shards"
                )
    if not rows:
        raise UserError(
            f"{', '.join(map(str, paths)) or 'no shard'}: no rollouts: roll the checkpoint out again"
        )
    return [rows[image] for image in sorted(rows)]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open(path, "rb") as handle:  # which ends lines at line feeds only
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield f"{path}:{number}", _checked(line, f"{path}:{number}")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: roll the checkpoint out first") from error


def _checked(line: bytes, where: str) -> dict[str, Any]:
    remedy = "remove the shard and roll out again"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}): {remedy}") from error
    for name, kind in FIELDS.items():
        if not isinstance(row, dict) or type(row.get(name)) is not kind:
            raise UserError(
                f"{where}: not a rollout, {name} must be there and of type {kind.__name__}: {remedy}"
            )
    ends, logprobs = row["token_ends"], row["token_logprobs"]
    if len(ends) != len(logprobs) or not all(
        type(v) in (int, float) and abs(v) < math.inf for v in logprobs
    ):
        raise UserError(
            f"{where}: token_logprobs must be finite numbers, one for each of token_ends: {remedy}"
        )
    if not all(type(end) is int for end in ends) or [0, *ends, len(row["text"])] != sorted(
        [0, *ends, len(row["text"])]
    ):
        raise UserError(
            f"{where}: token_ends must grow from 0 to at most the length of the text: {remedy}"
        )
    return row


def record_of(row: dict[str, Any], records: Sequence[Record]) -> Record:
    """The record a rollout was made from.

    Raises:
        UserError: there is none, or it names another picture.
    """
    image = row["image_id"]
    if not 0 <= image < len(records):
        raise UserError(
            f"rollout of image {image}: there are {len(records)} records: give the records it was made from"
        )
    if records[image].image != row["image"]:
        raise UserError(
            f"rollout of image {image}: made from {row['image']}, the record names {records[image].image}: give its records"
        )
    return records[image]


def named_boxes(objects: Sequence[CoordObject]) -> list[tuple[str, Box]]:
    """Names and boxes in bins, where IoU is that of pixels and its arithmetic exact; a polygon counts as the box around it."""
    return [
        (o.desc, (min(o.bins[0::2]), min(o.bins[1::2]), max(o.bins[0::2]), max(o.bins[1::2])))
        for o in objects
    ]


def score_rollouts(rows: Sequence[dict[str, Any]], records: Sequence[Record]) -> RolloutScores:
    """Parse each rollout (there is at least one) and match it to its record; images without a rollout are left out.

    Raises:
        UserError: a rollout that was made from other records.
    """
    rows = sorted(rows, key=lambda row: row["image_id"])
    reasons: Counter[str] = Counter()
    counts = []
    for row in rows:
        parsed = parse_coordjson(row["text"])
        reasons.update(parsed.dropped)
        counts.append(_count(row, parsed, record_of(row, records)))
    columns = {name: np.array([count[name] for count in counts]) for name in counts[0]}
    return RolloutScores(
        np.array([row["image_id"] for row in rows], dtype=np.int64), columns, reasons
    )


def _count(row: dict[str, Any], parsed: Parsed, record: Record) -> dict[str, Any]:
    """One image's value in each column."""
    score = score_image(named_boxes(parsed.objects), named_boxes(record.coord_objects()))
    return {
        "strict": int(parsed.strict),  # the whole text is CoordJSON
        "truncated": int(parsed.truncated),  # the closing `]}` never came
        "unfinished": int(not row["finished"]),  # the budget of tokens ran out
        "trailing": int(bool(parsed.trailing)),  # something stands behind the end
        "dropped": parsed.dropped.total(),  # objects that broke the grammar
        "n_predicted": score.n_predicted,
        "n_truth": score.n_truth,
        "tp_aware": score.true_positives_aware,  # [T]
        "tp_agnostic": score.true_positives_agnostic,  # [T]
        "matched_iou_sum": score.matched_iou_sum,
        "n_matched": score.n_matched,
        "duplicates": score.duplicates,
        "n_tokens": row["n_tokens"],
    }


def figures(
    scores: RolloutScores, weights: np.ndarray | None = None
) -> dict[str, float | np.ndarray]:
    """The summary: ratios of sums over images, each image weighing `weights` times  # [D, I] -> [D] each; no weights -> floats

    `parse_rate`, `truncation_rate` and `unfinished_rate` are shares of the images; `count_ratio` is predicted / true objects;
    `duplicate_rate` is a share of the predicted; `mean_matched_iou` is over the pairs at IoU >= .5, whatever their names.
    `precision`, `recall` and `f1` = 2 TP / (predicted + true) are means over IoU .5, .55, … .95, with `_50` and `_75` at one
    threshold, and with `_agnostic` behind where names do not count. What has nothing to be a share of (0 / 0) is 0.
    """
    once = np.ones((1, len(scores.images))) if weights is None else weights
    total = _totals(once, scores.columns)
    n_images, predicted, true = (
        once.sum(1, dtype=np.float64),
        total["n_predicted"],
        total["n_truth"],
    )
    found = {
        "parse_rate": _ratio(total["strict"], n_images),
        "truncation_rate": _ratio(total["truncated"], n_images),
        "unfinished_rate": _ratio(total["unfinished"], n_images),
        "count_ratio": _ratio(predicted, true),
        "mean_matched_iou": _ratio(total["matched_iou_sum"], total["n_matched"]),
        "duplicate_rate": _ratio(total["duplicates"], predicted),
    }
    for kind, suffix in (("tp_aware", ""), ("tp_agnostic", "_agnostic")):
        for name, hits, of in (
            ("precision", total[kind], predicted),
            ("recall", total[kind], true),
            ("f1", 2 * total[kind], predicted + true),
        ):
            by_threshold = _ratio(hits, of[:, None])  # [D, T]
            found[f"{name}_50{suffix}"] = by_threshold[:, THRESHOLDS.index(0.5)]
            found[f"{name}_75{suffix}"] = by_threshold[:, THRESHOLDS.index(0.75)]
            found[f"{name}{suffix}"] = by_threshold.mean(1)
    return {
        name: values if weights is not None else float(values[0]) for name, values in found.items()
    }


def _totals(weights: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each column summed over the images of each resample  # [D, I], [I] or [I, T] -> [D] or [D, T]"""
    ends = np.cumsum([column[0].size for column in columns.values()])
    flat = np.column_stack(list(columns.values())).astype(np.float64)  # [I, all columns]
    parts = np.split(weighted_sums(weights, flat), ends[:-1], axis=1)
    return {
        name: part[:, 0] if columns[name].ndim == 1 else part
        for name, part in zip(columns, parts, strict=True)
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(
        part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0
    )
