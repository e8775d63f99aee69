"""Records whose numbers are not x1, y1, x2, y2 in px: bins without tokens, fractions, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from coordexp.coords import COORD_TOKENS
from coordexp.data.coordinate_forms import BINS, THOUSANDTHS, BoxSet, Form
from coordexp.data.misread_boxes import Misread, misread
from coordexp.data.records import all_finite

RECORD_FORM = Form("xyxy")
MAX_OBJECTS = 20_000  # that are read: more tell nothing new


def misread_records(rows: Iterable[Any]) -> Misread | None:
    """The form that the boxes of these parsed lines seem to have; None for that of records, and
    where they do not tell.

    Objects in coordinate tokens, and lines and objects that are no records, are passed over.
    """
    boxes: list[list[float]] = []
    sizes: list[tuple[float, float]] = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("objects"), list):
            continue
        size: Any = (row.get("width"), row.get("height"))
        if not all_finite(size) or min(size) <= 1:
            continue
        for entry in row["objects"]:
            if (box := written_box(entry)) is not None:
                boxes.append(box)
                sizes.append(size)
        if len(boxes) >= MAX_OBJECTS:
            break
    unknown = np.full((len(boxes), 4), math.nan)
    values = np.array(boxes, float).reshape(-1, 4)
    return misread(
        BoxSet(values, np.array(sizes, float).reshape(-1, 2), unknown[:, 0], unknown), RECORD_FORM
    )


def written_box(entry: Any) -> list[float] | None:
    """The four numbers of a box, or the extent of a polygon; None where there are none."""
    if not isinstance(entry, dict):
        return None
    box, poly = entry.get("bbox_2d"), entry.get("poly")
    if isinstance(box, list) and len(box) == 4 and all_finite(box):
        return box if 0 < max(map(abs, box)) < 1e9 else None
    if isinstance(poly, list) and len(poly) >= 6 and len(poly) % 2 == 0 and all_finite(poly):
        xs, ys = poly[0::2], poly[1::2]
        extent = [min(xs), min(ys), max(xs), max(ys)]
        return extent if 0 < max(map(abs, extent)) < 1e9 else None
    return None


def about_misread(other: Misread) -> str:
    """`30 of 30 objects look like …`, and how to write them."""
    advice = f"write {RECORD_FORM}"
    if other.unit in (BINS, THOUSANDTHS):
        advice = f'write bins 0 … 999 as tokens, such as "{COORD_TOKENS[12]}", or {RECORD_FORM}'
    others = "the others like" if other.is_part else "not"
    return f"{other.n} of {other.of} objects look like {other}, {others} {RECORD_FORM}: {advice}"
