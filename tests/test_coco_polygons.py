"""Outlines in few vertices: which annotations become polygons, and that these say what was
annotated.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from coco_files import CUP, annotation
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from coordexp.data.coco.instances import Frame, convert_instance, drawn_outlines
from coordexp.data.coco.polygons import PolygonLimits
from coordexp.data.records import RecordObject

FRAME = Frame((200, 100), (200, 100))
LIMITS = PolygonLimits(20, 0.9)
CUT = "an outline cut apart by the picture's edge"
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def ring(
    n: int, wobble: float = 0.0, centre: tuple[float, float] = (60, 50), radius: float = 30
) -> list[float]:
    """A star-shaped outline of n vertices, which never crosses itself."""
    angles = [2 * math.pi * i / n for i in range(n)]
    radii = [radius * (1 + wobble * (-1) ** i) for i in range(n)]
    return [
        v
        for a, r in zip(angles, radii, strict=True)
        for v in (centre[0] + r * math.cos(a), centre[1] + r * math.sin(a))
    ]


def convert(segmentation, limits=LIMITS, frame=FRAME):
    return convert_instance(
        annotation(1, bbox=(5, 5, 90, 90), segmentation=segmentation), {CUP: "cup"}, frame, limits
    )


def iou(a, b, scale: int = 10) -> float:
    """By counting pixels, ten a side."""
    masks = [
        coco_mask.frPyObjects([[v * scale for v in p]], 100 * scale, 200 * scale)[0] for p in (a, b)
    ]
    return float(coco_mask.iou(masks[:1], masks[1:], [0])[0, 0])


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [100, 200], "counts": [20000]}, "a run-length encoded mask"),
        (None, "no mask"),
        ([], "no mask"),
        ("SQUARE", "no mask"),
        ([SQUARE, [50, 50, 60, 50, 60, 60]], "several parts"),
        *(
            ([part], "a broken polygon")
            for part in ([1, 2, 3, 4], [*SQUARE, 5], [*SQUARE[:-1], math.nan], ["1"] * 6, 5, None)
        ),
        ([[10, 10, 30, 30, 30, 10, 10, 30]], "an outline that crosses itself"),
        ([[10, 10, 30, 10, 20, 10]], "an outline that crosses itself"),
        ([[150, -20, 150, 50, 160, 50, 160, -10, 170, -10, 170, 50, 180, 50, 180, -20]], CUT),
        ([[210, 10, 230, 10, 230, 30]], CUT),
        ([[10, 10, 10.00001, 10, 10.00001, 10.00001]], "an outline without area"),
        ([[10, 10, 50, 50, 50.00002, 50.00001, 10.00002, 10.00001]], "an outline without area"),
        ([[10, 10, 30, 10, 30, 10.00001, 10, 10.00001]], "an outline without area"),
        ([ring(100, wobble=0.4)], "an outline of too many vertices"),
    ],
)
def test_a_box_stands_where_no_short_outline_says_the_same(segmentation, reason):
    instance = convert(segmentation)
    assert instance.object == RecordObject("cup", "bbox_2d", (5, 5, 95, 95))
    assert instance.box_because == reason


def test_boxes_are_boxes_where_no_polygon_is_preferred():
    instance = convert([SQUARE], limits=None)
    assert (instance.object.kind, instance.box_because) == ("bbox_2d", "")


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_a_short_outline_stands_as_it_was_annotated(turn, backwards):
    points = [(10, 10), (30, 12), (28, 30), (9, 28)]
    points = points[turn:] + points[:turn]
    points = points[::-1] if backwards else points
    instance = convert([[v for p in points for v in p]])
    assert instance.object.pixels == (10, 10, 30, 12, 28, 30, 9, 28)
    assert not instance.simplified
    closed = convert([[v for p in [*points, points[0]] for v in p]])
    assert closed.object == instance.object


@pytest.mark.parametrize(
    "outline",
    [[1, 1, 5, 5, 9, 9], [1, 1, 150, 31, 100, 20.93289], [0.1, 0.1, 0.7, 0.7, 0.3, 0.3, 0.2, 0.2]],
)
@pytest.mark.parametrize("size", [(200, 100), (192, 96), (224, 128), (992, 736)])
def test_what_lies_on_one_line_has_no_area_at_any_scale(outline, size):
    instance = convert([outline], frame=Frame((200, 100), size))
    assert instance.object.kind == "bbox_2d"
    assert instance.box_because in ("an outline without area", "an outline that crosses itself")


def test_a_vertex_that_is_said_again_is_said_once():
    """A ring closed twice, vertices doubled, and one that is the first when rounded."""
    points = [(5, 6), (25, 6), (25, 27), (5, 27)]
    doubled = [point for point in points for _ in range(2)]
    for outline in ([*points, points[0], points[0]], doubled, [*doubled, *doubled[:2]]):
        instance = convert([[v for p in outline for v in p]], PolygonLimits(4, 0.9))
        assert instance.object.pixels == (5, 6, 25, 6, 25, 27, 5, 27)
        assert not instance.simplified
    for near in ((5.000001, 6.000001), (5.00002, 6.00004)):
        assert convert([[v for p in [*points, near] for v in p]]).object.pixels == (
            5,
            6,
            25,
            6,
            25,
            27,
            5,
            27,
        )


def test_an_outline_is_scaled_and_clipped_with_its_picture():
    instance = convert([[-50, 10, 50, 10, 50, 30, -50, 30]], frame=Frame((200, 100), (100, 200)))
    assert instance.object.pixels == (0, 20, 25, 20, 25, 60, 0, 60)
    instance = convert([[150, 50, 250, 50, 250, 150, 150, 150]])
    assert instance.object.pixels == (150, 50, 199, 50, 199, 99, 150, 99)


@pytest.mark.parametrize(("n", "simplified"), [(20, False), (21, True), (60, True), (200, True)])
def test_many_vertices_become_few_that_cover_the_same(n, simplified):
    outline = ring(n)
    instance = convert([outline])
    assert instance.simplified == simplified
    assert len(instance.object.pixels) // 2 <= 20
    assert iou(instance.object.pixels, outline) > 0.9


def test_an_outline_of_a_million_vertices_becomes_a_box_at_once(monkeypatch):
    """To simplify it would take minutes."""
    monkeypatch.setattr("shapely.Polygon", lambda _: pytest.fail("it was simplified"))
    instance = convert([ring(1_000_000)])
    assert instance.object.kind == "bbox_2d"
    assert instance.box_because == "an outline of too many vertices"


@given(st.integers(3, 80), st.floats(0, 0.5), st.integers(3, 30), st.floats(0.5, 1))
def test_a_polygon_keeps_to_its_limits_and_to_annotated_vertices(n, wobble, max_vertices, min_iou):
    outline = ring(n, wobble)
    instance = convert([outline], PolygonLimits(max_vertices, min_iou))
    if n <= max_vertices:
        assert (instance.object.kind, instance.simplified) == ("poly", False)
    assume(instance.object.kind == "poly")
    pixels = instance.object.pixels
    vertices = list(zip(pixels[0::2], pixels[1::2], strict=True))
    assert len(vertices) <= max_vertices
    given_vertices = np.array(outline).reshape(-1, 2)
    for vertex in vertices:
        assert np.abs(given_vertices - vertex).max(-1).min() < 1e-4
    assert iou(pixels, outline) > min_iou - 0.01
    assert min(vertices, key=lambda p: (p[1], p[0])) == vertices[0]
    area = sum(
        x1 * y2 - x2 * y1
        for (x1, y1), (x2, y2) in zip(vertices, vertices[1:] + vertices[:1], strict=True)
    )
    assert area > 0, "clockwise, y downwards"


def test_what_is_drawn_is_the_annotated_shape_or_the_box():
    box = RecordObject("cup", "bbox_2d", (1.0, 2.0, 3.0, 4.0))
    frame = Frame((200, 100), (100, 100))
    assert drawn_outlines({"segmentation": [SQUARE, [1, 2]]}, box, frame) == [
        [(5, 10), (15, 10), (15, 30), (5, 30)]
    ]
    for segmentation in (None, [], {"size": [1, 1], "counts": [1]}):
        assert drawn_outlines({"segmentation": segmentation}, box, frame) == [
            [(1, 2), (3, 2), (3, 4), (1, 4)]
        ]
