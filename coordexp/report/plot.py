"""Panels with axes: scales from values to px, the ticks a person would choose, and small multiples with a key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from coordexp.report.style import Look, glyph
from coordexp.report.svg import Point, area, box, fitted, path, picture, rule, text

WIDTH = 960.0  # the page's column: a px here is a px there
COLUMNS = 3
KEY_PITCH = 21.0
DOTTED = "1.5 2.5"


Box = tuple[float, float, float, float]  # left, right, top, bottom


@dataclass(frozen=True)
class Scale:
    """Where values lie: `low` at `start` px, `high` at `end` px."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Panel:
    """A box with two scales."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    @property
    def left(self) -> float:
        return self.x.start

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def top(self) -> float:
        return min(self.y.start, self.y.end)

    @property
    def bottom(self) -> float:
        return max(self.y.start, self.y.end)


def spanning(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Limits around finite values, with room; around a single one, a tenth of it to each side."""
    low, high = min(values), max(values)
    room = pad * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def y_scale(values: Sequence[float], top: float, bottom: float, from_zero: bool) -> Scale:
    """From zero for fractions; logarithmic where values span more than a factor of 3, so that collapse and plateau both show."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if from_zero:
        return Scale(0.0, 1.08 * high if high > 0 else 1.0, bottom, top)
    if low > 0 and high / low > 3:
        return Scale(low / 1.1, high * 1.1, bottom, top, log=True)
    return Scale(*spanning(finite), bottom, top)


def lead_scale(values: Sequence[float], margin: float | None, start: float, end: float) -> Scale:
    """Leads with 0 and the margin in sight; a margin far beyond every lead may leave the panel."""
    reach = max((abs(value) for value in values), default=0.0) or (margin or 1.0)
    sides = [side * min(margin or 0.0, 3 * reach) for side in (-1, 1)]
    return Scale(*spanning([*values, 0.0, *sides]), start, end)


def ticks(scale: Scale, n_most: int) -> list[float]:
    """At most about `n_most` round values inside a scale."""
    if scale.log:
        return log_ticks(scale.low, scale.high, n_most)
    step = nice_step((scale.high - scale.low) / max(1, n_most))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))


def log_ticks(low: float, high: float, n_most: int) -> list[float]:
    """Round values of a logarithmic axis: the finest of a few patterns that is not too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            digit * 10.0**decade
            for decade in decades
            for digit in digits
            if low <= digit * 10.0**decade <= high
        ]
        if len(found) <= n_most + 1:
            return found
    return found[:: -(-len(found) // n_most)]


def step_scale(steps: Sequence[int], left: float, right: float) -> Scale:
    """Optimizer steps, with a little room on both sides."""
    low, high = min(steps), max(steps)
    room = 0.03 * (high - low) or 1.0
    return Scale(low - room, high + room, left, right)


def step_ticks(scale: Scale, n_most: int = 5) -> list[int]:
    """Whole steps only; the one step of an axis that holds no other."""
    if scale.high - scale.low <= 2:
        return [round((scale.low + scale.high) / 2)]
    return [
        round(value)
        for value in ticks(scale, n_most)
        if value >= 0 and abs(value - round(value)) < 1e-6
    ]


def grid_y(panel: Panel, values: Sequence[float] | None = None) -> Iterator[str]:
    """Horizontal grid lines with their values on the left; round ones where none are given."""
    for value in ticks(panel.y, 5) if values is None else values:
        y = panel.y(value)
        yield rule((panel.left, y), (panel.right, y), 0.1)
        yield text(panel.left - 6, y + 4, short(value), "end", 11.5)


def grid_x(panel: Panel, values: Sequence[float]) -> Iterator[str]:
    """Vertical grid lines with their values below."""
    for value in values:
        x = panel.x(value)
        yield rule((x, panel.top), (x, panel.bottom), 0.1)
        yield text(x, panel.bottom + 15, short(value), "middle", 11.5)


def short(value: float) -> str:
    """A tick's value: no trailing zeros, a true minus."""
    return f"{value:.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def steps_axis(
    panel: Panel, decision_step: int | None, window: Sequence[int] = ()
) -> Iterator[str]:
    """The step axis: the declared window as a bar on it, the decision step as a dotted line."""
    yield rule((panel.left, panel.bottom), (panel.right, panel.bottom), 0.7)
    for value in step_ticks(panel.x):
        x = panel.x(value)
        yield rule((x, panel.bottom), (x, panel.bottom + 4), 0.7)
        yield text(x, panel.bottom + 17, f"{value}", "middle", 11.5)
    yield text(panel.left - 6, panel.bottom + 17, "step", "end", 11.5, opacity=0.75)
    if len(window) > 1:
        start, end = panel.x(min(window)), panel.x(max(window))
        yield box(
            start,
            panel.bottom - 2,
            end - start,
            4,
            opacity=0.45,
            title=f"declared window: steps {min(window)} to {max(window)}",
        )
    if decision_step is not None:
        x = panel.x(decision_step)
        yield rule((x, panel.top), (x, panel.bottom), 0.6, dashes=DOTTED)


def heading(panel: Panel, title: str, beside: str = "", outdent: float = 34) -> str:
    """A panel's title over its top left corner, and a word on how to read it."""
    words = fitted(
        panel.left - outdent,
        panel.top - 12,
        title,
        panel.right - panel.left + outdent,
        size=13,
        bold=True,
    )
    return words + (
        text(panel.right, panel.top - 12, beside, "end", 11.5, opacity=0.7) if beside else ""
    )


def curve(
    panel: Panel, points: Mapping[int, float], look: Look, name: str, form: str = ".4g"
) -> Iterator[str]:
    """A line with markers at some of its points, always at the last; each marker says its value."""
    if not points:
        return
    line = [panel.at(x, y) for x, y in points.items()]
    yield path(line, look.colour, dashes=look.dashes)
    every = max(1, math.ceil(len(line) / 10))
    for i, (x, y) in enumerate(points.items()):
        if (len(line) - 1 - i) % every == 0:
            yield glyph(look, line[i], title=f"{name}, step {x}: {y:{form}}")


def band(panel: Panel, intervals: Mapping[int, tuple[float, float]], look: Look) -> str:
    """Intervals (low, high) over the steps as a tinted area; a single one as a bar."""
    lower = [panel.at(step, low) for step, (low, _) in intervals.items()]
    upper = [panel.at(step, high) for step, (_, high) in intervals.items()]
    if len(lower) < 2:
        return path([*lower, *upper], look.colour, width=5, opacity=0.3) if lower else ""
    return area([*upper, *reversed(lower)], look.colour, 0.16)


def small_multiples(
    n_panels: int, height: float = 168, key_rows: int = 0
) -> tuple[float, list[Box]]:
    """Boxes in rows of three, and the height of it all; the last of them may be a key of so many rows."""
    cell = WIDTH / COLUMNS
    boxes: list[Box] = []
    for i in range(n_panels):
        row, column = divmod(i, COLUMNS)
        top = 30 + row * (height + 62)
        boxes.append((column * cell + 46, (column + 1) * cell - 10, top, top + height))
    n_rows = -(-n_panels // COLUMNS)
    return max(30 + n_rows * (height + 62) - 34, boxes[-1][2] + key_rows * KEY_PITCH), boxes


def key(
    left: float,
    top: float,
    width: float,
    entries: Mapping[str, Look],
    notes: Sequence[str],
    lines: bool = True,
) -> Iterator[str]:
    """A sample of each line with its name, then notes on how to read the figure."""
    for i, (name, look) in enumerate(entries.items()):
        y = top + i * KEY_PITCH
        if lines:
            yield path([(left, y), (left + 34, y)], look.colour, dashes=look.dashes)
        yield glyph(look, (left + 17, y))
        yield fitted(left + 44, y + 4, name, width - 44)
    for i, note in enumerate(notes):
        yield text(left, top + (len(entries) + i) * KEY_PITCH + 8, note, size=11.5, opacity=0.8)


def sheet(height: float, label: str, parts: Iterable[str]) -> str:
    """A figure of the page's width, as a file; `label` says what it shows to those who do not see it."""
    return picture(WIDTH, height, label, parts)
