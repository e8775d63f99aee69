"""Scales from values to px, their limits, and the round numbers that label an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps values to px: `low` to `start`, `high` to `end`, linearly or logarithmically.

    zeros: every value is 0, so the limits mean nothing: the only tick is 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zeros: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def padded_limits(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Limits around finite values, with `pad` of their range to each side.

    Around a single value the padding is a tenth of it, or 1 where it is 0.
    """
    low, high = min(values), max(values)
    room = pad * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def padded_scale(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> Scale:
    """An axis with room around its values; one of zeros alone has 0 in its middle."""
    return Scale(*padded_limits(values, pad), start, end, zeros=not any(values))


def y_scale(values: Sequence[float], top: float, bottom: float, from_zero: bool) -> Scale:
    """The y axis of a panel.

    It begins at 0 where `from_zero` is set. Else it is logarithmic where values span more than a
    factor of 3, so that the collapse at the start of a run and its plateau are both visible.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if from_zero:
        return Scale(0.0, 1.08 * high if high > 0 else 1.0, bottom, top, zeros=high <= 0)
    if low > 0 and high / low > 3:
        return Scale(low / 1.1, high * 1.1, bottom, top, log=True)
    return padded_scale(finite, bottom, top)


def lead_scale(values: Sequence[float], margin: float | None, start: float, end: float) -> Scale:
    """An axis of leads that shows 0 and the margin.

    A margin of more than 3 times the largest lead is cut: otherwise the leads would be too small to
    see.
    """
    margin = margin or 0.0
    largest = max((abs(value) for value in values), default=0.0) or margin
    shown_margin = min(margin, 3 * largest)
    return padded_scale([*values, 0.0, -shown_margin, shown_margin], start, end)


def step_scale(steps: Sequence[int], left: float, right: float) -> Scale:
    """Optimizer steps, with a little room on both sides."""
    low, high = min(steps), max(steps)
    room = 0.03 * (high - low) or 1.0
    return Scale(low - room, high + room, left, right)


def ticks(scale: Scale, n_most: int) -> list[float]:
    """At most about `n_most` round values inside a scale."""
    if scale.zeros:
        return [0.0]
    if scale.log:
        return log_ticks(scale.low, scale.high, n_most)
    step = round_up((scale.high - scale.low) / max(1, n_most))
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def round_up(distance: float) -> float:
    """The smallest number that is 1, 2 or 5 times a power of ten and at least `distance`."""
    power = 10.0 ** math.floor(math.log10(distance))
    # The tolerance of 1e-9 rounds a distance of 2 plus a rounding error to 2, not to 5.
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= distance * (1 - 1e-9))


def log_ticks(low: float, high: float, n_most: int) -> list[float]:
    """Round values on a logarithmic axis, by the finest pattern with at most `n_most` + 1 ticks."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        candidates = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [value for value in candidates if low <= value <= high]
        if len(inside) <= n_most + 1:
            return inside
    # The powers of ten are still too many: take every second, third, … of them.
    return inside[:: math.ceil(len(inside) / n_most)]


def step_ticks(scale: Scale, n_most: int = 5) -> list[int]:
    """Ticks at whole steps only; a short axis has one tick, at its middle."""
    if scale.high - scale.low <= 2:
        return [round((scale.low + scale.high) / 2)]
    whole = []
    for value in ticks(scale, n_most):
        if value >= 0 and abs(value - round(value)) < 1e-6:
            whole.append(round(value))
    return whole
