"""The record: one image and its objects, a line of JSON.

    {"images": ["images/000001.png"], "width": 128, "height": 128,
     "objects": [{"desc": "red circle", "bbox_2d": [x1, y1, x2, y2]}], "metadata": {…}}

Coordinates are pixel floats. An object holds exactly one of `bbox_2d` and `poly` ([x1, y1, …], at
least three points, clockwise from the top-most, then left-most vertex). Objects are sorted by (y1,
x1) in the file. `metadata.order` is the order in CoordJSON: [2, 0, 1] writes the third object
first, then the first, then the second.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordexp.coords import CoordObject, to_bins
from coordexp.errors import UserError, require_regular
from coordexp.storage.files import replacing

REQUIRED = ("images", "width", "height", "objects")
KINDS = ("bbox_2d", "poly")
MAX_SIDE_PX = 2**31 - 1  # no picture format allows more
ORDER = "order"
TOKEN_SPELT = re.compile(r"<\|[^|]*\|>")  # text with the form of a special token, in a name
TILE = "tile"  # metadata key: the square of a larger picture that this one was cut from
RENDERED = "rendered"  # metadata key: the picture was drawn from its annotations
# A polygon whose area is at most this share of its box counts as flat: it is rounding error.
FLAT = 1e-9


@dataclass(frozen=True)
class RecordObject:
    desc: str
    kind: str  # bbox_2d | poly
    pixels: tuple[float, ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels."""
        xs, ys = self.pixels[0::2], self.pixels[1::2]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Record:
    image: str  # path relative to the record file
    width: int
    height: int
    objects: tuple[RecordObject, ...]  # in the order in which they are written as CoordJSON
    metadata: dict[str, Any] = field(default_factory=dict)

    def coord_objects(self) -> list[CoordObject]:
        """The objects with bins in place of pixels, as they are written."""
        objects = []
        for obj in self.objects:
            bins = tuple(to_bins(obj.pixels, self.width, self.height))
            objects.append(CoordObject(obj.desc, obj.kind, bins))
        return objects


def reading_order(objects: Iterable[RecordObject]) -> tuple[RecordObject, ...]:
    """Sorted by (y1, x1); ties keep their order."""
    return tuple(sorted(objects, key=lambda o: (o.box[1], o.box[0])))


def in_order(
    objects: Sequence[RecordObject], order: Sequence[int] | None
) -> tuple[RecordObject, ...]:
    """The objects of a file in the order in which they are written as CoordJSON."""
    if order is None:
        return tuple(objects)
    return tuple(objects[i] for i in order)


def in_file_order(record: Record) -> tuple[RecordObject, ...]:
    """The inverse of `in_order`."""
    order = record.metadata.get(ORDER, range(len(record.objects)))
    pairs = sorted(zip(order, record.objects, strict=True), key=lambda pair: pair[0])
    return tuple(obj for _, obj in pairs)


def clockwise(pixels: Sequence[float]) -> tuple[float, ...]:
    """The polygon, clockwise on the screen, from its top-most, then left-most vertex."""
    points = list(zip(pixels[0::2], pixels[1::2], strict=True))
    if twice_area(points) < 0:
        points.reverse()
    first = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
    return tuple(value for point in points[first:] + points[:first] for value in point)


def twice_area(points: Sequence[tuple[float, float]]) -> float:
    """Twice the signed area of a polygon, px² (shoelace formula); positive if clockwise."""
    # Coordinates relative to the first vertex are small, which reduces cancellation errors. The
    # closing side ends at (0, 0) and adds nothing.
    x0, y0 = points[0]
    shifted = [(x - x0, y - y0) for x, y in points]
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(shifted))


def all_numbers(values: Iterable[Any]) -> bool:
    """Whether every value is an int or a float; a bool is neither."""
    return set(map(type, values)) <= {int, float}


def all_finite(values: Iterable[Any]) -> bool:
    """Whether every value is a finite number; an int too large for a float is not."""
    try:
        return all_numbers(values) and all(map(math.isfinite, values))
    except OverflowError:
        return False


def geometry_problem(kind: str, values: Sequence[Any], may_be_flat: bool = False) -> str | None:
    """The first error of this box or polygon; None if it is valid.

    `may_be_flat` allows a box or polygon without area: coordinates in bins are rounded.
    """
    fault = _geometry_fault(kind, values, may_be_flat)
    return fault and f"{kind} {json.dumps(list(values))} {fault}"


def _geometry_fault(kind: str, values: Sequence[Any], may_be_flat: bool) -> str | None:
    if not all_numbers(values):
        return "holds something that is not a number"
    if not all_finite(values):
        return "is not finite: remove the annotation or mend it"
    if kind == "bbox_2d" and len(values) != 4:
        return "needs four numbers x1, y1, x2, y2"
    if kind == "poly" and (len(values) < 6 or len(values) % 2):
        return "needs at least three x, y pairs"
    if min(values) < 0:
        return "has a negative coordinate: clip it to the picture"
    xs, ys = values[0::2], values[1::2]
    if kind == "bbox_2d":  # may be inverted: its sides have a sign
        width, height = xs[1] - xs[0], ys[1] - ys[0]
    else:
        width, height = max(xs) - min(xs), max(ys) - min(ys)
    if min(width, height) < 0:
        return "is inverted: x1, y1 is the upper left corner"
    if may_be_flat:
        return None
    is_flat = min(width, height) == 0
    if kind == "poly" and not is_flat:
        is_flat = _is_flat(list(zip(xs, ys, strict=True)), width * height)
    if is_flat:
        return "has no area: remove the annotation or mend it"
    return None


def _is_flat(points: list[tuple[float, float]], box_area: float) -> bool:
    """Whether all points lie on one line, or the polygon crosses itself and its parts cancel."""
    return abs(twice_area(points)) <= FLAT * box_area


def object_problem(raw: Any) -> str | None:
    """Why this is not a valid object of a record; None if it is."""
    if not isinstance(raw, dict) or not isinstance(raw.get("desc"), str) or not raw["desc"].strip():
        return "needs a desc that is not empty"
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1 or not isinstance(raw[kinds[0]], list):
        return "needs exactly one of bbox_2d and poly, as a list"
    return None


def frame_problems(raw: Any) -> Iterator[str]:
    """The reasons why a line is not a valid record, apart from its objects."""
    needs = "it needs images, width, height and objects"
    if not isinstance(raw, dict):
        yield f"not a record (it is {type(raw).__name__}): {needs}"
        return
    if missing := [key for key in REQUIRED if key not in raw]:
        yield f"not a record (it lacks {', '.join(missing)}): {needs}"
        return
    images, width, height, objects = (raw[key] for key in REQUIRED)
    metadata = raw.get("metadata", {})
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], str)):
        yield f"images must be a list of one path, not {images!r}"
    if not all(isinstance(side, int) and 1 < side <= MAX_SIDE_PX for side in (width, height)):
        found = f"{reprlib.repr(width)} x {reprlib.repr(height)}"
        yield f"width and height must be whole pixels above 1 (and below 2^31), not {found}"
    if not isinstance(objects, list):
        yield f"objects must be a list, not {objects!r}"
    if not isinstance(metadata, dict):
        yield f"metadata must be an object, not {metadata!r}"
    elif isinstance(objects, list) and ORDER in metadata:
        order, last = metadata[ORDER], len(objects) - 1
        if not is_permutation(order, len(objects)):
            yield f"metadata.{ORDER} must hold each of 0 … {last} once, not {order!r}"


def is_permutation(order: Any, n: int) -> bool:
    if not isinstance(order, list) or any(type(i) is not int for i in order):
        return False
    return sorted(order) == list(range(n))


def shown(name: str) -> str:
    """The name on one line; quoted if it contains unprintable characters."""
    return name if name.isprintable() else repr(name)


def parse_record(line: str, where: str) -> Record:
    """Parse one line of a record file; put objects and vertices into the order of the contract.

    Raises:
        UserError: the line breaks the contract. The message begins with `where` (file and line).
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: not a record ({error!r}): it needs images, width, height and objects"
        ) from error
    for problem in frame_problems(raw):
        raise UserError(f"{where}: {problem}")
    metadata = raw.get("metadata", {})
    objects = reading_order(
        _parse_object(o, f"{where}, object {i}") for i, o in enumerate(raw["objects"])
    )
    return Record(
        raw["images"][0],
        raw["width"],
        raw["height"],
        in_order(objects, metadata.get(ORDER)),
        metadata,
    )


def _parse_object(raw: Any, where: str) -> RecordObject:
    if problem := object_problem(raw):
        raise UserError(f"{where}: {problem}")
    kind = next(kind for kind in KINDS if kind in raw)
    if problem := geometry_problem(kind, raw[kind]):
        raise UserError(f"{where}: {problem}")
    pixels = tuple(float(v) for v in raw[kind])
    return RecordObject(raw["desc"], kind, clockwise(pixels) if kind == "poly" else pixels)


def iter_records(path: Path, with_pictures: bool = True) -> Iterator[Record]:
    """The records of a file one by one; with `with_pictures`, the picture of each must exist.

    Raises:
        UserError: naming file and line of the first fault.
    """
    require_regular(path)
    try:
        # Read bytes: they are split at line feeds only. Text would also be split at a Unicode line
        # separator in a name.
        with open(path, "rb") as lines:
            for n, line in enumerate(lines, start=1):
                if line.strip():
                    record = parse_record(line.decode("utf-8"), f"{path}:{n}")
                    picture = path.parent / record.image
                    # `isfile` is also False for an impossible file name.
                    if with_pictures and not os.path.isfile(picture):
                        raise UserError(f"{path}:{n}: the picture {shown(str(picture))} is missing")
                    yield record
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{n}: not UTF-8 ({error.reason} at byte {error.start} of the line)"
        ) from error


def read_records(path: Path, with_pictures: bool = True) -> list[Record]:
    """Every record of a file that holds at least one; see `iter_records`.

    Raises:
        UserError: naming file and line of the first fault.
    """
    records = list(iter_records(path, with_pictures))
    if not records:
        raise UserError(f"{path}: holds no record")
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records one by one, so that a generator needs memory for one record only."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as out:
        for record in records:
            out.write(json.dumps(record_row(record), ensure_ascii=False) + "\n")


def record_row(record: Record) -> dict[str, Any]:
    """The record as a line of a record file."""
    return {
        "images": [record.image],
        "width": record.width,
        "height": record.height,
        "objects": [{"desc": o.desc, o.kind: list(o.pixels)} for o in in_file_order(record)],
        "metadata": record.metadata,
    }
