"""CoordExp's `gt_vs_pred*.jsonl`: an image a line, with its true and its predicted objects.

    {"image": "a.jpg", "width": 640, "height": 480, "coord_mode": "pixel" | "norm1000" | null,
     "gt": [{"type": "bbox_2d" | "poly", "points": […], "desc": "cup"}],
     "pred": [{…, "score": 0.9}],
     "raw_output_json": {…} | null, "raw_ends_with_im_end": true, "errors": []}

Objects may also be `{"bbox_2d": […], "desc": …}`, and coordinates may be tokens (`<|coord_12|>`).
Newer releases write true boxes in bins, and predicted ones in pixels:

    {"image_path": "a.jpg", "image_width": 640, "image_height": 480,
     "gt": [{"bbox": […], "description": "cup"}], "pred": [{…, "score": 0.9}]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.coords import bin_to_pixel
from coordexp.detection.predictions.boxes import (
    IN_TRUTH,
    MalformedError,
    Quad,
    around,
    bins_of_tokens,
    corners,
    is_finite,
    numbers_of,
    quad_of,
    refuse_untaken,
)
from coordexp.detection.predictions.images import (
    Frame,
    PredictedImage,
    PredictedObject,
    Predictions,
    TrueObject,
)
from coordexp.detection.predictions.units import (
    CORNERS,
    Sample,
    beyond_images,
    refuse_other_meaning,
)
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

FORMAT = "CoordExp gt_vs_pred"
TRUTH, PREDICTED = ("gt", "objects"), ("pred", "predictions")  # the first that a line has
NO_OBJECTS = "empty_pred"  # CoordExp's error where a text holds no valid object
# A line of matches.jsonl: pairs of indices, without most of the boxes.
MATCHES_KEYS = {"matches", "unmatched_gt_indices"}


@dataclass
class _Counts:
    """What is gathered over the lines of a file."""

    dropped: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    parsing: list[bool] = field(default_factory=list)  # of each line: it says how it was parsed
    ends: list[bool] = field(default_factory=list)  # of each line that says it: it came to its end
    torn: bool = False


def is_gt_vs_pred(line: Any) -> bool:
    """Whether a JSON value is a line of this format."""
    return isinstance(line, dict) and all(
        any(isinstance(line.get(key), list) for key in keys) for keys in (TRUTH, PREDICTED)
    )


def read_gt_vs_pred(path: Path) -> Predictions:
    """Read a file; an object that is broken is dropped and counted.

    Raises:
        UserError: a line is no JSON, or not of this format; an image is there twice; the boxes are
            not in the unit that the file says.
    """
    counts = _Counts()
    images: dict[str, PredictedImage] = {}
    for number, line in _lines(path, counts):
        where = f"{path}:{number}"
        if not is_gt_vs_pred(line):
            raise UserError(f"{where}: {why_not(line)}")
        image = _image(line, where, number, counts)
        if image.name in images:
            raise UserError(f"{where}: image {image.name} is there twice: keep one of the two")
        images[image.name] = image
    if not images:
        raise UserError(f"{path}: holds no image")
    refuse_other_meaning(counts.samples, CORNERS, path)
    n_truth = sum(len(image.truth) for image in images.values())
    n_predicted = sum(len(image.predicted) for image in images.values())
    refuse_untaken(path, (n_truth, n_predicted), counts.dropped)
    doubts = beyond_images(counts.samples, CORNERS[0])
    if counts.torn:
        doubts.append("the last line is torn (no line end) and was left out")
    # An engine that strips special tokens never shows the end token: then nothing is known.
    knows_ends = len(counts.ends) == len(images) and any(counts.ends)
    return Predictions(
        FORMAT,
        list(images.values()),
        counts.dropped,
        doubts,
        knows_parsing=all(counts.parsing),
        knows_truncation=knows_ends,
    )


def why_not(line: Any) -> str:
    """Why a line is not of this format, and what to do."""
    if isinstance(line, dict) and MATCHES_KEYS & line.keys():
        return "matches of CoordExp's evaluation, without the boxes: give its gt_vs_pred.jsonl"
    return "not a line of gt_vs_pred.jsonl: it must hold the lists gt and pred"


def _lines(path: Path, counts: _Counts) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file, with their line numbers."""
    lines = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and number > 1:  # no line end: a writer was stopped there
                counts.torn = True
                return
            raise UserError(f"{path}:{number}: not JSON ({error}): mend or remove it") from error


def _as_older(line: dict[str, Any]) -> dict[str, Any]:
    """A line of newer releases with the keys of older ones."""
    objects = {
        key: [
            entry | {"bbox_2d": entry.get("bbox"), "desc": entry.get("description")}
            if isinstance(entry, dict)
            else entry
            for entry in line[key]
        ]
        for key in ("gt", "pred")
        if isinstance(line.get(key), list)
    }
    names = {"image": "image_path", "width": "image_width", "height": "image_height"}
    return line | objects | {older: line.get(newer) for older, newer in names.items()}


def _image(line: dict[str, Any], where: str, number: int, counts: _Counts) -> PredictedImage:
    is_newer = "image_width" in line
    if is_newer:
        line = _as_older(line)
    width, height = line.get("width"), line.get("height")
    frame: Frame | None = None
    if is_finite(width) and is_finite(height) and min(width, height) >= 2:
        frame = (float(width) - 1, float(height) - 1)
    raw_truth, raw_predicted = (
        next(line[key] for key in keys if isinstance(line.get(key), list))
        for keys in (TRUTH, PREDICTED)
    )
    in_bins = line.get("coord_mode") == "norm1000"
    if (in_bins or is_newer) and frame is None:
        raise UserError(f"{where}: coordinates are bins, and width and height are missing")
    truth = _true_objects(raw_truth, in_bins or is_newer, frame, counts.dropped)
    predicted, quads = _predicted_objects(raw_predicted, in_bins, frame, counts.dropped)
    counts.samples.append(Sample(quads, [found.box for found in truth], frame))
    errors = line.get("errors")
    counts.parsing.append("raw_output_json" in line and isinstance(errors, list))
    # A list without objects is whole: an image may have none.
    faults = errors
    if isinstance(errors, list):
        faults = [error for error in errors if error != NO_OBJECTS]
    ended = line.get("raw_ends_with_im_end")
    if isinstance(ended, bool):
        counts.ends.append(ended)
    return PredictedImage(
        name=_name(line, number),
        frame=frame,
        truth=tuple(truth),
        predicted=tuple(predicted),
        strict=line.get("raw_output_json") is not None and not faults,
        truncated=ended is False,
    )


def _name(line: dict[str, Any], number: int) -> str:
    """The image of a line: its file, else its id or index, else the number of the line."""
    images = line.get("images")
    if isinstance(images, list) and images:
        line = {"image": images[0], **line}
    for key in ("image", "file_name"):
        if isinstance(line.get(key), str) and line[key].strip():
            return printable(line[key])
    for key in ("image_id", "index"):
        if isinstance(line.get(key), int | str):
            return printable(f"{key} {line[key]}")
    return f"line {number}"


def printable(name: str) -> str:
    """A name that a message can repeat on one line."""
    return name if name.isprintable() else ascii(name)


def _geometry(entry: dict[str, Any]) -> tuple[Any, Any]:
    """Kind and coordinates of an object."""
    for kind in ("bbox_2d", "poly"):
        if entry.get(kind) is not None:
            return kind, entry[kind]
    return entry.get("type"), entry.get("points")


def _true_objects(
    raw: list[Any], in_bins: bool, frame: Frame | None, dropped: Counter[str]
) -> list[TrueObject]:
    found = []
    for entry in raw:
        try:
            box = corners(_quad(entry, in_bins, frame))
            found.append(TrueObject(_name_of(entry), box))
        except MalformedError as reason:
            dropped[f"{reason} {IN_TRUTH}"] += 1
    return found


def _predicted_objects(
    raw: list[Any], in_bins: bool, frame: Frame | None, dropped: Counter[str]
) -> tuple[list[PredictedObject], list[Quad]]:
    """The objects, and their boxes as they are written, also of those that are dropped."""
    found: list[PredictedObject] = []
    quads: list[Quad] = []
    for entry in raw:
        try:
            quad = _quad(entry, in_bins, frame)
            quads.append(quad)
            found.append(PredictedObject(_name_of(entry), corners(quad), score_of(entry)))
        except MalformedError as reason:
            dropped[str(reason)] += 1
    return found, quads


def _name_of(entry: dict[str, Any]) -> str:
    name = entry.get("desc")
    return printable(name) if isinstance(name, str) else ""


def score_of(entry: dict[str, Any]) -> float | None:
    """The score of a predicted object; None where it has none that can be ranked."""
    score = entry.get("score")
    return float(score) if is_finite(score) else None


def _quad(entry: Any, in_bins: bool, frame: Frame | None) -> Quad:
    """The box of an object in pixels, as it is written."""
    if not isinstance(entry, dict):
        raise MalformedError("objects of another form")
    kind, values = _geometry(entry)
    if isinstance(values, list) and values and all(isinstance(v, list) for v in values):
        values = [number for pair in values for number in pair]  # [[x, y], …]
    tokens = bins_of_tokens(values)
    numbers: list[float] = numbers_of(values) if tokens is None else tokens
    if kind == "bbox_2d":
        quad_of(numbers)
    elif kind != "poly":
        raise MalformedError("objects of another form")
    if tokens is not None or in_bins:
        if frame is None:
            raise MalformedError("bins in an image without a size")
        numbers = [bin_to_pixel(k, round(frame[i % 2]) + 1) for i, k in enumerate(numbers)]
    return around(numbers) if kind == "poly" else quad_of(numbers)
