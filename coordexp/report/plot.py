"""Panels with axes, the curves in them, and the layout of panels and key on a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordexp.report import svg
from coordexp.report.scales import Scale, step_ticks, ticks
from coordexp.report.style import Look, glyph
from coordexp.report.svg import Data, Point, fitted, path, rule, text

WIDTH = 960.0  # px: a figure is as wide as the page's column, so it is not scaled on the page
COLUMNS = 3  # panels in a row
KEY_PITCH = 21.0  # px from one line of the key to the next
SMALL = 11.5  # px of the text at axes
TICK_WIDTH = 40  # px that the label of a tick on the x axis needs
DOTTED = "1.5 2.5"
MARGIN_OPACITY = 0.09
N_MARKERS = 10  # of a curve, about


@dataclass(frozen=True)
class Figure:
    """A figure of the report: figures/<name>.svg, and on the page with its title and caption.

    label: a description for screen readers; the title until another is given.
    cells: the parts that the page lays out itself, in rows, in place of the whole drawing.
    """

    name: str
    svg: str
    label: str
    caption: str
    title: str = ""
    cells: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True)
class Cell:
    """A drawing that is a part of a figure; `name` is unique within it, `label` describes it."""

    name: str
    svg: str
    label: str


class Box(NamedTuple):
    """A rectangle on a figure, in px."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Panel:
    """A rectangle with two scales."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> Point:
        """Where a pair of values stands, in px."""
        return self.x(x), self.y(y)

    def line(self, values: Mapping[int, float]) -> list[Point]:
        """Where the points of a curve stand, in px; `values` by step."""
        return [self.at(step, value) for step, value in values.items()]

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

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def figure(name: str, label: str, caption: str, height: float, parts: Iterable[str]) -> Figure:
    """A figure of the page's width; `label` is its description for screen readers."""
    return Figure(name, svg.document(WIDTH, height, label, parts), label, caption)


def small_multiples(
    n_panels: int, height: float = 168, key_rows: int = 0
) -> tuple[float, list[Box]]:
    """The height of a figure of equal panels in rows of three, and the panels' boxes.

    With `key_rows` the last box is not a panel but holds a key of so many lines.
    """
    cell, pitch = WIDTH / COLUMNS, height + 62
    boxes = []
    for i in range(n_panels):
        row, column = divmod(i, COLUMNS)
        top = 30 + row * pitch
        boxes.append(Box(column * cell + 46, (column + 1) * cell - 10, top, top + height))
    n_rows = math.ceil(n_panels / COLUMNS)
    bottom_of_panels = 30 + n_rows * pitch - 34
    bottom_of_key = boxes[-1].top + key_rows * KEY_PITCH
    return max(bottom_of_panels, bottom_of_key), boxes


def heading(panel: Panel, title: str, beside: str = "", outdent: float = 34) -> Iterator[str]:
    """A panel's title over its top left corner, and on the right how to read it."""
    left, baseline = panel.left - outdent, panel.top - 12
    yield fitted(left, baseline, title, panel.right - left, size=13, bold=True)
    if beside:
        yield text(panel.right, baseline, beside, "end", SMALL, opacity=0.7)


def grid_y(panel: Panel, values: Sequence[float] | None = None) -> Iterator[str]:
    """Horizontal grid lines with their values on the left; by default round ones."""
    if values is None:
        values = ticks(panel.y, 5)
    for value in values:
        y = panel.y(value)
        yield rule((panel.left, y), (panel.right, y), 0.1)
        yield text(panel.left - 6, y + 4, tick_label(value), "end", SMALL, data={"axis": "y"})


def grid_x(panel: Panel) -> Iterator[str]:
    """A few vertical grid lines with their values below, and the axis."""
    room = max(1, int(panel.width / TICK_WIDTH))
    for value in ticks(panel.x, min(4, room)):
        x = panel.x(value)
        yield rule((x, panel.top), (x, panel.bottom), 0.1)
        below = panel.bottom + 15
        yield text(x, below, tick_label(value), "middle", SMALL, data={"axis": "x"})
    yield rule((panel.left, panel.bottom), (panel.right, panel.bottom), 0.7)


def tick_label(value: float) -> str:
    """A tick's value: no trailing zeros, a true minus."""
    if abs(value) <= 1e-12:
        return "0"
    return f"{value:.6g}".replace("-", "−")


def steps_axis(
    panel: Panel, decision_step: int | None, window: Sequence[int] = ()
) -> Iterator[str]:
    """The step axis: the declared window as a bar on it, the decision step as a dotted line."""
    bottom = panel.bottom
    yield rule((panel.left, bottom), (panel.right, bottom), 0.7)
    for step in step_ticks(panel.x):
        x = panel.x(step)
        yield rule((x, bottom), (x, bottom + 4), 0.7)
        yield text(x, bottom + 17, f"{step}", "middle", SMALL, data={"axis": "x"})
    yield text(panel.left - 6, bottom + 17, "step", "end", SMALL, opacity=0.75)
    if len(window) > 1:
        first, last = min(window), max(window)
        start, end = panel.x(first), panel.x(last)
        title = f"declared window: steps {first} to {last}"
        data = {"mark": "window"}
        yield svg.box(start, bottom - 2, end - start, 4, opacity=0.45, title=title, data=data)
    if decision_step is not None:
        x = panel.x(decision_step)
        data = {"mark": "decision-step"}
        yield rule((x, panel.top), (x, bottom), 0.6, dashes=DOTTED, data=data)


def curve(panel: Panel, points: Mapping[int, float], look: Look, name: str) -> Iterator[str]:
    """A line with about ten markers, always one at its last point; a marker's tooltip is its value.

    `points` are values by step; `name` says in the tooltip whose they are.
    """
    if not points:
        return
    line = panel.line(points)
    yield path(line, look.colour, dashes=look.dashes, data={"mark": "curve", "of": name})
    every = max(1, math.ceil(len(line) / N_MARKERS))
    last = len(line) - 1
    for i, (step, value) in enumerate(points.items()):
        if (last - i) % every == 0:
            title = f"{name}, step {step}: {value:.4g}"
            data: Data = {"mark": "point", "of": name, "step": step}
            yield glyph(look, line[i], title=title, data=data)


def band(
    panel: Panel, intervals: Mapping[int, tuple[float, float]], look: Look, name: str
) -> Iterator[str]:
    """Intervals (low, high) by step as a tinted area; a single one as a bar."""
    lower, upper = [], []
    for step, (low, high) in intervals.items():
        lower.append(panel.at(step, low))
        upper.append(panel.at(step, high))
    data = {"mark": "interval", "of": name}
    if len(lower) == 1:
        yield path([*lower, *upper], look.colour, width=5, opacity=0.3, data=data)
    elif lower:
        yield svg.area([*upper, *reversed(lower)], look.colour, 0.16, data=data)


def margin_band_y(panel: Panel, margin: float | None) -> Iterator[str]:
    """A band on the y axis from -margin to margin (leads too small to matter), cut to the panel."""
    if not margin:
        return
    top, bottom = panel.y(min(margin, panel.y.high)), panel.y(max(-margin, panel.y.low))
    yield _margin_box(Box(panel.left, panel.right, top, bottom), margin)


def margin_band_x(panel: Panel, margin: float | None) -> Iterator[str]:
    """A band on the x axis from -margin to margin (leads too small to matter), cut to the panel."""
    if not margin:
        return
    left, right = panel.x(max(-margin, panel.x.low)), panel.x(min(margin, panel.x.high))
    yield _margin_box(Box(left, right, panel.top, panel.bottom), margin)


def _margin_box(box: Box, margin: float) -> str:
    return svg.box(
        box.left,
        box.top,
        box.right - box.left,
        box.bottom - box.top,
        opacity=MARGIN_OPACITY,
        title=f"margin: ±{margin:g}",
        data={"mark": "margin"},
    )


def key(
    left: float,
    top: float,
    width: float,
    entries: Mapping[str, Look],
    notes: Sequence[str],
    lines: bool = True,
) -> Iterator[str]:
    """Each marker (and its line) with its name, then notes on how to read the figure."""
    y = top
    for name, look in entries.items():
        if lines:
            yield path([(left, y), (left + 34, y)], look.colour, dashes=look.dashes)
        yield glyph(look, (left + 17, y))
        yield fitted(left + 44, y + 4, name, width - 44)
        y += KEY_PITCH
    for note in notes:
        yield text(left, y + 8, note, size=SMALL, opacity=0.8, data={"mark": "note"})
        y += KEY_PITCH
