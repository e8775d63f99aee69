"""What every reader of a format returns: pictures and their shapes, and counts of what was dropped.

Coordinates are COCO's: pixels from edge to edge of a picture, 0 … width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from coordexp.data.formats.picture_files import PictureFiles
from coordexp.errors import UserError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Ring = tuple[float, ...]  # x1, y1, x2, y2, … of a polygon


class Coordinates(Enum):
    """What numbers of a box mean where the file does not say it."""

    pixels = "pixels"
    bins1000 = "bins1000"  # thousandths of width and height, as Qwen3-VL writes them
    fractions = "fractions"  # of width and height


@dataclass(frozen=True)
class Source:
    """What is converted: the annotation files of one format, and where their pictures are."""

    path: Path  # as the user named it
    files: tuple[Path, ...]
    pictures: PictureFiles
    coordinates: Coordinates | None = None
    first_pixel: int | None = None  # the number of the first pixel: 1 in VOC; None: see pixels.py
    label: str | None = None  # the region attribute that holds the name (VIA)


@dataclass(frozen=True)
class Shape:
    name: str
    box: Box
    rings: tuple[Ring, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    crowd: bool = False


@dataclass(frozen=True)
class Picture:
    file_name: str  # relative to the directory of the pictures
    width: int
    height: int
    shapes: list[Shape]
    split: str = ""  # train, val or test, where the source says it


@dataclass
class Dataset:
    pictures: list[Picture] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # shapes or pictures, by reason
    notes: list[str] = field(default_factory=list)  # what the user should know, a line each

    @contextmanager
    def counting_dropped(self) -> Iterator[None]:
        """Count a shape that gives no object, by its reason."""
        try:
            yield
        except DroppedShapeError as reason:
            self.dropped[str(reason)] += 1


class DroppedShapeError(Exception):
    """A shape gives no object; the message is the counted reason."""


def number(value: Any) -> float:
    """A finite number from JSON, or from the text of XML or CSV.

    Raises:
        DroppedShapeError: it is none.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DroppedShapeError("broken coordinates")
    return found


def numbers(values: Any, count: int | None = None) -> list[float]:
    """Finite numbers from a list; `count` of them where it is given."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise DroppedShapeError("broken coordinates")
    if count is not None and len(values) != count:
        raise DroppedShapeError("broken coordinates")
    return [number(value) for value in values]


def named(value: Any) -> str:
    """The name of a shape.

    Raises:
        DroppedShapeError: it has none.
    """
    if not isinstance(value, str) or not value.strip():
        raise DroppedShapeError("without a name")
    return value.strip()


def box_of(x1: float, y1: float, x2: float, y2: float) -> Box:
    """The box between two opposite corners, in any order.

    Raises:
        DroppedShapeError: it has no area.
    """
    box = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
    if box[0] == box[2] or box[1] == box[3]:
        raise DroppedShapeError("no area")
    return box


def upright(x1: float, y1: float, x2: float, y2: float) -> Box:
    """The box as it is, which may be flat: the corners are those of whole pixels (pixels.py).

    Raises:
        DroppedShapeError: the second corner lies before the first.
    """
    if x1 > x2 or y1 > y2:
        raise DroppedShapeError("inverted box")
    return x1, y1, x2, y2


def outlined(name: str, rings: Sequence[Sequence[float]], attributes: Mapping[str, Any]) -> Shape:
    """A shape of one or more polygons, with their common box.

    Raises:
        DroppedShapeError: a polygon has fewer than three points, or the box has no area.
    """
    if not rings or any(len(ring) < 6 or len(ring) % 2 for ring in rings):
        raise DroppedShapeError("a polygon of fewer than three points")
    xs = [x for ring in rings for x in ring[0::2]]
    ys = [y for ring in rings for y in ring[1::2]]
    box = box_of(min(xs), min(ys), max(xs), max(ys))
    return Shape(name, box, tuple(map(tuple, rings)), attributes)


def whole_side(value: Any) -> int | None:
    """A side of a picture in px; None where the file does not hold one above 1."""
    try:
        side = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return side if side > 1 else None


def picture_of(
    source: Source, dataset: Dataset, name: str, near: Path, sides: tuple[Any, Any] = (None, None)
) -> tuple[str, int, int] | None:
    """File name, width and height of the picture that an annotation names.

    The sides are those that the annotation file states, else those of the picture's header. None,
    counted and noted, where neither is known.
    """
    found = source.pictures.find(name, near)
    width, height = whole_side(sides[0]), whole_side(sides[1])
    if width is None or height is None:
        size = source.pictures.size(found) if found else None
        if size is None:
            dataset.dropped["picture missing or not readable, its size unknown"] += 1
            dataset.notes.append(f"{name}: no readable picture of this name")
            return None
        width, height = size
    return found or source.pictures.spelled(name), width, height


def expect(value: Any, kind: type, where: str) -> Any:
    """The value, if it has this type.

    Raises:
        UserError: naming what `where` (file and key) must be.
    """
    if not isinstance(value, kind):
        names: dict[type, str] = {list: "a list", dict: "an object", str: "text"}
        raise UserError(f"{where} must be {names[kind]}")
    return value
