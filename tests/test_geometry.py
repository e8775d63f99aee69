"""Boxes and their losses, against shapely, closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordexp.probe.geometry import expected_coordinates, geometric_loss, giou, object_losses

unit = st.floats(0, 1)
side = st.floats(0.01, 1)


@st.composite
def valid_boxes(draw) -> tuple[float, ...]:
    x, y, w, h = draw(unit), draw(unit), draw(side), draw(side)
    return (x, y, x + w, y + h)


@st.composite
def inverted_boxes(draw) -> tuple[float, ...]:
    """At least one side runs backwards."""
    x, y, w, h = draw(unit), draw(unit), draw(side), draw(side)
    signs = draw(st.sampled_from([(-1, 1), (1, -1), (-1, -1)]))
    return (x, y, x + signs[0] * w, y + signs[1] * h)


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def shapely_giou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    one, other = shapely.box(*a), shapely.box(*b)
    union, enclosing = (
        shapely.union(one, other),
        shapely.box(*shapely.GeometryCollection([one, other]).bounds),
    )
    return (
        shapely.intersection(one, other).area / union.area
        - (enclosing.area - union.area) / enclosing.area
    )


@given(valid_boxes(), valid_boxes())
def test_giou_is_that_of_the_polygons(a, b):
    assert giou(boxes(a), boxes(b)).item() == pytest.approx(shapely_giou(a, b), abs=1e-9)


def test_giou_in_closed_form():
    square = (0.0, 0.0, 1.0, 1.0)
    pairs = [
        (square, square, 1.0),
        (square, (0.5, 0.0, 1.5, 1.0), 1 / 3),
        (square, (0.25, 0.25, 0.75, 0.75), 0.25),
        (square, (1.0, 0.0, 2.0, 1.0), 0.0),  # they touch, and fill their enclosing box
        (square, (2.0, 0.0, 3.0, 1.0), -1 / 3),
        (square, (9.0, 9.0, 10.0, 10.0), 2 / 100 - 1),
        ((0.9, 0.0, 0.1, 1.0), square, 1 / 1.8 - 1),  # inverted by 0.8: enclosing box 1.8 x 1
        ((0.5, 0.5, 0.5, 0.5), square, 0.0),  # a point within
        ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),
    ]
    found = giou(boxes(*(a for a, _, _ in pairs)), boxes(*(b for _, b, _ in pairs)))
    assert found.tolist() == pytest.approx([value for _, _, value in pairs])


@given(inverted_boxes(), valid_boxes())
def test_an_inverted_box_holds_nothing_and_is_turned_back(a, b):
    pred = boxes(a).requires_grad_()
    value = giou(pred, boxes(b))
    assert -1 <= value.item() <= 1e-12, "no area, so no overlap"
    value.sum().backward()
    widening = (pred.grad[0, 2:] - pred.grad[0, :2]).tolist()
    for lower, upper, grows in zip(a[:2], a[2:], widening, strict=True):
        assert upper >= lower or grows > 0


@given(
    inverted_boxes(),
    valid_boxes(),
    st.sampled_from([0, 1]),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.5),
)
def test_the_more_inverted_the_worse(a, b, axis, low, high):
    if a[axis + 2] < a[axis]:
        worse = list(a)
        worse[axis + 2] -= low
        assert giou(boxes(tuple(worse)), boxes(b)).item() <= giou(boxes(a), boxes(b)).item() + 1e-12
        worse[axis] += high
        assert giou(boxes(tuple(worse)), boxes(b)).item() < giou(boxes(a), boxes(b)).item()


@given(st.one_of(valid_boxes(), inverted_boxes()), valid_boxes())
def test_gradients_are_those_of_finite_differences(a, b):
    gaps = [abs(a[i] - b[j]) for i in range(4) for j in range(4) if (i - j) % 2 == 0]
    if min(gaps) < 1e-3 or abs(a[2] - a[0]) < 1e-3 or abs(a[3] - a[1]) < 1e-3:
        return  # a corner on a corner: there is a kink
    pred, gt = boxes(a).requires_grad_(), boxes(b)
    sum(loss.sum() for loss in geometric_loss(pred, gt)).backward()
    for i in range(4):
        step = torch.zeros(1, 4, dtype=torch.float64)
        step[0, i] = 1e-6
        ahead, behind = (
            sum(loss.sum() for loss in geometric_loss(pred.detach() + s, gt)) for s in (step, -step)
        )
        assert pred.grad[0, i].item() == pytest.approx(
            ((ahead - behind) / 2e-6).item(), rel=1e-4, abs=1e-5
        )


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.001, 0.5, 1.0])] * 4), min_size=2, max_size=2))
def test_values_and_gradients_are_finite_for_whatever_corners(pair):
    for dtype in (torch.float32, torch.float64):
        pred = torch.tensor(pair[:1], dtype=dtype, requires_grad=True)
        gt = torch.tensor(pair[1:], dtype=dtype)
        value = giou(pred, gt)
        value.sum().backward()
        assert -1 <= value.item() <= 1 + 1e-6
        assert pred.grad.isfinite().all()
        assert pred.grad.abs().max() < 1e4


@pytest.mark.parametrize(
    "start",
    [(0.6, 0.6, 0.4, 0.4), (0.9, 0.1, 0.2, 0.3), (0.0, 0.0, 0.01, 0.01), (0.9, 0.9, 0.8, 0.95)],
)
def test_descent_ends_at_the_truth_wherever_it_starts(start):
    gt = boxes((0.3, 0.2, 0.7, 0.8))
    pred = boxes(start).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        giou_loss = geometric_loss(pred, gt)[1].sum()
        giou_loss.backward()
        optimizer.step()
    assert giou(pred, gt).item() > 0.95, "GIoU alone brings it there"


def test_l1_is_the_sum_over_the_corners():
    l1, giou_loss = geometric_loss(boxes((0.0, 0.0, 1.0, 1.0)), boxes((0.1, 0.2, 0.9, 1.0)))
    assert l1.item() == pytest.approx(0.4)
    assert giou_loss.item() == pytest.approx(1 - 0.8 * 0.8)


def test_expected_coordinates():
    logits = torch.full((3, 1000), -1e4, dtype=torch.float64)
    logits[0, 0] = logits[1, 999] = logits[2, 250] = logits[2, 750] = 0.0
    assert expected_coordinates(logits, 0.7).tolist() == pytest.approx([0.0, 1.0, 500 / 999])
    assert expected_coordinates(torch.zeros(1, 1000), 2.0).item() == pytest.approx(0.5)
    random = np.random.default_rng(0).normal(size=(5, 1000)) * 4
    for temperature in (0.5, 1.0, 3.0):
        p = np.exp(random / temperature)
        expected = (p * np.arange(1000) / 999).sum(1) / p.sum(1)
        assert expected_coordinates(torch.tensor(random), temperature).tolist() == pytest.approx(
            expected.tolist()
        )


def test_polygons_have_an_l1_of_a_boxs_size_and_no_giou():
    box, polygon = [0.1, 0.1, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    pred = torch.tensor([*box, *polygon, *box], dtype=torch.float64, requires_grad=True)
    gt = pred.detach() + torch.tensor([0.1] * 4 + [0.2, -0.2] * 3 + [0.0] * 4)
    l1, giou_loss = object_losses(pred, gt, [4, 6, 4], torch.tensor([True, False, True]))
    moved = shapely_giou(tuple(box), tuple(v + 0.1 for v in box))
    assert l1.tolist() == pytest.approx([0.4, 0.8, 0.0])
    assert giou_loss.tolist() == pytest.approx([1 - moved, 0.0, 0.0], abs=1e-6)
    (l1 + giou_loss).sum().backward()
    assert pred.grad[4:10].tolist() == pytest.approx([-4 / 6, 4 / 6] * 3)


def test_no_objects_no_loss():
    l1, giou_loss = object_losses(
        torch.zeros(0), torch.zeros(0), [], torch.zeros(0, dtype=torch.bool)
    )
    assert l1.shape == giou_loss.shape == (0,)
