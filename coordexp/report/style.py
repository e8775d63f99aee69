"""One look a variant, the same in every figure and beside its name on the page: colour, marker and dashes say it thrice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from coordexp.report.svg import PAPER, Point, element, hint, joined

# Okabe & Ito (2008), without yellow, which is invisible on paper. Line styles and markers say the same in grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_DASHES = (None, "9 3", "3 2", "9 3 2 3", "5 2 2 2 2 2", "14 3", "2 2")
_CROSS = ((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4), (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4),
          (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4))  # fmt: skip
# Corners of each marker about its centre, in radii; none: a circle.
_MARKERS: tuple[tuple[Point, ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, -1.2), (1.2, 0.95), (-1.2, 0.95)),
    ((0, 1.2), (1.2, -0.95), (-1.2, -0.95)),
    _CROSS,
    tuple(((x - y) * 0.71, (x + y) * 0.71) for x, y in _CROSS),
)


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    colour: str
    marker: tuple[Point, ...]
    dashes: str | None


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """A look for each variant, in the order the study names them; no two alike among the first 49."""
    names = list(dict.fromkeys(variants))
    return {
        name: Look(_COLOURS[i % 7], _MARKERS[(i + i // 7) % 7], _DASHES[i % 7])
        for i, name in enumerate(names)
    }


def glyph(
    look: Look,
    at: Point,
    radius: float = 3.6,
    hollow: bool = False,
    edge: str = PAPER,
    title: str = "",
) -> str:
    """A variant's marker, with an edge that parts it from what lies under it; hollow ones are drawn in outline."""
    fill, stroke, width = (PAPER, look.colour, 1.5) if hollow else (look.colour, edge, 0.8)
    paint: dict[str, Any] = {"fill": fill, "stroke": stroke, "stroke_width": width}
    if not look.marker:
        return element("circle", hint(title), cx=at[0], cy=at[1], r=radius, **paint)
    corners = [(at[0] + radius * x, at[1] + radius * y) for x, y in look.marker]
    return element("polygon", hint(title), points=joined(corners), **paint)
