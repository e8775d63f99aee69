"""Coordinates guessed without any picture: what the order and the boxes written so far give away.

Two guesses, both fitted on other images than those they are judged on:

- the median bin of a coordinate's slot and of its object's place in the list;
- a median regression of the coordinate on what teacher forcing shows before it: the coordinates of
  the same object, and the box of the object before.

A model that does not beat them has not been shown to look at its picture.
Shapes: C coordinate tokens, N objects, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.coords import LAST_BIN
from coordexp.data.records import Record

# A place in the list with fewer objects to fit on is guessed from all places together.
MIN_OBJECTS = 8
ROWS_PER_FEATURE = 5  # with fewer rows a regression follows noise: the median is used instead
# Iteratively reweighted least squares: 1 / |residual| is bounded where a residual is below this.
SMALLEST_RESIDUAL = 0.05  # bins
ITERATIONS = 40


@dataclass(frozen=True)
class WrittenCoordinates:
    """Coordinates in the order in which they are written, image after image."""

    image: np.ndarray  # [C] image ids
    object_index: np.ndarray  # [C] in the image's list
    is_box: np.ndarray  # [C] of a box (x1, y1, x2, y2); else of a polygon (x, y, x, y, …)
    gt_bin: np.ndarray  # [C]


def written_coordinates(records: Sequence[Record]) -> WrittenCoordinates:
    """The coordinates of all records; image ids are the indices of the records."""
    rows = []
    for image, record in enumerate(records):
        for index, obj in enumerate(record.coord_objects()):
            rows += [(image, index, obj.kind == "bbox_2d", k) for k in obj.bins]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return WrittenCoordinates(columns[0], columns[1], columns[2].astype(bool), columns[3])


Guess = Callable[[WrittenCoordinates, np.ndarray], np.ndarray]


def cross_fitted(
    guess: Guess, written: WrittenCoordinates, half: np.ndarray, judged: np.ndarray
) -> np.ndarray | None:
    """|guess - GT bin| of the judged coordinates, fitted on the other half of the images.

    Args:
        guess: `median_guess` or `regression_guess`.
        half: [C] bool, the half of each coordinate's image.
        judged: [C] bool.

    Returns:
        [C], bins; NaN where not judged. None if a half from which a guess is needed is empty.
    """
    errors = np.full(len(half), np.nan)
    for side in (True, False):
        fit, at = half == side, judged & (half != side)
        if at.any():
            if not fit.any():
                return None
            errors[at] = np.abs(guess(written, fit) - written.gt_bin)[at]
    return errors


def median_guess(written: WrittenCoordinates, fit: np.ndarray) -> np.ndarray:
    """The median GT bin of each coordinate's slot and place in the list, over `fit`  # [C]"""
    layout = layout_of(written)
    gt = written.gt_bin.astype(np.float64)
    guess = np.full(len(gt), np.median(gt[fit]))
    for slot in np.unique(layout.slot):
        of_slot = layout.slot == slot
        if (of_slot & fit).any():
            guess[of_slot] = np.median(gt[of_slot & fit])
        for place in np.unique(written.object_index[of_slot]):
            here = of_slot & (written.object_index == place)
            if len(np.unique(written.image[here & fit])) >= MIN_OBJECTS:
                guess[here] = np.median(gt[here & fit])
    return guess


def regression_guess(written: WrittenCoordinates, fit: np.ndarray) -> np.ndarray:
    """A median regression of each coordinate on those written before it, over `fit`  # [C]

    A separate one for each slot, with and without an object before. Guesses stay within the bins.
    """
    layout = layout_of(written)
    gt, guess = written.gt_bin.astype(np.float64), median_guess(written, fit)
    group = 2 * layout.slot + layout.has_previous
    for name in np.unique(group):
        here = group == name
        used = layout.features[here].any(0)  # the others are 0 for this slot
        if used.sum() == 1:  # nothing was written before: the median is the best constant
            continue
        if (here & fit).sum() >= ROWS_PER_FEATURE * used.sum():
            x = layout.features[:, used]
            weights = median_regression(x[here & fit], gt[here & fit])
            guess[here] = x[here] @ weights
    return guess.clip(0, LAST_BIN)


def median_regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The w that minimises sum |y - x w|, by iteratively reweighted least squares.

    Each iteration weighs a row by 1 / |its residual|: at the fixed point the weighted squares are
    the absolute values (Schlossmacher 1973).

    Args:
        x: [N, F]
        y: [N]

    Returns:
        [F]
    """
    # Columns of one size keep the normal equations well-conditioned; these are F x F, so that a
    # large validation set costs one matrix product an iteration.
    size = np.maximum(np.abs(x).max(0), 1.0)
    x = x / size
    row_weights = np.ones(len(y))
    for _ in range(ITERATIONS):
        weighted = x * row_weights[:, None]
        weights, *_ = np.linalg.lstsq(weighted.T @ x, weighted.T @ y, rcond=None)
        row_weights = 1 / np.maximum(np.abs(y - x @ weights), SMALLEST_RESIDUAL)
    return np.asarray(weights / size, dtype=np.float64)


@dataclass(frozen=True)
class Layout:
    """Where each coordinate stands, and what was written before it.

    slot: 0 … 3 for x1, y1, x2, y2; 4 and 5 for the first x and y of a polygon; 6 and 7 for the
        others.
    has_previous: whether an object of the same image was written before.
    features: 1, three coordinates of the same object, and the box of the object before; 0 where
        there is none.
    """

    slot: np.ndarray  # [C]
    has_previous: np.ndarray  # [C] bool
    features: np.ndarray  # [C, 8]


def layout_of(written: WrittenCoordinates) -> Layout:
    """The slot and features of each coordinate."""
    n, gt = len(written.gt_bin), written.gt_bin.astype(np.float64)
    at = np.arange(n)
    begins = np.ones(n, dtype=bool)  # the first coordinate of an object
    begins[1:] = (np.diff(written.image) != 0) | (np.diff(written.object_index) != 0)
    starts = np.flatnonzero(begins)  # [N]
    of_object = np.cumsum(begins) - 1  # [C]
    position = at - starts[of_object]  # [C] in the object
    boxes = boxes_around(gt, position % 2 == 0, starts)  # [N, 4]
    image_of_object = written.image[starts]  # [N]
    follows = np.zeros(len(starts), dtype=bool)
    follows[1:] = image_of_object[1:] == image_of_object[:-1]
    before = np.where(follows[:, None], np.roll(boxes, 1, axis=0), 0.0)  # [N, 4]

    slot = np.where(written.is_box, position, np.where(position < 2, 4, 6) + position % 2)
    # Of the same object: the coordinate before, the one before that (same axis), and for a box the
    # first one, for a polygon the first one on the same axis.
    first = starts[of_object] + np.where(written.is_box, 0, position % 2)
    own = np.stack(
        [
            np.where(position >= 1, gt[np.maximum(at - 1, 0)], 0.0),
            np.where(position >= 2, gt[np.maximum(at - 2, 0)], 0.0),
            np.where(position >= 3, gt[first], 0.0),
        ],
        axis=1,
    )
    features = np.column_stack([np.ones(n), own, before[of_object]])
    return Layout(slot, follows[of_object], features)


def boxes_around(gt: np.ndarray, is_x: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The box around each object  # [C], [C], [N] -> [N, 4]

    Args:
        gt: coordinates, object after object.
        is_x: whether each is an x.
        starts: the index of each object's first coordinate.
    """
    x_low, y_low = np.where(is_x, gt, np.inf), np.where(is_x, np.inf, gt)
    x_high, y_high = np.where(is_x, gt, -np.inf), np.where(is_x, -np.inf, gt)
    low = [np.minimum.reduceat(values, starts) for values in (x_low, y_low)]
    high = [np.maximum.reduceat(values, starts) for values in (x_high, y_high)]
    return np.stack(low + high, axis=1)
