"""Matching predicted to true boxes, against brute force, shapely and counted squares."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.coords import to_pixels
from coordexp.detection.matching import THRESHOLDS, box_iou, match, score_image

small = st.integers(0, 6)
boxes = st.tuples(small, small, small, small).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
objects = st.lists(st.tuples(st.sampled_from(["a", "b", " a"]), boxes), max_size=6)
# Few distinct values, so that thresholds are met exactly and totals tie.
ious = st.tuples(st.integers(0, 6), st.integers(0, 6)).flatmap(
    lambda shape: st.lists(
        st.lists(
            st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0]),
            min_size=shape[1],
            max_size=shape[1],
        ),
        min_size=shape[0],
        max_size=shape[0],
    ).map(lambda rows: np.array(rows, dtype=float).reshape(shape))
)


def best_by_brute_force(iou: np.ndarray, threshold: float) -> tuple[int, float]:
    """Number of pairs and their total IoU, over every way to give each box of the shorter side one
    of the longer.
    """
    iou = iou if iou.shape[0] <= iou.shape[1] else iou.T
    ways = itertools.permutations(range(iou.shape[1]), iou.shape[0])
    kept = ([iou[p, g] for p, g in enumerate(way) if iou[p, g] >= threshold] for way in ways)
    return max((len(values), math.fsum(values)) for values in kept)


@given(boxes, boxes)
def test_iou_counts_squares(a, b):
    def squares(box):
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    covered = squares(a) | squares(b)
    expected = len(squares(a) & squares(b)) / len(covered) if covered else float(a == b)
    assert box_iou(np.array([a]), np.array([b])) == [[expected]]


@given(st.lists(st.lists(st.floats(0, 1000), min_size=4, max_size=4), min_size=1, max_size=5))
def test_iou_is_that_of_shapely(sides):
    found = [
        (min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1) for x1, y1, x2, y2 in sides
    ]
    shapes = [shapely.box(*box) for box in found]
    expected = [[a.intersection(b).area / a.union(b).area for b in shapes] for a in shapes]
    iou = box_iou(np.array(found), np.array(found))
    np.testing.assert_allclose(iou, expected, rtol=1e-6, atol=1e-9)
    assert (iou == iou.T).all()
    assert (iou.diagonal() == 1).all()


def test_boxes_without_area():
    line, point, other, box = (2, 1, 2, 9), (3, 3, 3, 3), (4, 4, 4, 4), (0, 0, 9, 9)
    iou = box_iou(np.array([line, point, other, box]), np.array([line, point, box]))
    assert iou.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]


@given(st.lists(boxes, min_size=1, max_size=4), st.integers(2, 3000), st.integers(2, 3000))
def test_iou_is_the_same_in_bins_and_in_pixels(bins, width, height):
    pixels = [to_pixels(box, width, height) for box in bins]
    np.testing.assert_allclose(
        box_iou(np.array(pixels), np.array(pixels)),
        box_iou(np.array(bins), np.array(bins)),
        rtol=1e-9,
    )


def test_no_boxes_have_no_pairs():
    assert box_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert box_iou([], [(0, 0, 1, 1)]).shape == (0, 1)
    assert (
        match(np.zeros((0, 3)), 0.5)
        == match(np.zeros((3, 0)), 0.5)
        == match(np.zeros((2, 2)), 0.5)
        == []
    )


@settings(max_examples=300)
@given(ious, st.sampled_from(THRESHOLDS))
def test_most_pairs_then_most_iou_as_by_brute_force(iou, threshold):
    pairs = match(iou, threshold)
    assert all(iou[pair] >= threshold for pair in pairs)
    assert all(len(set(side)) == len(pairs) for side in zip(*pairs, strict=True))
    if iou.size:
        number, total = best_by_brute_force(iou, threshold)
        assert len(pairs) == number
        assert math.fsum(iou[pair] for pair in pairs) == pytest.approx(total, abs=1e-12)


def test_one_pair_more_is_worth_more_than_any_iou():
    assert match(np.array([[1.0, 0.5], [0.5, 0.0]]), 0.5) == [(0, 1), (1, 0)]
    assert match(np.array([[1.0, 0.5], [0.5, 0.0]]), 0.55) == [(0, 0)]
    n = 300  # each box best by itself, but then the last one is left over
    iou = np.eye(n) + 0.5 * np.eye(n, k=1)
    iou[-1, -1], iou[-1, 0] = 0, 0.5
    assert match(iou, 0.5) == [(i, (i + 1) % n) for i in range(n)]
    iou[-1, 0] = 0.499
    assert len(match(iou, 0.5)) == n - 1
    assert sum(iou[pair] for pair in match(iou, 0.5)) == n - 1, (
        "of as many pairs, those that fit best"
    )


@given(objects, objects, st.randoms(use_true_random=False))
def test_score_is_by_brute_force_and_order_does_not_matter(predicted, truth, random):
    score = score_image(predicted, truth)
    iou = box_iou([b for _, b in predicted], [b for _, b in truth])
    for i, threshold in enumerate(THRESHOLDS):
        assert score.true_positives_agnostic[i] == (
            best_by_brute_force(iou, threshold)[0] if iou.size else 0
        )
        by_name = 0
        for name in "ab":
            mine = iou[
                np.ix_(
                    [n.strip() == name for n, _ in predicted], [n.strip() == name for n, _ in truth]
                )
            ]
            by_name += best_by_brute_force(mine, threshold)[0] if mine.size else 0
        assert score.true_positives_aware[i] == by_name
    assert (score.n_predicted, score.n_truth) == (len(predicted), len(truth))
    if iou.size:
        assert (score.n_matched, score.matched_iou_sum) == pytest.approx(
            best_by_brute_force(iou, 0.5)
        )
    again = score_image(random.sample(predicted, len(predicted)), random.sample(truth, len(truth)))
    assert again.true_positives_aware == score.true_positives_aware
    assert again.true_positives_agnostic == score.true_positives_agnostic
    assert again.matched_iou_sum == pytest.approx(score.matched_iou_sum)


@given(objects)
def test_truth_scores_all(truth):
    score = score_image(truth, truth)
    assert set(score.true_positives_aware) == set(score.true_positives_agnostic) == {len(truth)}
    assert score.matched_iou_sum == score.n_matched == len(truth)


def test_thresholds_are_met_exactly():
    wide = (0, 0, 100, 10)
    for i, threshold in enumerate(THRESHOLDS):
        score = score_image([("a", (0, 0, round(100 * threshold), 10))], [("a", wide)])
        assert score.true_positives_aware == tuple(int(k <= i) for k in range(10))


def test_names_match_exactly_but_for_blanks_at_the_ends():
    box = (0, 0, 5, 5)
    for name, same in (("cup", 1), (" cup\n", 1), ("Cup", 0), ("cups", 0), ("c up", 0)):
        score = score_image([(name, box)], [("cup ", box)])
        assert score.true_positives_aware == (same,) * 10
        assert score.true_positives_agnostic == (1,) * 10


def test_duplicates_are_of_an_earlier_prediction_of_the_same_name():
    box, near, far = (0, 0, 100, 100), (0, 0, 100, 90), (0, 0, 100, 89)
    assert score_image([("a", box), ("a", near)], []).duplicates == 1
    assert score_image([("a", box), ("b", near)], []).duplicates == 0
    assert score_image([("a", box), ("a", far)], []).duplicates == 0
    assert score_image([("a", box), ("b", box), ("a ", box), ("a", box)], []).duplicates == 2
    assert score_image([], [("a", box), ("a", box)]).duplicates == 0


def test_an_image_without_truth_or_predictions():
    box = ("a", (0, 0, 5, 5))
    nothing = (0,) * 10
    for predicted, truth in (([], []), ([box], []), ([], [box])):
        score = score_image(predicted, truth)
        assert (score.n_predicted, score.n_truth) == (len(predicted), len(truth))
        assert score.true_positives_aware == score.true_positives_agnostic == nothing
        assert (score.matched_iou_sum, score.n_matched) == (0.0, 0)
