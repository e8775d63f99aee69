"""Records whose coordinates are tokens: the same records in pixels.

Public CoordExp files hold `"<|coord_12|>"` where this project's hold pixels. Numbers that are no
pixels, such as bins without tokens, are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordexp.coords import COORD_TOKEN, LAST_BIN, bin_to_pixel
from coordexp.data.record_forms import about_misread, misread_records
from coordexp.data.records import (
    KINDS,
    Record,
    object_problem,
    parse_record,
    read_records,
    shown,
    write_records,
)
from coordexp.data.validate import as_numbers, parse_line
from coordexp.errors import UserError, require_regular

# A box without width or height in bins becomes this wide, in bins: it keeps its bins, and an area.
FLAT_BOX_BINS = 0.5
BEYOND_SHARE = 0.1  # of objects that reach beyond their picture: the numbers are no pixels


@dataclass(frozen=True)
class PixelRecords:
    """The records of a file, in pixels."""

    path: Path
    records: list[Record]
    in_tokens: bool  # whether the file holds tokens instead


def read_pixel_records(path: Path) -> PixelRecords:
    """The records of a file whose coordinates are pixels, or all tokens.

    Raises:
        UserError: naming file and line of the first fault; or the coordinates look like bins,
            fractions or another form.
    """
    if not any(tokens_of(raw) for _, raw in iter_objects(path)):
        refuse_misread(path)
        refuse_bins(path)
        records = read_records(path)
        return PixelRecords(path, records, in_tokens=False)
    records = []
    for n, line in iter_lines(path):
        where = f"{path}:{n}"
        raw, problems = parse_line(line)
        if problems:
            raise UserError(f"{where}: {problems[0]}")
        record = parse_record(json.dumps(in_pixels(raw, where)), where)
        if not os.path.isfile(path.parent / record.image):
            picture = shown(str(path.parent / record.image))
            raise UserError(f"{where}: the picture {picture} is missing")
        records.append(record)
    return PixelRecords(path, records, in_tokens=True)


def written_in_pixels(splits: Sequence[PixelRecords], directory: Path) -> list[Path]:
    """Files of these records in pixels, in one directory.

    They are the files that the records were read from, or copies in `directory` if one of them is
    written in tokens.
    """
    if not any(split.in_tokens for split in splits):
        return [split.path for split in splits]
    written = []
    for split in splits:
        pictures = os.path.relpath(split.path.parent.resolve(), directory.resolve())
        records = [replace(r, image=f"{pictures}/{r.image}") for r in split.records]
        write_records(directory / split.path.name, records)
        written.append(directory / split.path.name)
    return written


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    require_regular(path)
    with open(path, "rb") as lines:
        yield from ((n, line) for n, line in enumerate(lines, start=1) if line.strip())


def iter_objects(path: Path) -> Iterator[tuple[tuple[int, int], Any]]:
    """(width, height) and each object of the records; what is no record is left to its reader."""
    for _, line in iter_lines(path):
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(raw, dict) or not isinstance(raw.get("objects"), list):
            continue
        width, height = raw.get("width"), raw.get("height")
        if type(width) is int and type(height) is int:
            yield from (((width, height), entry) for entry in raw["objects"])


def coordinates_of(raw: Any) -> list[Any]:
    """The coordinates of an object; none of what is no object."""
    if object_problem(raw):
        return []
    return next(raw[kind] for kind in KINDS if kind in raw)


def tokens_of(raw: Any) -> list[str]:
    values = coordinates_of(raw)
    return [value for value in values if isinstance(value, str) and COORD_TOKEN.fullmatch(value)]


def in_pixels(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """A record of a file of tokens with pixels in their place.

    Raises:
        UserError: an object holds something else than tokens.
    """
    width, height = raw["width"], raw["height"]
    objects = []
    for i, entry in enumerate(raw["objects"]):
        values = coordinates_of(entry)
        if len(tokens_of(entry)) < len(values):
            raise UserError(
                f"{where}, object {i}: holds something else than the coordinate tokens "
                f"<|coord_0|> … <|coord_{LAST_BIN}|> that the file is written in"
            )
        bins = as_numbers(values)
        if values:
            kind = next(kind for kind in KINDS if kind in entry)
            if kind == "bbox_2d" and len(bins) == 4:
                bins = with_area(bins)
            sides = (width, height)
            pixels = [bin_to_pixel(k, sides[i % 2]) for i, k in enumerate(bins)]
            entry = entry | {kind: pixels}
        objects.append(entry)
    return raw | {"objects": objects}


def with_area(box: list[float]) -> list[float]:
    """A box in bins; where it is flat, a little wider around the same bin."""
    wider = list(box)
    for low, high in ((0, 2), (1, 3)):
        if box[low] == box[high]:
            wider[low] = max(box[low] - FLAT_BOX_BINS / 2, 0.0)
            wider[high] = min(box[high] + FLAT_BOX_BINS / 2, float(LAST_BIN))
    return wider


def refuse_misread(path: Path) -> None:
    """Refuse numbers that look like another form, as `coordexp validate` does.

    Raises:
        UserError: they do.
    """
    other = misread_records(parse_line(line)[0] for _, line in iter_lines(path))
    if other is not None:
        raise UserError(f"{path}: {about_misread(other)}")


def refuse_bins(path: Path) -> None:
    """Refuse the coordinates of a few objects, too few for `refuse_misread`, that look like bins:
    whole numbers, none above the last bin.

    They look like bins if they reach beyond many pictures, or if all pictures are larger than the
    bins go. Pixels with a decimal point are taken as pixels.

    Raises:
        UserError: they look like bins.
    """
    n_objects = n_beyond = 0
    all_larger = True
    for sides, raw in iter_objects(path):
        values = coordinates_of(raw)
        if not all(type(value) is int and 0 <= value <= LAST_BIN for value in values):
            return
        n_objects += 1
        n_beyond += any(value > sides[i % 2] for i, value in enumerate(values))
        all_larger = all_larger and min(sides) > LAST_BIN + 1
    if n_objects and (all_larger or n_beyond > BEYOND_SHARE * n_objects):
        raise UserError(
            f"{path}: its coordinates look like bins 0 … {LAST_BIN} (whole numbers, none larger, "
            f"{n_beyond} of {n_objects} objects beyond their picture): write them as "
            '"<|coord_12|>"; if they are pixels, write 12.0'
        )
