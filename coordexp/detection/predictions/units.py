"""Whether boxes mean what their format says: each other meaning is tried against the ground truth.

A file whose boxes fit the truth far better under another meaning was written in another form. A
poor checkpoint fits under no meaning, so it is never refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp.coords import LAST_BIN
from coordexp.detection.matching import Box, box_iou
from coordexp.detection.predictions.boxes import Quad
from coordexp.detection.predictions.images import Frame
from coordexp.errors import UserError

CHECKED = 500  # images: enough to tell, and soon done
FITS = 0.3  # mean over true boxes of the best IoU, under another meaning
FAR_BETTER = 2.0  # times as high as under the meaning that the format says
BEYOND = 1.05  # a box that ends beyond this share of the image's side is not of this image
MANY = 0.05  # share of such boxes that is told

Meaning = Callable[[np.ndarray, Frame], np.ndarray]  # [P, 4] -> [P, 4] as x1, y1, x2, y2


@dataclass(frozen=True)
class Sample:
    """The boxes of one image as the file has them, and the true ones as x1, y1, x2, y2."""

    written: list[Quad]
    truth: list[Box]
    frame: Frame | None


def as_corners(quads: np.ndarray, _: Frame) -> np.ndarray:
    return quads


def as_size(quads: np.ndarray, _: Frame) -> np.ndarray:
    return np.concatenate([quads[:, :2], quads[:, :2] + quads[:, 2:]], axis=1)


def as_bins(quads: np.ndarray, frame: Frame) -> np.ndarray:
    return quads * np.array([*frame, *frame]) / LAST_BIN


def as_fractions(quads: np.ndarray, frame: Frame) -> np.ndarray:
    return quads * np.array([*frame, *frame])


def as_bins_of_size(quads: np.ndarray, frame: Frame) -> np.ndarray:
    return as_size(as_bins(quads, frame), frame)


def as_fractions_of_size(quads: np.ndarray, frame: Frame) -> np.ndarray:
    return as_size(as_fractions(quads, frame), frame)


CORNERS: Mapping[str, Meaning] = {
    "x1, y1, x2, y2 in pixels": as_corners,
    "x, y, width, height": as_size,
    "bins 0 - 999": as_bins,
    "fractions of the image": as_fractions,
}
SIZES: Mapping[str, Meaning] = {
    "x, y, width, height in pixels": as_size,
    "x1, y1, x2, y2": as_corners,
    "bins 0 - 999": as_bins_of_size,
    "bins 0 - 999 of x1, y1, x2, y2": as_bins,
    "fractions of the image": as_fractions_of_size,
    "fractions of x1, y1, x2, y2": as_fractions,
}


def refuse_other_meaning(
    samples: Sequence[Sample], meanings: Mapping[str, Meaning], path: Path
) -> None:
    """Compare what the boxes of a file may mean; the first of `meanings` is what its format says.

    Raises:
        UserError: another meaning fits the ground truth far better.
    """
    usable = [s for s in samples if s.written and s.truth and s.frame is not None][:CHECKED]
    if not usable:
        return
    fits = {name: mean_best_iou(usable, meaning) for name, meaning in meanings.items()}
    said, *_ = meanings
    best = max(fits, key=lambda name: fits[name])
    if best == said or fits[best] < FITS or fits[best] < FAR_BETTER * fits[said]:
        return
    raise UserError(
        f"{path}: the predicted boxes look like {best}, not like {said}: their mean best IoU with "
        f"the ground truth is {fits[best]:.2f} as those and {fits[said]:.2f} as these: convert them"
    )


def mean_best_iou(samples: Sequence[Sample], meaning: Meaning) -> float:
    """Over all true boxes, the mean of the highest IoU of a predicted box, whatever the names."""
    found = []
    for sample in samples:
        assert sample.frame is not None
        boxes = meaning(np.array(sample.written), sample.frame)
        boxes = boxes[(boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])]
        if len(boxes):
            found.append(box_iou(boxes, np.array(sample.truth)).max(0))
        else:
            found.append(np.zeros(len(sample.truth)))
    return float(np.concatenate(found).mean())


def share_beyond(samples: Sequence[Sample], meaning: Meaning) -> float:
    """The share of the boxes that reach far beyond their image."""
    total = beyond = 0
    for sample in samples:
        if sample.written and sample.frame is not None:
            boxes = meaning(np.array(sample.written), sample.frame)
            limit = np.array(sample.frame) * BEYOND
            beyond += int((boxes[:, 2:] > limit).any(1).sum())
            total += len(boxes)
    return beyond / total if total else 0.0


def beyond_images(samples: Sequence[Sample], meaning: Meaning) -> list[str]:
    """A sentence if many boxes end beyond their images: they may be of another scale."""
    share = share_beyond(samples, meaning)
    if share <= MANY:
        return []
    return [f"{share:.0%} of the boxes end beyond their image: check their unit"]
