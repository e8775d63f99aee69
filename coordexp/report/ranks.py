"""Who is best at each evaluation: a strip a metric, a cell a common step. The order of variants, without their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordexp.metrics import METRICS
from coordexp.report import plot
from coordexp.report.style import Look, glyph
from coordexp.report.svg import INK, PAPER, element, hint, rule, text

LEFT, RIGHT = 92.0, 660.0  # of the cells
ROW, CELL = 30.0, 20.0  # heights
ROOM_FOR_A_MARKER = 11.0
SETTLED_AT, SHARE_AT, BLOCKS_AT = 680.0, 790.0, 855.0


def ranks(comparison: dict[str, Any], look: dict[str, Look]) -> str | None:
    """For each metric its winner at every common step, from when the last one holds for good, and whether the
    winner of the window outlives the loss of any block of its steps. A tie is an empty cell."""
    stability = {
        name: found for name, found in comparison["stability"].items() if len(found["winners"]) > 1
    }
    if not stability:
        return None
    steps = [cell["step"] for cell in next(iter(stability.values()))["winners"]]
    width = (RIGHT - LEFT) / len(steps)
    bottom = 58 + ROW * len(stability)
    shown = [v for v in look if any(v in leaders(found) for found in stability.values())]

    def draw() -> Iterator[str]:
        for x, words in ((LEFT, "best at each evaluation"), (SETTLED_AT, "the same from"), (SHARE_AT, "window"),
                         (BLOCKS_AT, "a block left out")):  # fmt: skip
            yield text(x, 18, words, bold=True, size=12)
        yield from window_bracket(comparison["window"]["steps"], steps, width)
        for i, (name, found) in enumerate(stability.items()):
            y = 48 + i * ROW
            yield text(LEFT - 10, y + CELL / 2 + 4, METRICS[name].label, "end")
            for j, cell in enumerate(found["winners"]):
                yield from winner_cell(cell, LEFT + j * width, y, width, look)
            yield from summary(found, y + CELL / 2, look)
        yield from step_labels(steps, width, bottom, comparison["decision_step"])
        yield from winners_key(shown, bottom + 40, look)

    return plot.sheet(bottom + 50, "The best variant at each evaluation", draw())


def leaders(found: dict[str, Any]) -> set[str | None]:
    return {cell["winner"] for cell in found["winners"]} | {
        found["last_winner"],
        *found["leave_one_block_out"],
    }


def winner_cell(
    cell: dict[str, Any], x: float, y: float, width: float, look: dict[str, Look]
) -> Iterator[str]:
    """A cell in the winner's colour with its marker, where there is room; hollow where several are exactly equal."""
    winner, gap = cell["winner"], min(1.5, width / 6)
    words = hint(f"step {cell['step']}: {winner or 'a tie'}")
    if winner is None:
        yield element("rect", words, x=x + gap, y=y + 0.5, width=width - 2 * gap, height=CELL - 1, fill=PAPER, stroke_opacity=0.5,
                      stroke=INK, stroke_dasharray="2 2")  # fmt: skip
        return
    yield element(
        "rect",
        words,
        x=x + gap / 2,
        y=y,
        width=width - gap,
        height=CELL,
        fill=look[winner].colour,
        fill_opacity=0.3,
    )
    if width >= ROOM_FOR_A_MARKER:
        yield glyph(
            look[winner], (x + width / 2, y + CELL / 2), 3.6, title=f"step {cell['step']}: {winner}"
        )


def summary(found: dict[str, Any], y: float, look: dict[str, Look]) -> Iterator[str]:
    """What the strip amounts to: since when, how often within the window, and the winner without each block of it."""
    last, settled = found["last_winner"], found["settled_from"]
    yield text(SETTLED_AT, y + 4, "not settled" if settled is None else f"step {settled}")
    if last:
        yield glyph(look[last], (SHARE_AT + 4, y), 4)
        yield text(SHARE_AT + 14, y + 4, f"{100 * found['share']:.0f} %")
    else:
        yield text(SHARE_AT, y + 4, "tied")
    for i, winner in enumerate(found["leave_one_block_out"]):
        x = BLOCKS_AT + 6 + i * 15
        yield (
            glyph(look[winner], (x, y), 4, title=f"without block {i + 1}: {winner}")
            if winner
            else text(x, y + 4, "=", "middle")
        )


def window_bracket(window: list[int], steps: list[int], width: float) -> Iterator[str]:
    """A bracket over the declared window's cells."""
    inside = [i for i, step in enumerate(steps) if step in window]
    if not inside:
        return
    left, right = LEFT + inside[0] * width + 1, LEFT + (inside[-1] + 1) * width - 1
    yield rule((left, 40), (right, 40), 0.7)
    for x in (left, right):
        yield rule((x, 40), (x, 44), 0.7)
    yield text((left + right) / 2, 35, "declared window", "middle", 11.5, opacity=0.75)


def step_labels(
    steps: list[int], width: float, y: float, decision_step: int | None
) -> Iterator[str]:
    """Every so many steps, and the decision step in bold."""
    every = max(1, -(-46 // int(max(1, width))))
    last = len(steps) - 1
    for i, step in enumerate(steps):
        if step == decision_step:
            yield text(
                LEFT + (i + 0.5) * width,
                y + 8,
                f"{step}",
                "middle",
                11.5,
                bold=True,
                title="decision step",
            )
        elif (last - i) % every == 0 and (
            decision_step not in steps or abs(i - steps.index(decision_step or 0)) >= every
        ):
            yield text(LEFT + (i + 0.5) * width, y + 8, f"{step}", "middle", 11.5)
    yield text(LEFT - 10, y + 8, "step", "end", 11.5, opacity=0.75)


def winners_key(variants: list[str], y: float, look: dict[str, Look]) -> Iterator[str]:
    """The markers of whoever wins anywhere."""
    x = LEFT
    for variant in variants:
        yield glyph(look[variant], (x + 4, y), 4)
        yield text(x + 14, y + 4, variant)
        x += 34 + 7 * len(variant)
    yield text(x, y + 4, "dashed: a tie", opacity=0.75, size=11.5)
