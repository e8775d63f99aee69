"""An annotated outline, simplified to few vertices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import shapely

from coordexp.data.records import clockwise, geometry_problem

Ring = list[tuple[float, float]]  # x, y in px, not closed

FIRST_TOLERANCE_PX = 0.25
TOLERANCE_STEP = math.sqrt(2)
NO_AREA = "an outline without area"
TOO_MANY = "an outline of too many vertices"
# Simplifying takes 3 s at this number, and more than proportionally longer beyond it.
MAX_ANNOTATED_VERTICES = 100_000


@dataclass(frozen=True)
class PolygonLimits:
    max_vertices: int
    min_iou: float  # of a simplified outline with the annotated one


@dataclass(frozen=True)
class Simplified:
    pixels: tuple[float, ...]  # clockwise from the top-most, then left-most vertex
    simplified: bool


def simplify_outline(
    ring: Ring, last_pixel: tuple[float, float], limits: PolygonLimits, decimals: int
) -> Simplified | str:
    """The outline clipped to its picture, and simplified if it has too many vertices.

    The algorithm is Douglas-Peucker (1973), in GEOS's variant that keeps the outline valid. The
    tolerance grows by factors of √2 from 0.25 px until at most `max_vertices` are left. If the IoU
    with the annotation is then below `min_iou` (mostly small or ragged objects), the object is
    written as a box, as it is with more than MAX_ANNOTATED_VERTICES.

    Args:
        ring: vertices in px of the record's picture.
        last_pixel: the largest x and y in the picture.
        decimals: of a pixel, to which vertices are rounded.

    Returns:
        The outline, or a str: why the object is written as a box instead.
    """
    if len(ring) > MAX_ANNOTATED_VERTICES:
        return TOO_MANY
    ring = distinct(ring)
    if len(ring) < 3:
        return NO_AREA
    whole = shapely.Polygon(ring)
    if not whole.is_valid:
        return "an outline that crosses itself"
    inside = whole
    if _leaves(whole, last_pixel):
        inside = whole.intersection(shapely.box(0, 0, *last_pixel))
    if not isinstance(inside, shapely.Polygon) or inside.is_empty:
        return "an outline cut apart by the picture's edge"
    if inside.area <= inside.length * 10**-decimals:  # a line can get this area from rounding
        return NO_AREA
    found = _few_vertices(inside, limits.max_vertices)
    if found is None or _iou(found, inside) < limits.min_iou:
        return TOO_MANY
    rounded = distinct([(round(x, decimals), round(y, decimals)) for x, y in found.exterior.coords])
    pixels = [value for point in rounded for value in point]
    if geometry_problem("poly", pixels):
        return NO_AREA
    return Simplified(clockwise(pixels), found is not inside)


def distinct(ring: Ring) -> Ring:
    """Drop consecutive duplicate vertices (the ring is cyclic)."""
    following = ring[1:] + ring[:1]
    return [point for point, after in zip(ring, following, strict=True) if point != after]


def _iou(a: shapely.Polygon, b: shapely.Polygon) -> float:
    if a is b:
        return 1.0
    shared = a.intersection(b).area
    return shared / (a.area + b.area - shared)


def _leaves(polygon: shapely.Polygon, last_pixel: tuple[float, float]) -> bool:
    """Whether the polygon reaches beyond the picture."""
    x1, y1, x2, y2 = polygon.bounds
    return x1 < 0 or y1 < 0 or x2 > last_pixel[0] or y2 > last_pixel[1]


def _few_vertices(polygon: shapely.Polygon, max_vertices: int) -> shapely.Polygon | None:
    """The polygon simplified to `max_vertices`; None if no tolerance up to its size is enough."""
    found, tolerance_px = polygon, FIRST_TOLERANCE_PX
    x1, y1, x2, y2 = polygon.bounds
    while shapely.get_num_coordinates(found) - 1 > max_vertices:  # GEOS repeats the first vertex
        if tolerance_px > max(x2 - x1, y2 - y1):
            return None
        found = polygon.simplify(tolerance_px, preserve_topology=True)
        tolerance_px *= TOLERANCE_STEP
    return found
