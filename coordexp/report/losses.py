"""The figure of the losses: train and eval loss of each variant, not comparable across variants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from coordexp.report import plot
from coordexp.report.plot import SMALL, Box, Figure, Panel
from coordexp.report.scales import step_scale, y_scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import INK, Data, group, path, text
from coordexp.storage.logs.number_rows import Row
from coordexp.study.inputs import RunData, by_variant

HEIGHT = 150  # px, of a panel
MOST_POINTS = 4000  # of a line: a panel is some hundred pixels wide
CROSS = 5  # px, half of its width
CAPTION = (
    "Train loss (line: mean since the row before) and eval loss (points). Each objective sums "
    "other terms, so no variant can be ranked by them."
)


def losses(
    runs: Sequence[RunData], decision_step: int | None, looks: Mapping[str, Look]
) -> Figure | None:
    """A panel with its own axes for each variant; None where no log has a finite loss."""
    groups = {}
    for variant, mine in by_variant(runs).items():
        if any(finite_losses(run.log.train) or finite_losses(run.log.evals) for run in mine):
            groups[variant] = mine
    if not groups:
        return None
    height, boxes = plot.small_multiples(len(groups), HEIGHT)
    parts = []
    for (variant, mine), box in zip(groups.items(), boxes, strict=True):
        drawn = loss_panel(variant, mine, box, decision_step, looks[variant])
        parts.append(group({"panel": variant}, drawn))
    label = "Train and eval loss of each variant"
    return plot.figure("losses", label, CAPTION, height, parts)


def loss_panel(
    variant: str, runs: Sequence[RunData], box: Box, decision_step: int | None, look: Look
) -> Iterator[str]:
    """The losses of one variant's runs."""
    steps: list[int] = []
    values: list[float] = []
    for run in runs:
        for rows in (run.log.train, run.log.evals):
            steps += rows
            values += finite_losses(rows).values()
    y = y_scale(values, box.top, box.bottom, from_zero=False)
    panel = Panel(step_scale(steps, box.left, box.right), y)
    yield from plot.heading(panel, f"{variant}, nats")
    yield from plot.grid_y(panel)
    yield from plot.steps_axis(panel, decision_step)
    for run in runs:
        yield from loss_lines(panel, run, look)


def loss_lines(panel: Panel, run: RunData, look: Look) -> Iterator[str]:
    """Train loss as a line, eval loss as points; a run that diverged ends with a cross."""
    line = panel.line(finite_losses(run.log.train))
    yield path(line, look.colour, 1.2, opacity=0.8, data={"mark": "train", "of": run.name})
    for step, loss in finite_losses(run.log.evals).items():
        title = f"{run.name}, step {step}: eval loss {loss:.4g}"
        data: Data = {"mark": "eval", "of": run.name, "step": step}
        yield glyph(look, panel.at(step, loss), 2.8, title=title, data=data)
    if run.diverged and line:
        x, y = line[-1]
        for tilt in (-CROSS, CROSS):
            stroke = [(x - CROSS, y - tilt), (x + CROSS, y + tilt)]
            yield path(stroke, INK, 2, data={"mark": "diverged", "of": run.name})
        yield text(x - 8, y - 8, f"s{run.seed} diverged", "end", SMALL)


def finite_losses(rows: Mapping[int, Row]) -> dict[int, float]:
    """Losses by step, in order; of many the lowest and highest of each stretch, and the last."""
    losses = {}
    for step in sorted(rows):
        loss = rows[step].get("loss", math.nan)
        if math.isfinite(loss):
            losses[step] = loss
    if len(losses) <= MOST_POINTS:
        return losses
    steps = list(losses)
    drawn = {steps[-1]}
    for stretch in batched(steps, math.ceil(2 * len(steps) / MOST_POINTS)):
        drawn |= {min(stretch, key=losses.__getitem__), max(stretch, key=losses.__getitem__)}
    return {step: losses[step] for step in sorted(drawn)}


def batched(steps: Sequence[int], n: int) -> Iterator[Sequence[int]]:
    """Parts of n steps; the last one may have fewer."""
    for start in range(0, len(steps), n):
        yield steps[start : start + n]
