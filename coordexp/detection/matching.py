"""Match predicted boxes to true boxes within one image.

Boxes are x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, continuous (no pixel is added to a side). IoU
does not change when an axis is stretched, so pixels and bins give the same. Shapes: P predicted
boxes, G true ones, T thresholds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = tuple(
    percent / 100 for percent in range(50, 100, 5)
)  # [T] of IoU: .5, .55, … .95, as in COCO
DUPLICATE_IOU = 0.9

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageScore:
    """Counts of one image, to be summed over images before any ratio is taken."""

    n_predicted: int
    n_truth: int
    true_positives_aware: tuple[int, ...]  # [T] pairs of one name with IoU >= the threshold
    true_positives_agnostic: tuple[int, ...]  # [T] pairs whatever their names
    matched_iou_sum: float  # over the pairs at IoU >= .5, whatever their names
    n_matched: int  # those pairs
    duplicates: int  # predictions with the name of an earlier one and IoU >= .9 with it
    names_matched: (
        int  # names that both sides have, wherever their boxes are; counted as a multiset
    )


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of `a` with each box of `b`  # [P, 4], [G, 4] -> [P, G]

    The IoU of two boxes without area is 0 / 0. It counts as 1 if they are the same box, else as 0.
    """
    a, b = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a, b))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    covered = area_a[:, None] + area_b[None, :] - shared
    same = (a[:, None] == b[None, :]).all(-1)
    return np.divide(shared, covered, out=same.astype(np.float64), where=covered > 0)


def match(iou: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs (p, g) with IoU >= threshold; each box is in at most one pair.

    The matching has as many pairs as possible and, among such matchings, the largest total IoU. A
    pair has the weight 1 + IoU / (n + 1) with n = min(P, G). All IoU terms together are then less
    than the weight of one more pair, so the assignment of largest weight (Hungarian method; Kuhn
    1955) is this matching. COCO's own matching is greedy by score and finds fewer pairs in a crowd.
    `iou` is [P, G]. The order of the boxes changes neither the number of pairs nor their total IoU.
    """
    enough = iou >= threshold
    if not enough.any():
        return []
    weight = np.where(enough, 1 + iou / (min(iou.shape) + 1), 0)
    pairs = zip(*linear_sum_assignment(weight, maximize=True), strict=True)
    return [(int(p), int(g)) for p, g in pairs if enough[p, g]]


def score_image(
    predicted: Sequence[tuple[str, Box]], truth: Sequence[tuple[str, Box]]
) -> ImageScore:
    """Match predicted (name, box) to true (name, box) at each threshold.

    Names must be equal after stripping blanks at their ends; case matters, because the model is
    trained on the exact names. Without true boxes every prediction is a false positive. Without
    predictions every true box is missed. Without both, all counts are 0 and the image has no effect
    on precision and recall.
    """
    names, true_names = ([name.strip() for name, _ in side] for side in (predicted, truth))
    iou = box_iou(_boxes(predicted), _boxes(truth))
    same_name = (
        np.array(names, dtype=object)[:, None] == np.array(true_names, dtype=object)[None, :]
    )
    matched = match(iou, THRESHOLDS[0])
    return ImageScore(
        n_predicted=len(predicted),
        n_truth=len(truth),
        true_positives_aware=tuple(len(match(np.where(same_name, iou, 0), t)) for t in THRESHOLDS),
        true_positives_agnostic=tuple(len(match(iou, t)) for t in THRESHOLDS),
        matched_iou_sum=math.fsum(iou[pair] for pair in matched),
        n_matched=len(matched),
        duplicates=_duplicates(names, _boxes(predicted)),
        names_matched=(Counter(names) & Counter(true_names)).total(),
    )


def _boxes(objects: Sequence[tuple[str, Box]]) -> np.ndarray:
    return np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)


def _duplicates(names: Sequence[str], boxes: np.ndarray) -> int:
    """How many boxes overlap an earlier one of the same name by DUPLICATE_IOU  # [P], [P, 4]"""
    found = 0
    for name in set(names):
        mine = boxes[[i for i, other in enumerate(names) if other == name]]
        found += int((np.tril(box_iou(mine, mine), -1) >= DUPLICATE_IOU).any(1).sum())
    return found
