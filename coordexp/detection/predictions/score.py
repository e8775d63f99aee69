"""Predictions of other evaluators, scored by the matching and the AP of this project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from coordexp.detection.average_precision import RankedBox, TrueBox, coco_precision
from coordexp.detection.matching import score_image
from coordexp.detection.predictions.images import PredictedImage, score_kind
from coordexp.detection.predictions.shared import without_crowds
from coordexp.detection.scores import RolloutScores, matched_columns


def score_predictions(images: Sequence[PredictedImage]) -> RolloutScores:
    """Match the predictions of each image; `images` of the result counts from 0.

    Every prediction counts, whatever its score. Crowds are no true objects here. What the files do
    not say of a text (`strict`, `truncated`) is 0: leave out the figures of it.
    """
    counts = []
    for image in images:
        predicted = [(found.name, found.box) for found in image.predicted]
        columns = matched_columns(score_image(predicted, without_crowds(image.truth)))
        of_text = {"strict": int(image.strict), "truncated": int(image.truncated), "unfinished": 0}
        counts.append(of_text | columns)
    table = {name: np.array([count[name] for count in counts]) for name in counts[0]}
    return RolloutScores(np.arange(len(images)), table, Counter())


def precision_of(images: Sequence[PredictedImage]) -> dict[str, float]:
    """COCO's AP of the predictions; empty where some have no score to rank them by."""
    if score_kind(images) == "none":
        return {}
    truth: list[TrueBox] = []
    predicted: list[RankedBox] = []
    for number, image in enumerate(images):
        truth += [(number, entry.name, entry.box, entry.crowd) for entry in image.truth]
        for found in image.predicted:
            assert found.score is not None
            predicted.append((number, found.name, found.box, found.score))
    return coco_precision(range(len(images)), truth, predicted)
