"""Boxes of other tools as x1, y1, x2, y2, and what makes one unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from coordexp.coords import COORD_TOKEN
from coordexp.detection.matching import Box
from coordexp.errors import UserError

# Larger than any picture: products of such sides still have no rounding error that matters.
LARGEST = 1e9
IN_TRUTH = "in the ground truth"  # after the reason of a true object that cannot be taken
MOST_TRUTH = 0.5  # of the true objects that may be missing: with more, the file is of another form

Quad = tuple[float, float, float, float]  # as the file has it


class MalformedError(Exception):
    """An object cannot be taken; the message is the reason, by which such objects are counted."""


def numbers_of(values: Any) -> list[float]:
    """The numbers of a JSON list.

    Raises:
        MalformedError: it is no list of numbers, or one is not finite.
    """
    if not isinstance(values, list) or not values:
        raise MalformedError("no coordinates")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise MalformedError("coordinates that are no numbers")
    if not all(map(is_finite, values)):
        raise MalformedError("coordinates that are not finite")
    return [float(value) for value in values]


def quad_of(values: Any) -> Quad:
    """Four numbers, whatever they mean.

    Raises:
        MalformedError: there are not four finite numbers.
    """
    numbers = numbers_of(values)
    if len(numbers) != 4:
        raise MalformedError("not four coordinates")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def corners(quad: Quad) -> Box:
    """x1, y1, x2, y2 as they are.

    Raises:
        MalformedError: the second corner lies before the first.
    """
    if quad[2] < quad[0] or quad[3] < quad[1]:
        raise MalformedError("inverted boxes")
    return quad


def of_size(quad: Quad) -> Box:
    """x, y, width, height as x1, y1, x2, y2.

    Raises:
        MalformedError: a side is negative.
    """
    x, y, width, height = quad
    if width < 0 or height < 0:
        raise MalformedError("boxes with a negative side")
    return x, y, x + width, y + height


def around(points: Sequence[float]) -> Quad:
    """The bounding box of x, y, x, y, …

    Raises:
        MalformedError: there are not three points or more.
    """
    if len(points) < 6 or len(points) % 2:
        raise MalformedError("polygons without three points")
    xs, ys = points[0::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def bins_of_tokens(values: Any) -> list[float] | None:
    """The bins of a list that holds coordinate tokens; None where it holds none.

    Raises:
        MalformedError: some values are tokens and others are not.
    """
    if not isinstance(values, list) or not any(isinstance(value, str) for value in values):
        return None
    matches = [COORD_TOKEN.fullmatch(value) if isinstance(value, str) else None for value in values]
    if not all(matches):
        raise MalformedError("coordinates that are no numbers")
    return [float(match[1]) for match in matches if match]


def is_finite(value: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a number, and one that is not out of any range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= LARGEST  # False for NaN


def refuse_untaken(path: Path, taken: tuple[int, int], dropped: Counter[str]) -> None:
    """Refuse a file of which nothing predicted, or too little of the truth, could be taken.

    Scores of what is left would be figures of the reader, not of the checkpoint.

    Args:
        taken: how many true and how many predicted objects could be taken.
        dropped: those that could not, by reason.

    Raises:
        UserError: naming the reasons.
    """
    lost = {True: Counter[str](), False: Counter[str]()}
    for reason, n in dropped.items():
        lost[IN_TRUTH in reason][reason.removesuffix(f" {IN_TRUTH}")] += n
    for kind, n_taken, most in (("true", taken[0], MOST_TRUTH), ("predicted", taken[1], None)):
        reasons = lost[kind == "true"]
        n_lost = reasons.total()
        if (n_lost and not n_taken) or (most is not None and n_lost > most * (n_lost + n_taken)):
            shown = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
            raise UserError(
                f"{path}: {n_lost} of its {n_lost + n_taken} {kind} objects could not be taken "
                f"({shown}): they are of another form"
            )
