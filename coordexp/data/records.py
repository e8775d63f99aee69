"""The record: one image and its objects, a line of JSON.

    {"images": ["images/000001.png"], "width": 128, "height": 128,
     "objects": [{"desc": "red circle", "bbox_2d": [x1, y1, x2, y2]}], "metadata": {…}}

Coordinates are pixel floats. An object holds exactly one of `bbox_2d` and `poly` ([x1, y1, …], at least three
points, clockwise from the top-most, then left-most vertex). Objects are sorted by (y1, x1) in the file; where
`metadata.order` is [2, 0, 1], the third of them is written first as CoordJSON, then the first, then the second.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordexp.coords import CoordObject, to_bins
from coordexp.errors import UserError
from coordexp.storage.files import replacing

REQUIRED = ("images", "width", "height", "objects")
KINDS = ("bbox_2d", "poly")
ORDER = "order"
RENDERED = "rendered"  # in the metadata of a record whose picture was drawn from its annotations
FLAT = 1e-9  # of its box: a polygon's area where floating-point numbers, not annotators, leave one


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
        return [
            CoordObject(o.desc, o.kind, tuple(to_bins(o.pixels, self.width, self.height)))
            for o in self.objects
        ]


def reading_order(objects: Iterable[RecordObject]) -> tuple[RecordObject, ...]:
    """Sorted by (y1, x1); what remains equal keeps its order."""
    return tuple(sorted(objects, key=lambda o: (o.box[1], o.box[0])))


def in_order(
    objects: Sequence[RecordObject], order: Sequence[int] | None
) -> tuple[RecordObject, ...]:
    """The objects of a file, put into the order in which they are written as CoordJSON."""
    return tuple(objects if order is None else (objects[i] for i in order))


def in_file_order(record: Record) -> tuple[RecordObject, ...]:
    """The inverse of `in_order`."""
    order = record.metadata.get(ORDER, range(len(record.objects)))
    return tuple(
        o for _, o in sorted(zip(order, record.objects, strict=True), key=lambda pair: pair[0])
    )


def clockwise(pixels: Sequence[float]) -> tuple[float, ...]:
    """The polygon clockwise (as seen, y downwards) from its top-most, then left-most vertex."""
    points = list(zip(pixels[0::2], pixels[1::2], strict=True))
    points = points if twice_area(points) >= 0 else points[::-1]
    first = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
    return tuple(value for point in points[first:] + points[:first] for value in point)


def twice_area(points: Sequence[tuple[float, float]]) -> float:
    """Of a polygon, px²; positive where it is clockwise as seen. Measured from its first vertex, where little cancels."""
    x0, y0 = points[0]
    shifted = [(x - x0, y - y0) for x, y in points]
    return sum(
        x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(shifted)
    )  # the last side leads back to 0, 0


def all_numbers(values: Iterable[Any]) -> bool:
    """Whole or floating-point numbers, truth values not among them."""
    return set(map(type, values)) <= {int, float}


def all_finite(values: Iterable[Any]) -> bool:
    """Numbers, none of them NaN, infinite, or whole beyond every float."""
    try:
        return all_numbers(values) and all(map(math.isfinite, values))
    except OverflowError:
        return False


def geometry_problem(kind: str, values: Sequence[Any], may_be_flat: bool = False) -> str | None:
    """Why no model should learn this box or polygon; None where it may. Bins, being rounded, `may_be_flat`."""
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
    width, height = (
        (xs[1] - xs[0], ys[1] - ys[0])
        if kind == "bbox_2d"
        else (max(xs) - min(xs), max(ys) - min(ys))
    )
    if min(width, height) < 0:
        return "is inverted: x1, y1 is the upper left corner"
    if may_be_flat:
        return None
    if min(width, height) == 0 or (
        kind == "poly" and _is_flat(list(zip(xs, ys, strict=True)), width * height)
    ):
        return "has no area: remove the annotation or mend it"
    return None


def _is_flat(points: list[tuple[float, float]], box_area: float) -> bool:
    """All on one line, or crossing itself so that its parts cancel."""
    return abs(twice_area(points)) <= FLAT * box_area


def object_problem(raw: Any) -> str | None:
    """Why this is no object of a record; None where it is one."""
    if not isinstance(raw, dict) or not isinstance(raw.get("desc"), str) or not raw["desc"].strip():
        return "needs a desc that is not empty"
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1 or not isinstance(raw[kinds[0]], list):
        return "needs exactly one of bbox_2d and poly, as a list"
    return None


def frame_problems(raw: Any) -> Iterator[str]:
    """What keeps a line from being a record, its objects left out."""
    if not isinstance(raw, dict) or (missing := [key for key in REQUIRED if key not in raw]):
        lacks = (
            f"it lacks {', '.join(missing)}"
            if isinstance(raw, dict)
            else f"it is {type(raw).__name__}"
        )
        yield f"not a record ({lacks}): it needs images, width, height and objects"
        return
    images, width, height, objects = (raw[key] for key in REQUIRED)
    metadata = raw.get("metadata", {})
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], str)):
        yield f"images must be a list of one path, not {images!r}"
    if not all(isinstance(side, int) and side > 1 for side in (width, height)):
        yield f"width and height must be whole pixels above 1, not {width!r} x {height!r}"
    if not isinstance(objects, list):
        yield f"objects must be a list, not {objects!r}"
    if not isinstance(metadata, dict):
        yield f"metadata must be an object, not {metadata!r}"
    elif (
        isinstance(objects, list)
        and ORDER in metadata
        and not is_permutation(metadata[ORDER], len(objects))
    ):
        yield f"metadata.{ORDER} must hold each of 0 … {len(objects) - 1} once, not {metadata[ORDER]!r}"


def is_permutation(order: Any, n: int) -> bool:
    return (
        isinstance(order, list)
        and all(type(i) is int for i in order)
        and sorted(order) == list(range(n))
    )


def shown(name: str) -> str:
    """In one line: as it is, or quoted where it cannot be printed so."""
    return name if name.isprintable() else repr(name)


def parse_record(line: str, where: str) -> Record:
    """One line of a record file; objects and vertices are put into the contract's order.

    Raises:
        UserError: whatever breaks the contract, after `where` (file and line).
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


def iter_records(path: Path) -> Iterator[Record]:
    """The records of a file, one after the other; every picture they name is there.

    Raises:
        UserError: naming file and line of the first fault.
    """
    try:
        with open(
            path, "rb"
        ) as lines:  # which end at line feeds alone: a name may hold other kinds of line end
            for n, line in enumerate(lines, start=1):
                if line.strip():
                    record = parse_record(line.decode("utf-8"), f"{path}:{n}")
                    picture = path.parent / record.image
                    if not os.path.isfile(picture):  # False for a name that no file can have
                        raise UserError(f"{path}:{n}: the picture {shown(str(picture))} is missing")
                    yield record
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{n}: not UTF-8 ({error.reason} at byte {error.start} of the line)"
        ) from error


def read_records(path: Path) -> list[Record]:
    """All of `iter_records`, at least one.

    Raises:
        UserError: naming file and line of the first fault.
    """
    records = list(iter_records(path))
    if not records:
        raise UserError(f"{path}: holds no record")
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Written as they come, so that a generator of any length takes the memory of one."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as out:
        for record in records:
            out.write(json.dumps(record_row(record), ensure_ascii=False) + "\n")


def record_row(record: Record) -> dict[str, Any]:
    return {
        "images": [record.image],
        "width": record.width,
        "height": record.height,
        "objects": [{"desc": o.desc, o.kind: list(o.pixels)} for o in in_file_order(record)],
        "metadata": record.metadata,
    }
