"""Which predicted box is which true box, in one image.

Boxes are x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, continuous (no pixel is added to a side). IoU
does not change when an axis is stretched, so pixels and bins give the same. Shapes: P predicted
boxes, G true ones, T thresholds.
"""

from __future__ import annotations

import math
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


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box with every other  # [P, 4], [G, 4] -> [P, G]

    Two boxes without area have 0 / 0: taken as 1 where they are the same box, else as 0.
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
    """Pairs (p, g) of IoU >= threshold, each box in one at most: as many as there can be, and of
    those the largest total IoU.

    A pair weighs 1 + IoU / (n + 1) with n = min(P, G): all IoU together weigh less than one pair
    more, and the assignment of largest weight (Hungarian method; Kuhn 1955) is that one. COCO's own
    matching is greedy by score, and finds fewer pairs in a crowd. `iou` is [P, G]; the order of the
    boxes changes neither the number of pairs nor their IoU.
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
    """Match the (name, box) that were predicted to those that are true, at each threshold.

    Names are compared letter by letter, blanks at their ends left out: "Cup" is no "cup", the model
    was taught to write it so. Without truth every prediction is one too many, without predictions
    every truth is missed; without both all counts are 0 and the image weighs nothing in precision
    and recall.
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
