"""Rollouts scored against the records they were made from.

Counts are kept per image; figures are ratios of sums of these counts over images. The ground truth
is rounded to bins, as in training: a model cannot write coordinates more exactly.
Shapes: I images, T thresholds of IoU, D resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.coords import CoordObject, Parsed, parse_coordjson
from coordexp.data.records import Record
from coordexp.detection.matching import THRESHOLDS, Box, ImageScore, score_image
from coordexp.detection.rollouts import Rollout, record_of
from coordexp.resampling import weighted_sums


@dataclass(frozen=True)
class RolloutScores:
    """What was counted in each image; the columns are those of `_count`."""

    images: np.ndarray  # [I] image_id, ascending
    columns: dict[str, np.ndarray]  # [I], and [I, T] for tp_aware and tp_agnostic
    dropped_by_reason: Counter[str]  # over all images; the reasons of parse_coordjson


def named_boxes(objects: Sequence[CoordObject]) -> list[tuple[str, Box]]:
    """Name and box (x1, y1, x2, y2 in bins) of each object; a polygon counts as its bounding box.

    The IoU in bins equals the IoU in pixels, and integers make its areas exact.
    """
    named: list[tuple[str, Box]] = []
    for obj in objects:
        xs, ys = obj.bins[0::2], obj.bins[1::2]
        named.append((obj.desc, (min(xs), min(ys), max(xs), max(ys))))
    return named


def score_rollouts(rollouts: Sequence[Rollout], records: Sequence[Record]) -> RolloutScores:
    """Parse each rollout (there is at least one) and match it to its record.

    Images without a rollout are left out.

    Raises:
        UserError: a rollout that was made from other records.
    """
    rollouts = sorted(rollouts, key=lambda rollout: rollout.image_id)
    reasons: Counter[str] = Counter()
    counts = []
    for rollout in rollouts:
        parsed = parse_coordjson(rollout.text)
        reasons.update(parsed.dropped)
        counts.append(_count(rollout, parsed, record_of(rollout, records)))
    columns = {name: np.array([count[name] for count in counts]) for name in counts[0]}
    images = np.array([rollout.image_id for rollout in rollouts], dtype=np.int64)
    return RolloutScores(images, columns, reasons)


def scores_of_images(scores: RolloutScores, chosen: np.ndarray) -> RolloutScores:
    """The counts of some of the images  # chosen: [n] indices of images

    Reasons for dropped objects are counted over all images only, so there are none.
    """
    columns = {name: column[chosen] for name, column in scores.columns.items()}
    return RolloutScores(scores.images[chosen], columns, Counter())


def _count(
    rollout: Rollout, parsed: Parsed, record: Record
) -> dict[str, int | float | tuple[int, ...]]:
    """One image's value in each column."""
    score = score_image(named_boxes(parsed.objects), named_boxes(record.coord_objects()))
    return {
        "strict": int(parsed.strict),  # the whole text is CoordJSON
        "truncated": int(parsed.truncated),  # the closing `]}` never came
        "unfinished": int(not rollout.finished),  # the token budget ran out
        "trailing": int(bool(parsed.trailing)),  # text follows the end of the list
        "dropped": parsed.dropped.total(),  # objects that broke the grammar
        "n_tokens": rollout.n_tokens,
        **matched_columns(score),
    }


def matched_columns(score: ImageScore) -> dict[str, int | float | tuple[int, ...]]:
    """One image's value in each column that the matching gives."""
    return {
        "n_predicted": score.n_predicted,
        "n_truth": score.n_truth,
        "tp_aware": score.true_positives_aware,  # [T]
        "tp_agnostic": score.true_positives_agnostic,  # [T]
        "matched_iou_sum": score.matched_iou_sum,
        "n_matched": score.n_matched,
        "duplicates": score.duplicates,
        "names_matched": score.names_matched,
    }


def figures(
    scores: RolloutScores, weights: np.ndarray | None = None
) -> dict[str, float | np.ndarray]:
    """The summary: ratios of sums over images, in each resample.

    `parse_rate`, `truncation_rate` and `unfinished_rate` are shares of the images. `count_ratio` is
    predicted / true objects, `duplicate_rate` a share of the predicted objects. `mean_matched_iou`
    is over the pairs with IoU >= .5, whatever their names. `precision`, `recall` and `f1` = 2 TP /
    (predicted + true) are means over IoU .5, .55, … .95; the suffixes `_50` and `_75` are at one
    threshold, `_agnostic` ignores names. `names_f1` ignores boxes: the names of an image, as a
    multiset. A share of nothing (0 / 0) is 0.

    Args:
        scores: the counts of I images.
        weights: [D, I] how often each image counts in each resample.

    Returns:
        Each figure as [D]; as a float without weights.
    """
    resamples = np.ones((1, len(scores.images))) if weights is None else weights
    total = _totals(resamples, scores.columns)
    n_images = resamples.sum(1, dtype=np.float64)  # [D]
    predicted, true = total["n_predicted"], total["n_truth"]  # [D]
    found = {
        "parse_rate": _ratio(total["strict"], n_images),
        "truncation_rate": _ratio(total["truncated"], n_images),
        "unfinished_rate": _ratio(total["unfinished"], n_images),
        "count_ratio": _ratio(predicted, true),
        "mean_matched_iou": _ratio(total["matched_iou_sum"], total["n_matched"]),
        "duplicate_rate": _ratio(total["duplicates"], predicted),
        "names_f1": _ratio(2 * total["names_matched"], predicted + true),
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
    if weights is None:
        return {name: float(values[0]) for name, values in found.items()}
    return dict(found)


def _totals(weights: np.ndarray, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each column summed over images, by resample.

    Args:
        weights: [D, I]
        columns: [I] or [I, T] each

    Returns:
        [D] or [D, T] each.
    """
    # One matrix product for all columns side by side is faster than one per column.
    widths = [column[0].size for column in columns.values()]
    flat = np.column_stack(list(columns.values())).astype(np.float64)  # [I, sum of widths]
    parts = np.split(weighted_sums(weights, flat), np.cumsum(widths)[:-1], axis=1)
    total = {}
    for (name, column), part in zip(columns.items(), parts, strict=True):
        total[name] = part[:, 0] if column.ndim == 1 else part
    return total


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, broadcast; 0 where whole is 0."""
    zeros = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    return np.divide(part, whole, out=zeros, where=whole > 0)
