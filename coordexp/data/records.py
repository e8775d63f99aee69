"""The record: one image and its objects, a line of JSON.

    {"images": ["images/000001.png"], "width": 128, "height": 128,
     "objects": [{"desc": "red circle", "bbox_2d": [x1, y1, x2, y2]}], "metadata": {…}}

Coordinates are pixel floats. An object holds exactly one of `bbox_2d` and `poly` ([x1, y1, …], at least three
points, clockwise from the top-most, then left-most vertex). Objects are sorted by (y1, x1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.coords import CoordObject, to_bins
from coordexp.files import write_text
from coordexp.schema import UserError


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
    objects: tuple[RecordObject, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    def coord_objects(self) -> list[CoordObject]:
        return [CoordObject(o.desc, o.kind, tuple(to_bins(o.pixels, self.width, self.height))) for o in self.objects]


def reading_order(objects: Iterable[RecordObject]) -> tuple[RecordObject, ...]:
    """Sorted by (y1, x1); what remains equal keeps its order."""
    return tuple(sorted(objects, key=lambda o: (o.box[1], o.box[0])))


def clockwise(pixels: Sequence[float]) -> tuple[float, ...]:
    """The polygon clockwise (as seen, y downwards) from its top-most, then left-most vertex."""
    points = list(zip(pixels[0::2], pixels[1::2], strict=True))
    following = points[1:] + points[:1]
    twice_area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True))
    points = points if twice_area >= 0 else points[::-1]
    first = min(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
    return tuple(value for point in points[first:] + points[:first] for value in point)


def check_geometry(kind: str, pixels: Sequence[Any], where: str) -> None:
    """Refuse a box or polygon that no model should learn.

    Raises:
        UserError: not numbers, not finite, negative, wrong count or no area; `where` names the place.
    """
    shown = json.dumps(list(pixels))
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in pixels):
        raise UserError(f"{where}: {kind} {shown} holds something that is not a number")
    if not all(math.isfinite(v) for v in pixels):
        raise UserError(f"{where}: {kind} {shown} is not finite: remove the annotation or mend it")
    if kind == "bbox_2d" and len(pixels) != 4:
        raise UserError(f"{where}: bbox_2d {shown} needs four numbers x1, y1, x2, y2")
    if kind == "poly" and (len(pixels) < 6 or len(pixels) % 2):
        raise UserError(f"{where}: poly {shown} needs at least three x, y pairs")
    if min(pixels) < 0:
        raise UserError(f"{where}: {kind} {shown} has a negative coordinate: clip it to the picture")
    xs, ys = pixels[0::2], pixels[1::2]
    empty = pixels[2] <= pixels[0] or pixels[3] <= pixels[1] if kind == "bbox_2d" else max(xs) <= min(xs) or max(ys) <= min(ys)
    if empty:
        raise UserError(f"{where}: {kind} {shown} has no area: remove the annotation or mend it")


def parse_record(line: str, where: str) -> Record:
    """One line of a record file; objects and vertices are put into the contract's order.

    Raises:
        UserError: whatever breaks the contract, after `where` (file and line).
    """
    try:
        raw = json.loads(line)
        images, width, height, objects = raw["images"], raw["width"], raw["height"], raw["objects"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: not a record ({error!r}): it needs images, width, height and objects") from error
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], str)):
        raise UserError(f"{where}: images must be a list of one path, not {images!r}")
    if not all(isinstance(side, int) and side > 1 for side in (width, height)):
        raise UserError(f"{where}: width and height must be whole pixels above 1, not {width!r} x {height!r}")
    if not isinstance(objects, list):
        raise UserError(f"{where}: objects must be a list, not {objects!r}")
    metadata = raw.get("metadata", {})
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: metadata must be an object, not {metadata!r}")
    parsed = [_parse_object(o, f"{where}, object {i}") for i, o in enumerate(objects)]
    return Record(images[0], width, height, reading_order(parsed), metadata)


def _parse_object(raw: Any, where: str) -> RecordObject:
    if not isinstance(raw, dict) or not isinstance(raw.get("desc"), str) or not raw["desc"].strip():
        raise UserError(f"{where}: needs a desc that is not empty")
    kinds = [kind for kind in ("bbox_2d", "poly") if kind in raw]
    if len(kinds) != 1 or not isinstance(raw[kinds[0]], list):
        raise UserError(f"{where}: needs exactly one of bbox_2d and poly, as a list")
    check_geometry(kinds[0], raw[kinds[0]], where)
    pixels = tuple(float(v) for v in raw[kinds[0]])
    return RecordObject(raw["desc"], kinds[0], clockwise(pixels) if kinds[0] == "poly" else pixels)


def read_records(path: Path) -> list[Record]:
    """Every record of a file, and every picture they name is there.

    Raises:
        UserError: naming file and line of the first fault.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # and at no other kind of line end, which a name may hold
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    records = []
    for n, line in enumerate(lines, start=1):
        if line.strip():
            record = parse_record(line, f"{path}:{n}")
            if not (path.parent / record.image).is_file():
                raise UserError(f"{path}:{n}: the picture {path.parent / record.image} is missing")
            records.append(record)
    if not records:
        raise UserError(f"{path}: holds no record")
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    rows = [
        {
            "images": [r.image],
            "width": r.width,
            "height": r.height,
            "objects": [{"desc": o.desc, o.kind: list(o.pixels)} for o in r.objects],
            "metadata": r.metadata,
        }
        for r in records
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
