"""The figure of the best variant at each evaluation: a row per metric, a cell per common step.

It shows the order of the variants, not the size of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from coordexp.analysis.comparison.findings import Comparison, Stability, StepWinner
from coordexp.metrics import METRICS
from coordexp.report import plot
from coordexp.report.plot import SMALL, Figure
from coordexp.report.style import Look, glyph, looks_of
from coordexp.report.svg import INK, PAPER, Data, box, element, group, rule, text, tooltip

CELLS_LEFT, CELLS_RIGHT = 92.0, 660.0  # px
FIRST_ROW, ROW, CELL = 48.0, 30.0, 20.0  # px: top of the first row, pitch of rows, height of a cell
MARKER_WIDTH = 11.0  # px that a cell needs for its marker
LABEL_WIDTH = 46  # px that a step's label needs
SETTLED_X, SHARE_X, BLOCKS_X = 680.0, 790.0, 855.0  # px: columns right of the cells
BLOCK_PITCH = 15.0  # px
HEADINGS = (
    (CELLS_LEFT, "best at each evaluation"),
    (SETTLED_X, "the same from"),
    (SHARE_X, "window"),
    (BLOCKS_X, "a block left out"),
)
CAPTION = (
    "At each evaluation that all runs share. Right: since when the last one is best; at how many "
    "steps of the window; who is best on its mean without one block of steps."
)


def ranks(comparison: Comparison, looks: Mapping[str, Look]) -> Figure | None:
    """For each metric, the best variant at every common step, and how stable that choice is.

    A tie is an empty cell. None where no two steps can be compared.
    """
    by_metric = {}
    for name, stability in comparison.stability.items():
        if len(stability.winners) > 1:
            by_metric[name] = stability
    if not by_metric:
        return None
    steps = [cell.step for cell in next(iter(by_metric.values())).winners]
    width = (CELLS_RIGHT - CELLS_LEFT) / len(steps)
    bottom = FIRST_ROW + 10 + ROW * len(by_metric)

    parts = [text(x, 18, words, bold=True) for x, words in HEADINGS]
    parts += window_bracket(comparison.window.steps, steps, width)
    for i, (name, stability) in enumerate(by_metric.items()):
        row = metric_row(METRICS[name].label, stability, FIRST_ROW + i * ROW, width, looks)
        parts.append(group({"panel": name}, row))
    parts += step_labels(steps, width, bottom + 8, comparison.decision_step)
    parts += winners_key(looks_of(winners_of(by_metric.values()), looks), bottom + 40)
    label = "The best variant at each evaluation"
    return plot.figure("ranks", label, CAPTION, bottom + 50, parts)


def winners_of(rows: Iterable[Stability]) -> set[str | None]:
    """The variants that are best anywhere in the figure; None where there is a tie."""
    winners: set[str | None] = set()
    for row in rows:
        winners |= {row.last_winner, *row.leave_one_block_out}
        winners |= {cell.winner for cell in row.winners}
    return winners


def metric_row(
    label: str, stability: Stability, top: float, width: float, looks: Mapping[str, Look]
) -> Iterator[str]:
    """The cells of one metric, `width` px each, and a summary to their right."""
    middle = top + CELL / 2
    yield text(CELLS_LEFT - 10, middle + 4, label, "end")
    for i, cell in enumerate(stability.winners):
        yield from winner_cell(cell, CELLS_LEFT + i * width, top, width, looks)
    yield from summary(stability, middle, looks)


def winner_cell(
    cell: StepWinner, x: float, y: float, width: float, looks: Mapping[str, Look]
) -> Iterator[str]:
    """A cell in the colour and, where there is room, with the marker of the best variant.

    It is empty and dashed where several variants are exactly equal.
    """
    gap = min(1.5, width / 6)
    title = f"step {cell.step}: {cell.winner or 'a tie'}"
    data: Data = {"mark": "cell", "step": cell.step, "winner": cell.winner or ""}
    if cell.winner is None:
        yield element(
            "rect",
            tooltip(title),
            data,
            x=x + gap,
            y=y + 0.5,
            width=width - 2 * gap,
            height=CELL - 1,
            fill=PAPER,
            stroke_opacity=0.5,
            stroke=INK,
            stroke_dasharray="2 2",
        )
        return
    look = looks[cell.winner]
    yield box(x + gap / 2, y, width - gap, CELL, look.colour, 0.3, title, data)
    if width >= MARKER_WIDTH:
        data = {"mark": "winner", "step": cell.step, "winner": cell.winner}
        yield glyph(look, (x + width / 2, y + CELL / 2), title=title, data=data)


def summary(stability: Stability, y: float, looks: Mapping[str, Look]) -> Iterator[str]:
    """Three columns on the last best variant, right of the cells.

    The step from which it stays best, the share of the window's steps at which it is best, and the
    best variant without each block of the window.
    """
    settled = "not settled"
    if stability.settled_from is not None:
        settled = f"step {stability.settled_from}"
    yield text(SETTLED_X, y + 4, settled, data={"mark": "settled"})
    last = stability.last_winner
    if last:
        yield glyph(looks[last], (SHARE_X + 4, y), 4, data={"mark": "last-winner", "winner": last})
        share = f"{100 * stability.share:.0f} %"
        yield text(SHARE_X + 14, y + 4, share, data={"mark": "share"})
    else:
        yield text(SHARE_X, y + 4, "tied", data={"mark": "share"})
    for i, winner in enumerate(stability.leave_one_block_out):
        x = BLOCKS_X + 6 + i * BLOCK_PITCH
        data = {"mark": "without-block", "winner": winner or ""}
        if winner:
            title = f"without block {i + 1}: {winner}"
            yield glyph(looks[winner], (x, y), 4, title=title, data=data)
        else:
            yield text(x, y + 4, "=", "middle", data=data)


def window_bracket(window: Sequence[int], steps: Sequence[int], width: float) -> Iterator[str]:
    """A bracket over the cells of the declared window."""
    inside = [i for i, step in enumerate(steps) if step in window]
    if not inside:
        return
    left = CELLS_LEFT + inside[0] * width + 1
    right = CELLS_LEFT + (inside[-1] + 1) * width - 1
    yield rule((left, 40), (right, 40), 0.7, data={"mark": "window"})
    for x in (left, right):
        yield rule((x, 40), (x, 44), 0.7)
    yield text((left + right) / 2, 35, "declared window", "middle", SMALL, opacity=0.75)


def step_labels(
    steps: Sequence[int], width: float, y: float, decision_step: int | None
) -> Iterator[str]:
    """As many steps as there is room for, and the decision step in bold."""
    every = max(1, math.ceil(LABEL_WIDTH / int(max(1, width))))
    last = len(steps) - 1
    decided = None
    if decision_step in steps:
        decided = steps.index(decision_step)
    for i, step in enumerate(steps):
        x = CELLS_LEFT + (i + 0.5) * width
        data: Data = {"axis": "x", "step": step}
        crowded = decided is not None and abs(i - decided) < every
        if i == decided:
            title = "decision step"
            yield text(x, y, f"{step}", "middle", SMALL, bold=True, title=title, data=data)
        elif (last - i) % every == 0 and not crowded:
            yield text(x, y, f"{step}", "middle", SMALL, data=data)
    yield text(CELLS_LEFT - 10, y, "step", "end", SMALL, opacity=0.75)


def winners_key(looks: Mapping[str, Look], y: float) -> Iterator[str]:
    """The markers of the variants that are best anywhere."""
    x = CELLS_LEFT
    for variant, look in looks.items():
        yield glyph(look, (x + 4, y), 4)
        yield text(x + 14, y + 4, variant)
        x += 34 + 7 * len(variant)
    yield text(x, y + 4, "dashed: a tie", opacity=0.75, size=SMALL)
