"""One look for every figure: a style a variant, quiet axes, and SVG whose bytes depend on nothing but the numbers.

Text stays text in the SVG (searchable, and in the page's own font). All neutral strokes are INK on PAPER, so that
the page can replace both and follow a dark screen.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

INK = "#1b1f24"
PAPER = "#ffffff"
WIDTH_IN = 10.0  # 720 pt, shown about 1000 px wide: a 9 pt label is 12 px on the page

# Okabe & Ito (2008), without yellow, which is invisible on paper. Line styles and markers say the same in grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 1.5)),
    (0, (2, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 2)),
    (0, (1, 1)),
)

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout is the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "axes.unicode_minus": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), PAPER),
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, the same in every figure and beside its name on the page."""

    colour: str
    marker: str
    dashes: Any


def looks(variants: Iterable[str]) -> dict[str, Look]:
    """A look for each variant, in the order the study names them."""
    names = list(dict.fromkeys(variants))
    return {name: Look(_COLOURS[i % 7], _MARKERS[i % 7], _DASHES[i % 7]) for i, name in enumerate(names)}


def styled() -> Any:
    """The context in which figures are made and saved."""
    return mpl.rc_context(_RC)


def sheet(height_in: float, wspace: float = 0.02, hspace: float = 0.02) -> Figure:
    """An empty figure of the page's width; the spaces between panels are fractions of a panel."""
    return Figure(figsize=(WIDTH_IN, height_in), layout=ConstrainedLayoutEngine(wspace=wspace, hspace=hspace))


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG: no date, no program version, the same bytes for the same numbers, and ids of its own."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def grid(ax: Axes, axis: str = "y") -> None:
    ax.grid(axis=axis, color=INK, alpha=0.1, linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def steps_axis(ax: Axes, decision_step: int | None) -> None:
    """A step axis in whole steps, the decision step marked by a dotted line."""
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    if decision_step is not None:
        ax.axvline(decision_step, color=INK, alpha=0.55, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)


def log_axis_if_wide(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic y axis where the values span more than a factor of 3: collapse and plateau both stay visible."""
    positive = [v for v in values if math.isfinite(v)]
    if not positive or min(positive) <= 0 or max(positive) / min(positive) <= 3:
        return
    low, high = min(positive) / 1.1, max(positive) * 1.1
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high / low > 15 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def key(ax: Axes, entries: Sequence[tuple[str, dict[str, Any]]], notes: Sequence[str] = ()) -> None:
    """Use an empty panel as the legend: a sample of each line with its name, then notes on how to read the figure."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    spacing = min(0.13, 0.9 / max(1, len(entries) + len(notes)))
    for i, (name, line) in enumerate(entries):
        y = 0.93 - i * spacing
        ax.plot([0.02, 0.09, 0.16], [y] * 3, markevery=[1], **line)
        ax.text(0.2, y, name, va="center")
    for i, note in enumerate(notes, start=len(entries)):
        ax.text(0.02, 0.89 - i * spacing, note, va="center", alpha=0.75, fontsize=8.5)
