"""How each variant is drawn: one colour, marker and dash pattern in all figures and on the page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from coordexp.report.svg import PAPER, Data, Point, element, joined, tooltip
from coordexp.study.colours import colours

# Dashes and markers distinguish variants where colours do not: in greyscale, and for colour-blind
# readers.
_DASHES = (None, "9 3", "3 2", "9 3 2 3", "5 2 2 2 2 2", "14 3", "2 2")
_PLUS = (
    (-0.4, -1.1),
    (0.4, -1.1),
    (0.4, -0.4),
    (1.1, -0.4),
    (1.1, 0.4),
    (0.4, 0.4),
    (0.4, 1.1),
    (-0.4, 1.1),
    (-0.4, 0.4),
    (-1.1, 0.4),
    (-1.1, -0.4),
    (-0.4, -0.4),
)
# Corners of each marker about its centre, in radii. The first, without corners, is a circle.
_MARKERS: tuple[tuple[Point, ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),  # square
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),  # diamond
    ((0, -1.2), (1.2, 0.95), (-1.2, 0.95)),  # triangle
    ((0, 1.2), (1.2, -0.95), (-1.2, -0.95)),  # triangle, upside down
    _PLUS,
    tuple(((x - y) * 0.71, (x + y) * 0.71) for x, y in _PLUS),  # a plus turned by 45°: ×
)


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    colour: str
    marker: tuple[Point, ...]  # corners in radii; none: a circle
    dashes: str | None  # stroke-dasharray; None: a solid line


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """A look for each variant, in the order the study names them.

    Colours repeat after seven; markers are then shifted by one, so that no two of the first 49
    variants share both.
    """
    named = colours(variants)
    return {
        variant: Look(colour, _MARKERS[(i + i // 7) % 7], _DASHES[i % 7])
        for i, (variant, colour) in enumerate(named.items())
    }


def looks_of(variants: Collection[str | None], looks: Mapping[str, Look]) -> dict[str, Look]:
    """The looks of these variants alone, in the study's order."""
    return {variant: look for variant, look in looks.items() if variant in variants}


def glyph(
    look: Look,
    at: Point,
    radius: float = 3.6,
    hollow: bool = False,
    edge: str = PAPER,
    title: str = "",
    data: Data | None = None,
) -> str:
    """A variant's marker, with a thin edge that separates it from the lines under it.

    `hollow` draws only its outline; `title` is its tooltip.
    """
    fill, stroke, stroke_width = look.colour, edge, 0.8
    if hollow:
        fill, stroke, stroke_width = PAPER, look.colour, 1.5
    shape = "circle"
    geometry: dict[str, str | float] = {"cx": at[0], "cy": at[1], "r": radius}
    if look.marker:
        corners = [(at[0] + radius * x, at[1] + radius * y) for x, y in look.marker]
        shape, geometry = "polygon", {"points": joined(corners)}
    return element(
        shape,
        tooltip(title),
        data,
        **geometry,
        fill=fill,
        stroke=stroke,
        stroke_width=stroke_width,
    )
