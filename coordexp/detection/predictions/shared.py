"""The images that several files of predictions have in common, and whether their truth agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from scipy.optimize import linear_sum_assignment

from coordexp.detection.matching import Box
from coordexp.detection.predictions.images import Frame, PredictedImage, Predictions, TrueObject
from coordexp.errors import UserError

# Bins and whole pixels round a true box by half of their unit; two files may round differently.
ROUNDING_PX = 1.5
ROUNDING_BINS = 1.5 / 999
FEWEST = 2  # images: one has no spread

Images = dict[str, PredictedImage]  # by a name that the files share


def shared_images(files: Mapping[str, Predictions]) -> dict[str, list[PredictedImage]]:
    """The images that every file has, in one order, by the name of the file's run.

    Images are the same if their names are; directories before the names are ignored, unless two
    images of one file differ in nothing else.

    Raises:
        UserError: there are not two such images, none of them holds a true object, or the ground
            truth of one differs between two files.
    """
    named = by_name(files)
    common = sorted(set.intersection(*(set(images) for images in named.values())))
    if not common:
        shown = ", ".join(f"{run} {next(iter(images))}" for run, images in named.items())
        raise UserError(f"--rollouts: no image is in every file: their first images are {shown}")
    if len(common) < FEWEST:
        raise UserError(f"--rollouts: only {common[0]} is in every file: one image ranks nothing")
    first, *others = named
    for other in others:
        for name in common:
            if difference := truth_difference(named[first][name], named[other][name]):
                raise UserError(
                    f"--rollouts: {first} and {other} have other ground truth for image {name}: "
                    f"{difference}: compare rollouts of one validation set"
                )
    if not any(without_crowds(named[first][name].truth) for name in common):
        raise UserError(
            f"--rollouts: none of the {len(common)} images holds a true object: "
            "there is nothing to find, and nothing to score"
        )
    return {run: [images[name] for name in common] for run, images in named.items()}


def by_name(files: Mapping[str, Predictions]) -> dict[str, Images]:
    """The images of each file by their name: the last part of its path where that is enough."""
    shortened = {
        run: {last_part(image.name): image for image in found.images}
        for run, found in files.items()
    }
    if all(len(shortened[run]) == len(found.images) for run, found in files.items()):
        return shortened
    return {run: {image.name: image for image in found.images} for run, found in files.items()}


def last_part(path: str) -> str:
    """The name of a file; other systems write \\ between the parts of a path."""
    return PurePosixPath(path.replace("\\", "/")).name or path


def truth_difference(a: PredictedImage, b: PredictedImage) -> str | None:
    """How the true objects of two entries of one image differ; None if by rounding at most."""
    if a.truth == b.truth and a.frame == b.frame:
        return None
    objects = without_crowds(a.truth), without_crowds(b.truth)
    of_a, of_b = map(by_object_name, objects)
    if len(objects[0]) != len(objects[1]):
        return f"{len(objects[0])} and {len(objects[1])} objects"
    for name, boxes in of_a.items():
        if len(boxes) != len(of_b.get(name, [])):
            return f"{len(boxes)} and {len(of_b.get(name, []))} named {name}"
    scales = scale(a.frame or b.frame), scale(b.frame or a.frame)
    rounding = max(rounding_of(a), rounding_of(b))
    for name, boxes in of_a.items():
        gap = largest_gap(boxes / scales[0], of_b[name] / scales[1])
        if gap > rounding:
            return f"a box of {name} differs by {gap:.3f} of the image side"
    return None


def by_object_name(objects: Sequence[tuple[str, Box]]) -> dict[str, np.ndarray]:
    """The boxes of each name  # [G, 4] each"""
    found: dict[str, list[Box]] = {}
    for name, box in objects:
        found.setdefault(name.strip(), []).append(box)
    return {name: np.array(boxes) for name, boxes in found.items()}


def scale(frame: Frame | None) -> np.ndarray:
    """What turns boxes into shares of the image; without a size, into shares of 1000 pixels."""
    x, y = frame or (999.0, 999.0)
    return np.array([x, y, x, y])


def rounding_of(image: PredictedImage) -> float:
    """How far rounding moves a true box, as a share of the shorter side."""
    return ROUNDING_BINS + ROUNDING_PX / min(image.frame or (999.0, 999.0))


def largest_gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of a coordinate, with each box paired to one of the other side.

    `a` and `b` are [G, 4].
    """
    gaps = np.abs(a[:, None] - b[None, :]).max(-1)  # [G, G]
    return float(gaps[linear_sum_assignment(gaps)].max())


def without_crowds(objects: Sequence[TrueObject]) -> list[tuple[str, Box]]:
    return [(entry.name, entry.box) for entry in objects if not entry.crowd]
