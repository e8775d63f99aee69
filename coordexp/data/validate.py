"""Find every problem of a record file, with its line.

Problems include what a reader would repair or not notice. Coordinates are pixels, or bins written
as strings "<|coord_12|>", as in public CoordExp files. A box or polygon in bins may be flat,
because bins are rounded. An inverted box is a problem.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from coordexp.coords import COORD_TOKEN, LAST_BIN
from coordexp.data.coco.images import CELL_PX
from coordexp.data.parallel import in_parallel
from coordexp.data.picture_paths import is_text
from coordexp.data.pictures import LeftOutError, opened
from coordexp.data.record_forms import about_misread, misread_records
from coordexp.data.records import (
    KINDS,
    TOKEN_SPELT,
    RecordObject,
    all_finite,
    clockwise,
    frame_problems,
    geometry_problem,
    object_problem,
    shown,
)
from coordexp.errors import UserError, require_regular

WHOLE_TO_LAST_BIN = "in whole numbers that bins could be"  # objects in pictures of 1000 px or more
NO_OBJECT = "no record holds an object: there is nothing to train on or to evaluate"

Size = tuple[int, int]  # width, height in px


@dataclass(frozen=True)
class Line:
    """The content of one line, and its problems that can be found without other lines."""

    n: int
    picture: str | None
    problems: list[str]
    counts: Counter[str]


def validate(
    path: Path, counts: Counter[str], pictures: bool = True, workers: int = 1
) -> Iterator[str]:
    """The problems of a record file in the order of its lines; each begins with file and line.

    Adds the file's content to `counts`. With `pictures`, each picture must exist, have the size
    that the record states, and be fully decodable.

    Raises:
        UserError: one of several workers died.
    """
    try:
        require_regular(path)
    except UserError as error:
        counts["problems"] += 1
        yield str(error)
        return
    line_of: dict[str, int] = {}  # by picture
    try:
        other = misread_records(parsed_lines(path))
        if other is not None:
            counts["problems"] += 1
            yield f"{path}: {about_misread(other)}"
        with open(path, "rb") as file:
            lines = ((n, line) for n, line in enumerate(file, start=1) if line.strip())
            check = partial(check_line, path.parent if pictures else None, other is None)
            for line in in_parallel(check, lines, workers):
                problems = line.problems
                if line.picture is not None:
                    first = line_of.setdefault(line.picture, line.n)
                    if first != line.n:
                        name = shown(line.picture)
                        problems.append(f"the picture {name} stands in line {first} already")
                counts.update(line.counts)
                counts.update({"problems": len(problems), "lines with problems": bool(problems)})
                yield from (f"{path}:{line.n}: {problem}" for problem in problems)
    except OSError as error:
        counts["problems"] += 1
        yield f"{path}: cannot be read ({error.strerror})"
        return
    if counts["without objects"] == counts["records"]:
        counts["problems"] += 1
        yield f"{path}: {NO_OBJECT if counts['records'] else 'holds no record'}"


def parsed_lines(path: Path) -> Iterator[Any]:
    """The lines of a file that are JSON."""
    with open(path, "rb") as file:
        for line in file:
            yield parse_line(line)[0]


def check_line(root: Path | None, in_px: bool, numbered: tuple[int, bytes]) -> Line:
    """Check one line by itself; its picture is checked if `root` is given.

    Numbers that are not pixels (`in_px` is false) are not compared with the picture's size.
    """
    n, line = numbered
    counts = Counter({"records": 1})
    raw, problems = parse_line(line)
    problems += record_problems(raw, root, in_px, counts)
    return Line(n, picture_of(raw), problems, counts)


def parse_line(line: bytes) -> tuple[Any, list[str]]:
    """The parsed value of a line, and its problems apart from those of its objects."""
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return None, [f"not UTF-8 ({error.reason} at byte {error.start} of the line)"]
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON ({error})"]
    return raw, list(frame_problems(raw))


def picture_of(raw: Any) -> str | None:
    """The one path under `images`; None where there is none."""
    if not isinstance(raw, dict):
        return None
    images = raw.get("images")
    if isinstance(images, list) and len(images) == 1 and isinstance(images[0], str):
        return images[0]
    return None


def record_problems(
    raw: Any, root: Path | None, in_px: bool, counts: Counter[str]
) -> Iterator[str]:
    """Problems of the picture (checked if `root` is given), of the objects and of their order."""
    if not isinstance(raw, dict):
        return
    width, height = raw.get("width"), raw.get("height")
    size = (width, height) if type(width) is int and type(height) is int else None
    if size and min(size) > 1 and any(side % CELL_PX for side in size):
        yield (
            f"{width} x {height} px are not multiples of {CELL_PX}: "
            "resize picture and coordinates, training does not"
        )
    if (name := picture_of(raw)) is not None and (problem := picture_problem(name, size, root)):
        yield problem
    objects = raw["objects"] if isinstance(raw.get("objects"), list) else []
    counts["without objects"] += raw.get("objects") == []
    first_of: dict[RecordObject, int] = {}
    corners = []
    for i, entry in enumerate(objects):
        counts["objects"] += 1
        if size and min(size) > LAST_BIN:
            counts[WHOLE_TO_LAST_BIN] += may_be_bins(entry)
        problems = problems_of_object(entry, size if in_px else None, counts)
        yield from (f"object {i}: {problem}" for problem in problems)
        if (obj := sound_object(entry)) is not None:
            corners.append((i, (obj.box[1], obj.box[0])))
            if (first := first_of.setdefault(obj, i)) != i:
                yield f"object {i}: is object {first} again"
    for (i, corner), (j, following) in pairwise(corners):
        if following < corner:
            yield (
                f"object {j}: its (y1, x1) comes before that of object {i}: "
                "objects are sorted by it"
            )


def picture_problem(name: str, size: Size | None, root: Path | None) -> str | None:
    """The problem of a picture's path or file; the file is checked if `root` is given."""
    if Path(name).is_absolute() or "\0" in name or not is_text(name):
        return f"the picture's path {name!r} is not relative to the record file"
    if root is None:
        return None
    picture = f"the picture {shown(str(root / name))}"
    if not os.path.isfile(root / name):  # also False for an impossible file name
        return f"{picture} is missing"
    try:
        with opened(root / name) as found:
            if size and found.size != size:
                return (
                    f"{picture} has {found.width} x {found.height} px, "
                    f"the record says {size[0]} x {size[1]}"
                )
            found.load()
    except LeftOutError as left:
        return f"{picture} is {left.reason.removeprefix('picture ')} ({left.found})"
    return None


def problems_of_object(raw: Any, size: Size | None, counts: Counter[str]) -> Iterator[str]:
    """Problems of an object's name and geometry. `size` is the picture's, where it is known."""
    if problem := object_problem(raw):
        yield problem
    if not isinstance(raw, dict):
        return
    if isinstance(raw.get("desc"), str):
        yield from name_problems(raw["desc"])
    for kind in KINDS:
        if isinstance(raw.get(kind), list):
            counts[kind] += 1
            counts["with tokens"] += any(isinstance(value, str) for value in raw[kind])
            yield from geometry_problems(kind, raw[kind], size)


def may_be_bins(raw: Any) -> bool:
    """Whether the coordinates of an object are whole numbers, none larger than the last bin."""
    values = [raw[kind] for kind in KINDS if isinstance(raw, dict) and kind in raw]
    if not values or not isinstance(values[0], list) or not all_finite(values[0]):
        return False
    return all(value == int(value) and 0 <= value <= LAST_BIN for value in values[0])


def name_problems(name: str) -> Iterator[str]:
    if spelt := TOKEN_SPELT.search(name):
        yield f"the name {name!r} spells the token {spelt[0]}: rename it"
    if not is_text(name):
        yield f"the name {name!r} is no text (half a surrogate pair)"
    elif unicodedata.normalize("NFC", name) != name:
        yield f"the name {name!r} is not in Unicode's NFC, in which tokenizers write it"


def geometry_problems(kind: str, values: list[Any], size: Size | None) -> Iterator[str]:
    strings = [value for value in values if isinstance(value, str)]
    for value in strings:
        if not COORD_TOKEN.fullmatch(value):
            tokens = f"<|coord_0|> … <|coord_{LAST_BIN}|>"
            yield f"{kind} holds {value!r}, which is no coordinate token {tokens}"
            return
    if strings and len(strings) < len(values):
        yield f"{kind} mixes coordinate tokens and numbers"
        return
    numbers = as_numbers(values)
    if problem := geometry_problem(kind, numbers, may_be_flat=bool(strings)):
        yield problem
        return
    if size and not strings and any(value > size[i % 2] for i, value in enumerate(numbers)):
        yield f"{kind} {numbers} reaches beyond the picture of {size[0]} x {size[1]} px: clip it"
    if kind == "poly":
        yield from vertex_problems(numbers)


def vertex_problems(numbers: list[Any]) -> Iterator[str]:
    if numbers[:2] == numbers[-2:]:
        yield f"poly {numbers} repeats its first vertex at its end"
        return
    expected = list(clockwise(numbers))
    if expected == numbers:
        return
    rotations = (numbers[i:] + numbers[:i] for i in range(0, len(numbers), 2))
    if expected in rotations:
        yield f"poly {numbers} does not begin at its top-most, then left-most vertex"
    else:
        yield f"poly {numbers} is not clockwise"


def as_numbers(values: list[Any]) -> list[Any]:
    """Coordinate tokens as their bins; everything else as it is."""
    numbers = []
    for value in values:
        token = COORD_TOKEN.fullmatch(value) if isinstance(value, str) else None
        numbers.append(value if token is None else int(token[1]))
    return numbers


def sound_object(raw: Any) -> RecordObject | None:
    """The object, if it is valid enough to be compared with others; else None."""
    if object_problem(raw):
        return None
    kind = next(kind for kind in KINDS if kind in raw)
    numbers = as_numbers(raw[kind])
    if geometry_problem(kind, numbers, may_be_flat=True):
        return None
    return RecordObject(raw["desc"], kind, tuple(numbers))


def summary(counts: Counter[str]) -> str:
    """The last line: what the file holds."""
    kinds = f"{counts['bbox_2d']} boxes, {counts['poly']} polygons"
    if counts["with tokens"]:
        kinds += f", {counts['with tokens']} in coordinate tokens"
    found = f"{counts['problems']} problems in {counts['lines with problems']} lines"
    if counts["objects"] and counts[WHOLE_TO_LAST_BIN] == counts["objects"]:
        found += (
            f"; every coordinate is a whole number up to {LAST_BIN}, in pictures of more px: "
            "if these are bins, write them as tokens"
        )
    return f"{counts['records']} records, {counts['objects']} objects ({kinds}): {found}"
