"""Whether boxes have the form that their format says: others are tried against the ground truth.

A file whose boxes fit the truth far better in another form was written in that form.
A poor checkpoint fits in no form, so it is never refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp.data.coordinate_forms import BINS, FRACTION, PERCENT, Form, to_pixels
from coordexp.detection.matching import Box, box_iou
from coordexp.detection.predictions.boxes import Quad
from coordexp.detection.predictions.images import Frame
from coordexp.errors import UserError

CHECKED = 500  # images: enough to tell, and soon done
FITS = 0.3  # mean over true boxes of the best IoU, in another form
SURE = 0.5  # below, boxes of a poor checkpoint or of resized pictures fit no form well
FAR_BETTER = 2.0  # times as high as in the form that the format says
BEYOND = 1.05  # a box that ends beyond this share of the image's side is not of this image
MANY = 0.05  # share of such boxes that is told

# What the boxes of a format may mean; the first is what the format says.
BOTH = (Form("cxcywh"), Form("cxcywh", FRACTION), Form("yxyx"), Form("yxyx", BINS))
CORNERS = (
    *(Form("xyxy"), Form("xywh"), Form("xyxy", BINS), Form("xyxy", FRACTION)),
    *(Form("xyxy", PERCENT), *BOTH),
)
SIZES = (
    *(Form("xywh"), Form("xyxy"), Form("xywh", BINS), Form("xyxy", BINS)),
    *(Form("xywh", FRACTION), Form("xyxy", FRACTION)),
    *(Form("xywh", PERCENT), Form("xyxy", PERCENT), *BOTH),
)


@dataclass(frozen=True)
class Sample:
    """The boxes of one image as the file has them, and the true ones as x1, y1, x2, y2."""

    written: list[Quad]
    truth: list[Box]
    frame: Frame | None


def refuse_other_meaning(samples: Sequence[Sample], forms: Sequence[Form], path: Path) -> None:
    """Read the boxes of a file in each of these forms; the first is what its format says.

    Raises:
        UserError: another form fits the ground truth far better.
    """
    usable = [s for s in samples if s.written and s.truth and s.frame is not None][:CHECKED]
    if not usable:
        return
    fits = {form: mean_best_iou(usable, form) for form in forms}
    said, *_ = forms
    best = max(fits, key=lambda form: fits[form])
    if best == said or fits[best] < FITS or fits[best] < FAR_BETTER * fits[said]:
        return
    looks = "look like" if fits[best] >= SURE else "are of another unit or picture size, closest to"
    raise UserError(
        f"{path}: the predicted boxes {looks} {best}, not like {said}: their mean best IoU with "
        f"the ground truth is {fits[best]:.2f} as those and {fits[said]:.2f} as these: convert them"
    )


def boxes_as(sample: Sample, form: Form) -> np.ndarray:
    """The written boxes, read in this form, as x1, y1, x2, y2 in px  # [P, 4]"""
    assert sample.frame is not None
    width, height = sample.frame
    sizes = np.tile([width + 1, height + 1], (len(sample.written), 1))
    return to_pixels(np.array(sample.written), sizes, form)


def mean_best_iou(samples: Sequence[Sample], form: Form) -> float:
    """Over all true boxes, the mean of the highest IoU of a predicted box, whatever the names."""
    found = []
    for sample in samples:
        boxes = boxes_as(sample, form)
        boxes = boxes[(boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])]
        if len(boxes):
            found.append(box_iou(boxes, np.array(sample.truth)).max(0))
        else:
            found.append(np.zeros(len(sample.truth)))
    return float(np.concatenate(found).mean())


def share_beyond(samples: Sequence[Sample], form: Form) -> float:
    """The share of the boxes that reach far beyond their image."""
    total = beyond = 0
    for sample in samples:
        if sample.written and sample.frame is not None:
            boxes = boxes_as(sample, form)
            limit = np.array(sample.frame) * BEYOND
            beyond += int((boxes[:, 2:] > limit).any(1).sum())
            total += len(boxes)
    return beyond / total if total else 0.0


def beyond_images(samples: Sequence[Sample], form: Form) -> list[str]:
    """A sentence if many boxes end beyond their images: they may be of another scale."""
    share = share_beyond(samples, form)
    if share <= MANY:
        return []
    return [f"{share:.0%} of the boxes end beyond their image: check their unit"]
