"""The detections of somebody who sees no picture: the most typical boxes, for every image alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from coordexp.coords import CoordObject, write_coordjson
from coordexp.data.records import Record
from coordexp.detection.matching import THRESHOLDS, box_iou
from coordexp.detection.rollouts import Rollout
from coordexp.detection.scores import RolloutScores, named_boxes, score_rollouts

MOST_BOXES = 500  # per place in the list, evenly spaced: their IoUs are compared pair by pair


def blind_scores(
    records: Sequence[Record], image_ids: Sequence[int], half: Callable[[int], bool]
) -> RolloutScores | None:
    """Score the typical boxes as the probe scores a checkpoint's answers.

    An image gets the boxes that are typical of the images in the other half.

    Args:
        image_ids: the images that are judged.
        half: the half that an image belongs to.

    Returns:
        None if there are no images, or if no image of a half that is needed holds an object.
    """
    answers = {}
    for side in {half(image) for image in image_ids}:
        fitted_on = [record for i, record in enumerate(records) if half(i) != side]
        boxes = typical_boxes([boxes_of(record) for record in fitted_on])
        if not len(boxes):
            return None
        bins = [tuple(int(k) for k in box) for box in boxes]
        answers[side] = write_coordjson([CoordObject("object", "bbox_2d", box) for box in bins])
    if not answers:
        return None
    guesses = [
        Rollout(image, records[image].image, answers[half(image)], True, 0, [], [])
        for image in image_ids
    ]
    return score_rollouts(guesses, records)


def boxes_of(record: Record) -> np.ndarray:
    """The boxes of an image in the order of its list, in bins  # [N, 4]"""
    boxes = [box for _, box in named_boxes(record.coord_objects())]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def typical_boxes(images: Sequence[np.ndarray]) -> np.ndarray:
    """The most typical box of each place in the list, as many as an image has in the median.

    That is the box which overlaps the most others of its place by an IoU of .5 or more; of several,
    the one with the largest total IoU.

    Args:
        images: [N, 4] boxes of each image.

    Returns:
        [n, 4]; none without objects.
    """
    counts = [len(boxes) for boxes in images]
    if not any(counts):
        return np.empty((0, 4))
    typical = []
    for place in range(max(1, round(float(np.median(counts))))):
        here = np.array([boxes[place] for boxes in images if len(boxes) > place])
        here = here[:: -(-len(here) // MOST_BOXES)]
        iou = box_iou(here, here)
        overlapped = (iou >= THRESHOLDS[0]).sum(1)
        typical.append(here[np.lexsort((iou.sum(1), overlapped))[-1]])
    return np.array(typical)
