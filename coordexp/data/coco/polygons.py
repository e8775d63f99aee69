"""An annotated outline, said in few vertices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import shapely

from coordexp.data.records import clockwise, geometry_problem

Ring = list[tuple[float, float]]  # x, y in px, not closed

FIRST_TOLERANCE_PX = 0.25
TOLERANCE_STEP = math.sqrt(2)
NO_AREA = "an outline without area"


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
    """The outline within its picture, as it is where its vertices are few, else simplified; or why a box must do.

    Simplified by Douglas and Peucker (1973), as GEOS does it without letting an outline cross itself, with the first
    tolerance of 0.25, 0.35, 0.5, … px that leaves `max_vertices`. What then covers another area than was annotated
    (IoU below `min_iou`: mostly small or ragged things) is better said as a box.
    """
    ring = distinct(ring)
    if len(ring) < 3:
        return NO_AREA
    whole = shapely.Polygon(ring)
    if not whole.is_valid:
        return "an outline that crosses itself"
    inside = (
        whole.intersection(shapely.box(0, 0, *last_pixel)) if _leaves(whole, last_pixel) else whole
    )
    if not isinstance(inside, shapely.Polygon) or inside.is_empty:
        return "an outline cut apart by the picture's edge"
    if inside.area <= inside.length * 10**-decimals:  # what rounding can make of a line
        return NO_AREA
    found = _few_vertices(inside, limits.max_vertices)
    if found is None or _iou(found, inside) < limits.min_iou:
        return "an outline of too many vertices"
    rounded = distinct([(round(x, decimals), round(y, decimals)) for x, y in found.exterior.coords])
    pixels = [value for point in rounded for value in point]
    if geometry_problem("poly", pixels):
        return NO_AREA
    return Simplified(clockwise(pixels), found is not inside)


def distinct(ring: Ring) -> Ring:
    """Without a vertex that is where the next one is (the first, for the last): it begins where it began."""
    return [
        point
        for point, following in zip(ring, ring[1:] + ring[:1], strict=True)
        if point != following
    ]


def _iou(a: shapely.Polygon, b: shapely.Polygon) -> float:
    shared = a.intersection(b).area if a is not b else a.area
    return shared / (a.area + b.area - shared)


def _leaves(polygon: shapely.Polygon, last_pixel: tuple[float, float]) -> bool:
    x1, y1, x2, y2 = polygon.bounds
    return x1 < 0 or y1 < 0 or x2 > last_pixel[0] or y2 > last_pixel[1]


def _few_vertices(polygon: shapely.Polygon, max_vertices: int) -> shapely.Polygon | None:
    found, tolerance_px = polygon, FIRST_TOLERANCE_PX
    x1, y1, x2, y2 = polygon.bounds
    while shapely.get_num_coordinates(found) - 1 > max_vertices:  # the first is its last again
        if tolerance_px > max(x2 - x1, y2 - y1):
            return None
        found = polygon.simplify(tolerance_px, preserve_topology=True)
        tolerance_px *= TOLERANCE_STEP
    return found
