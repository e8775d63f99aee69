"""What a file of predictions holds for each image, whatever its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coordexp.detection.matching import Box

ScoreKind = Literal["ranked", "constant", "none"]
Frame = tuple[float, float]  # the largest x and y of an image, in the unit of its boxes


@dataclass(frozen=True)
class TrueObject:
    """An object that is there.

    crowd: COCO's `iscrowd`; average precision ignores it, and the matching leaves it out.
    """

    name: str
    box: Box
    crowd: bool = False


@dataclass(frozen=True)
class PredictedObject:
    name: str
    box: Box
    score: float | None = None


@dataclass(frozen=True)
class PredictedImage:
    """The objects of one image: those that are there, and those that a checkpoint wrote.

    name: the image as the file names it.
    frame: width - 1 and height - 1 for pixels, 999 and 999 for bins; None where no size is known.
    strict: the whole text was parsed, and no object of it was dropped.
    truncated: the text did not come to its end.
    """

    name: str
    frame: Frame | None
    truth: tuple[TrueObject, ...]
    predicted: tuple[PredictedObject, ...]
    strict: bool = False
    truncated: bool = False


@dataclass
class Predictions:
    """A file of predictions.

    format: in words.
    dropped: objects that could not be taken, by reason.
    doubts: what else is odd about the file, a sentence each.
    knows_parsing, knows_truncation: the file says `strict` and `truncated` of its images.
    """

    format: str
    images: list[PredictedImage]
    dropped: Counter[str] = field(default_factory=Counter)
    doubts: list[str] = field(default_factory=list)
    knows_parsing: bool = False
    knows_truncation: bool = False


def score_kind(images: Sequence[PredictedImage]) -> ScoreKind:
    """Whether the predictions can be ranked: `ranked`, `constant` or `none`."""
    scores = {found.score for image in images for found in image.predicted}
    if None in scores or not scores:
        return "none"
    return "ranked" if len(scores) > 1 else "constant"
