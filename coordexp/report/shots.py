"""One picture with the boxes or polygons on it, each with its name: a cell of the gallery."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coordexp.coords import CoordObject, to_pixels
from coordexp.data.records import Record
from coordexp.detection.matching import box_iou, match
from coordexp.detection.scores import named_boxes
from coordexp.report.svg import Point, element, fitted, joined, text, text_width

SIDE = 300.0  # px: the longer side of a picture
LINE = 20.0  # px under the picture, for the words
FULL_PX = 800  # the longer side of the stored picture, for the enlarged view
TAG, TAG_SIZE = 13.0, 10.5  # px: height of a name, and of its letters
IOU = 0.5


@dataclass(frozen=True)
class Outcome:
    """How the outline of an object is drawn. Colours are none of the variants' own."""

    name: str
    colour: str
    dashes: str | None
    words: str


TRUTH = Outcome("truth", "#f4f6f8", None, "truth")
HIT = Outcome("hit", "#2bd46f", None, "found: the name is right, IoU ≥ .5")
FALSE = Outcome("false", "#ff6b6b", "6 3", "false: no such object there")
MISSED = Outcome("missed", "#ffd60a", "0.1 5", "missed: an object that it did not write")
OUTCOMES = (HIT, FALSE, MISSED)

Shown = tuple[CoordObject, Outcome]


def judged(written: Sequence[CoordObject], truth: Sequence[CoordObject]) -> list[Shown]:
    """The written objects, found or false, behind the missed ones, as F1@.5 counts them.

    A polygon is matched by its bounding box.
    """
    said, true = named_boxes(written), named_boxes(truth)
    names, true_names = ([name.strip() for name, _ in side] for side in (said, true))
    iou = box_iou(np.array([box for _, box in said]), np.array([box for _, box in true]))
    same = np.array(names, object)[:, None] == np.array(true_names, object)[None, :]
    pairs = match(np.where(same, iou, 0), IOU)  # [P, G]
    hits, found = {p for p, _ in pairs}, {g for _, g in pairs}
    shown = [(obj, MISSED) for g, obj in enumerate(truth) if g not in found]
    return shown + [(obj, HIT if p in hits else FALSE) for p, obj in enumerate(written)]


def shot(
    record: Record, picture: str, objects: Sequence[Shown], of: str, words: str
) -> tuple[float, float, str]:
    """Width, height and content of a cell: the picture, outlines, names, and a line of words.

    Args:
        record: gives the size of the picture.
        picture: its SVG, at the origin and SIDE px long.
        objects: what is drawn on it.
        of: whose objects these are.
        words: under the picture.
    """
    scale = SIDE / max(record.width, record.height)
    width, height = record.width * scale, record.height * scale
    parts = [picture]
    outlines = []
    for obj, outcome in objects:
        pixels = to_pixels(obj.bins, record.width, record.height)
        points = [(x * scale, y * scale) for x, y in zip(pixels[0::2], pixels[1::2], strict=True)]
        outlines.append((obj.desc, outline(obj, points), outcome))
    for _, points, outcome in outlines:
        parts += drawn_outline(points, outcome, of)
    for name, points, outcome in outlines:
        parts += name_tag(name, points, outcome, of, width)
    parts.append(fitted(0, height + 15, words, SIDE, data={"mark": "words", "of": of}))
    return SIDE, height + LINE, "\n".join(parts)


def outline(obj: CoordObject, points: Sequence[Point]) -> list[Point]:
    """The corners of a polygon, or of a box."""
    if obj.kind == "poly":
        return list(points)
    (x1, y1), (x2, y2) = points
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def drawn_outline(points: Sequence[Point], outcome: Outcome, of: str) -> Iterator[str]:
    """The outline over a dark one, so that it shows on every picture."""
    for colour, width, opacity, dashes, data in (
        ("#000000", 4.4, 0.5, None, None),
        (outcome.colour, 2.4, 1.0, outcome.dashes, {"mark": outcome.name, "of": of}),
    ):
        yield element(
            "polygon",
            data=data,
            points=joined(points),
            fill="none",
            stroke=colour,
            stroke_width=width,
            stroke_opacity=opacity,
            stroke_dasharray=dashes,
            stroke_linejoin="round",
            stroke_linecap="round" if outcome is MISSED else None,
        )


def name_tag(
    name: str, points: Sequence[Point], outcome: Outcome, of: str, width: float
) -> Iterator[str]:
    """The name on the outline's upper left corner, inside the picture."""
    if not name:
        return
    long = min(text_width(name, TAG_SIZE) + 6, width)
    x = min(max(0.0, min(x for x, _ in points) - 1), width - long)
    y = max(0.0, min(y for _, y in points) - TAG)
    if outcome is MISSED:  # under the outline, where no written object's name stands
        y = max(0.0, max(y for _, y in points) - TAG)
    yield element("rect", x=x, y=y, width=long, height=TAG, fill=outcome.colour, fill_opacity=0.92)
    tag = fitted(x + 3, y + 10, name, long, size=TAG_SIZE, data={"mark": "name", "of": of})
    yield tag.replace("<text ", '<text fill="#111111" ', 1)


def picture_of(file: Path, record: Record, identity: str) -> str:
    """The picture as an SVG image with its data, at the size of a cell."""
    scale = SIDE / max(record.width, record.height)
    return element(
        "image",
        id=identity,
        href=data_uri(file),
        width=record.width * scale,
        height=record.height * scale,
    )


def data_uri(file: Path) -> str:
    """An image as a data URI, large enough for the enlarged view."""
    with Image.open(file) as opened:
        small = opened.convert("RGB")
    small.thumbnail((FULL_PX, FULL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def legend() -> str:
    """Each outcome's line with its meaning, 20 px high."""
    parts, x = [], 0.0
    for outcome in OUTCOMES:
        points = joined([(x, 10.0), (x + 34, 10.0)])
        strokes = (("#000000", 5.0, None), (outcome.colour, 2.4, outcome.dashes))
        for colour, width, dashes in strokes:
            line = element(
                "polyline",
                points=points,
                stroke=colour,
                stroke_width=width,
                stroke_dasharray=dashes,
                stroke_linecap="round" if dashes == MISSED.dashes else None,
            )
            parts.append(line)
        parts.append(text(x + 42, 14, outcome.words))
        x += 62 + text_width(outcome.words)
    return "\n".join(parts)


def legend_width() -> float:
    """px"""
    return sum(62 + text_width(outcome.words) for outcome in OUTCOMES)
