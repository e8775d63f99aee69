"""Baselines that see no picture, against brute force; and that no image keeps its own picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from coordexp.data.records import Record, RecordObject
from coordexp.detection.blind_boxes import blind_scores, boxes_of, typical_boxes
from coordexp.detection.blind_coordinates import (
    MIN_OBJECTS,
    WrittenCoordinates,
    cross_fitted,
    layout_of,
    median_guess,
    median_regression,
    regression_guess,
    written_coordinates,
)
from coordexp.detection.exchange import exchanged_pictures
from coordexp.detection.matching import box_iou
from coordexp.detection.scores import figures

POLYGON = ("poly", (50.0, 10.0, 90.0, 40.0, 60.0, 80.0, 20.0, 30.0))


def record(image: str, *objects, side: int = 1000) -> Record:
    """A record of 1000 px, in which a pixel is a bin."""
    made = [RecordObject("cup", *obj) if len(obj) == 2 else box(*obj) for obj in objects]
    return Record(image, side, side, tuple(made))


def box(*pixels: float) -> RecordObject:
    return RecordObject("cup", "bbox_2d", tuple(map(float, pixels)))


def scattered(n_images: int, seed: int = 0, polygons: bool = False) -> list[Record]:
    """Images with no to three boxes, the second below the first; some with a polygon."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n_images):
        objects = []
        for place in range(int(rng.integers(0, 4))):
            x, y = rng.integers(0, 500), rng.integers(100 * place, 100 * place + 300)
            w, h = rng.integers(50, 400), rng.integers(50, 400)
            objects.append((x, y, x + w, y + h))
        if polygons and i % 3 == 0:
            objects.append(POLYGON)
        records.append(record(f"{i}.png", *objects))
    return records


# Exchanged pictures


@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([64, 96])), max_size=14),
    st.integers(1, 3),
)
def test_no_image_keeps_its_own_picture(files, every):
    """File names repeat; a file has one size."""
    size = dict(files)
    records = [Record(f"{file}.png", size[file], 64, ()) for file, _ in files]
    images = list(range(0, len(records), every))
    found = exchanged_pictures(records, images)
    for image, other in found.items():
        assert records[image].image != records[other].image
        assert records[image].width == records[other].width
        assert {image, other} <= set(images)
    alone = set(images) - set(found)
    for image in alone:
        same = {records[i].image for i in images if records[i].width == records[image].width}
        assert same == {records[image].image}, "only an image without a partner is left out"
    assert list(found) == [image for image in images if image in found]
    shown = [records[other].image for other in found.values()]
    assert set(shown) == {records[image].image for image in found}, "every picture is shown"


def test_neighbours_do_not_get_each_others_picture():
    records = [Record(f"{i}.png", 64, 64, ()) for i in range(10)]
    found = exchanged_pictures(records, range(10))
    assert found == {i: (i + 5) % 10 for i in range(10)}


# Coordinates


def brute_median(written: WrittenCoordinates, fit: np.ndarray, at: int) -> float:
    """The median guess for one coordinate, by loops over all of them."""
    positions, before = [], None
    for image, index in zip(written.image, written.object_index, strict=True):
        positions.append(0 if before != (image, index) else positions[-1] + 1)
        before = (image, index)

    def slot(i: int) -> tuple:
        if written.is_box[i]:
            return ("box", positions[i])
        return ("polygon", positions[i] < 2, positions[i] % 2)

    same = [i for i in range(len(fit)) if fit[i] and slot(i) == slot(at)]
    here = [i for i in same if written.object_index[i] == written.object_index[at]]
    if len({written.image[i] for i in here}) >= MIN_OBJECTS:
        return float(np.median(written.gt_bin[here]))
    if same:
        return float(np.median(written.gt_bin[same]))
    return float(np.median(written.gt_bin[fit]))


@pytest.mark.parametrize("n_images", [4, 40])
def test_median_guess_is_that_of_brute_force(n_images):
    written = written_coordinates(scattered(n_images, polygons=True))
    fit = written.image % 2 == 0
    found = median_guess(written, fit)
    assert found.tolist() == [brute_median(written, fit, i) for i in range(len(fit))]


def test_features_are_what_was_written_before():
    written = written_coordinates([record("0.png", (1, 2, 30, 40), (5, 6, 70, 80), POLYGON)])
    features, slots = layout_of(written).features, layout_of(written).slot
    first, second = [0.0] * 4, [1.0, 2.0, 30.0, 40.0]
    third = [5.0, 6.0, 70.0, 80.0]
    assert slots.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 6, 7]
    assert features.tolist() == [
        [1, 0, 0, 0, *first],
        [1, 1, 0, 0, *first],
        [1, 2, 1, 0, *first],
        [1, 30, 2, 1, *first],
        [1, 0, 0, 0, *second],
        [1, 5, 0, 0, *second],
        [1, 6, 5, 0, *second],
        [1, 70, 6, 5, *second],
        [1, 0, 0, 0, *third],
        [1, 50, 0, 0, *third],
        [1, 10, 50, 0, *third],
        [1, 90, 10, 10, *third],
        [1, 40, 90, 50, *third],
        [1, 60, 40, 10, *third],
        [1, 80, 60, 50, *third],
        [1, 20, 80, 10, *third],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_median_regression_reaches_the_optimum(seed):
    """Against the linear programme of least absolute deviations."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(60), rng.uniform(0, 999, (60, 3))])
    y = x @ [40.0, 0.5, -0.2, 0.0] + rng.standard_t(2, 60) * 30
    n, f = x.shape
    cost = np.concatenate([np.zeros(f), np.ones(2 * n)])
    equal = np.hstack([x, np.eye(n), -np.eye(n)])
    bounds = [(None, None)] * f + [(0, None)] * (2 * n)
    optimum = linprog(cost, A_eq=equal, b_eq=y, bounds=bounds).fun
    assert np.abs(y - x @ median_regression(x, y)).sum() == pytest.approx(optimum, rel=1e-3)


def test_regression_sees_the_box_written_so_far():
    """Boxes of 100 bins anywhere: x2 follows from x1, which nothing tells."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 800, (200, 2)).tolist()
    records = [record(f"{i}.png", (x, y, x + 100, y + 100)) for i, (x, y) in enumerate(corners)]
    written = written_coordinates(records)
    half = written.image % 2 == 0
    everything = np.ones(len(half), dtype=bool)
    median = cross_fitted(median_guess, written, half, everything)
    regression = cross_fitted(regression_guess, written, half, everything)
    of_x2 = np.arange(len(half)) % 4 == 2
    assert median[of_x2].mean() > 150
    assert regression[of_x2].mean() < 2
    of_x1 = np.arange(len(half)) % 4 == 0
    assert regression[of_x1] == pytest.approx(median[of_x1]), "nothing was written before"


def test_no_image_is_judged_by_itself():
    """Moving the judged images moves their errors, never the guesses."""
    records = scattered(60)
    written = written_coordinates(records)
    half = written.image % 2 == 0
    judged = ~half
    for guess in (median_guess, regression_guess):
        errors = cross_fitted(guess, written, half, judged)
        assert np.isnan(errors[half]).all()
        moved = WrittenCoordinates(
            written.image, written.object_index, written.is_box, written.gt_bin.copy()
        )
        image = written.image[judged][0]
        moved.gt_bin[written.image == image] = 0
        others = judged & (written.image != image)
        assert cross_fitted(guess, moved, half, judged)[others] == pytest.approx(errors[others])


def test_empty_half_gives_no_baseline():
    written = written_coordinates(scattered(6))
    half, everything = np.zeros(len(written.image), bool), np.ones(len(written.image), bool)
    assert cross_fitted(median_guess, written, half, everything) is None


# Boxes


def test_typical_boxes_are_those_of_brute_force():
    images = [boxes_of(r) for r in scattered(30)]
    found = typical_boxes(images)
    counts = sorted(len(boxes) for boxes in images)
    assert len(found) == max(1, round((counts[14] + counts[15]) / 2))
    for place, typical in enumerate(found):
        here = [boxes[place] for boxes in images if len(boxes) > place]

        def overlap(candidate, others=here) -> tuple[int, float]:
            ious = [float(box_iou(candidate, other)[0, 0]) for other in others]
            return sum(iou >= 0.5 for iou in ious), round(sum(ious), 9)

        assert overlap(typical) == max(overlap(candidate) for candidate in here)


def test_blind_guess_is_scored_as_a_rollout_is():
    """One box in every image of the other half, and a second box in the judged ones."""
    usual, other = (100, 100, 300, 300), (500, 500, 900, 900)
    records = [record(f"{i}.png", usual, *([other] * (i % 2))) for i in range(10)]
    scores = blind_scores(records, [1, 3, 5], lambda image: image % 2 == 0)
    assert scores.images.tolist() == [1, 3, 5]
    found = figures(scores)
    assert (found["recall_50_agnostic"], found["precision_50_agnostic"]) == (0.5, 1.0)
    assert blind_scores(records, [], lambda image: image % 2 == 0) is None
    empty = [record(f"{i}.png") for i in range(4)]
    assert blind_scores(empty, [1], lambda image: image % 2 == 0) is None


def test_records_and_guesses_without_objects_are_no_error():
    written = written_coordinates([record("0.png")])
    assert len(written.gt_bin) == 0
    assert typical_boxes([np.empty((0, 4))] * 3).shape == (0, 4)
    pairs = itertools.pairwise(boxes_of(record("0.png", (1, 2, 3, 4), (5, 6, 7, 8))))
    assert all((a != b).any() for a, b in pairs)
