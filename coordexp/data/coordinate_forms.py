"""The forms in which tools write a box, and their conversion to pixels.

A form is a layout (x, y, width, height; two corners; centre and size) in a unit (pixels, fractions
of the picture, per cent, bins, thousandths).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from coordexp.coords import LAST_BIN

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LAYOUTS = {
    "xywh": "x, y, width, height",
    "xyxy": "x1, y1, x2, y2",
    "yxyx": "y1, x1, y2, x2",
    "cxcywh": "centre x, centre y, width, height",
}
PIXELS, FRACTION, PERCENT, BINS, THOUSANDTHS = "", "fraction", "percent", "bins", "thousandths"
UNITS = {
    PIXELS: "px",
    FRACTION: "fractions of the picture",
    PERCENT: "per cent of the picture",
    BINS: f"bins 0 … {LAST_BIN}",
    THOUSANDTHS: "thousandths of the picture",
}
LARGEST = {FRACTION: 1.0, PERCENT: 100.0, BINS: float(LAST_BIN), THOUSANDTHS: 1000.0}


@dataclass(frozen=True)
class Form:
    layout: str
    unit: str = PIXELS

    @property
    def name(self) -> str:
        """Its value of `data.box_format`."""
        return f"{self.layout}_{self.unit}" if self.unit else self.layout

    def __str__(self) -> str:
        return f"{LAYOUTS[self.layout]} in {UNITS[self.unit]}"


FORMS = tuple(Form(layout, unit) for unit, layout in product(UNITS, LAYOUTS))


def form_named(name: str) -> Form:
    layout, _, unit = name.partition("_")
    return Form(layout, unit)


@dataclass(frozen=True)
class BoxSet:
    """N boxes of finite numbers as they are written, and what is known beside them, else NaN."""

    values: Floats  # [N, 4]
    sizes: Floats  # [N, 2], width and height of the picture in px
    areas: Floats  # [N], of the masks
    outlines: Floats  # [N, 4], x1, y1, x2, y2 of the masks

    def only(self, chosen: Flags) -> BoxSet:
        """Those of a mask [N]."""
        arrays = (self.values, self.sizes, self.areas, self.outlines)
        return BoxSet(*(array[chosen] for array in arrays))


def to_pixels(values: Floats, sizes: Floats, form: Form) -> Floats:
    """Boxes as x1, y1, x2, y2 in px from edge to edge of the picture.

    Args:
        values: [N, 4] in this form.
        sizes: [N, 2], width and height of each picture, px.
    """
    corners = corners_of(values, form.layout)
    if form.unit == PIXELS:
        return corners
    # Bins run from the centre of the first pixel to that of the last one, the others edge to edge.
    span = sizes - 1 if form.unit == BINS else sizes
    return corners * np.tile(span, 2) / LARGEST[form.unit]


def corners_of(values: Floats, layout: str) -> Floats:
    """x1, y1, x2, y2 in the unit of the values."""
    first, second = values[:, :2], values[:, 2:]
    if layout == "xywh":
        return np.hstack([first, first + second])
    if layout == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    return values[:, [1, 0, 3, 2]] if layout == "yxyx" else values


def overlap(a: Floats, b: Floats) -> Floats:
    """IoU of boxes [N, 4] with boxes [N, 4]; NaN where one is not known."""
    shared = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return shared / np.maximum(area_a + area_b - shared, 1e-12)
