"""Figures of the raw logs: train over eval, and the losses, which are not comparable across variants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from coordexp.analysis.audit.ratios import CONSISTENT, FAMILIES
from coordexp.report import plot
from coordexp.report.plot import Panel, Scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import INK, box, fitted, path, rule, text, text_width
from coordexp.storage.logs import Row
from coordexp.study.inputs import RunData, by_variant

EXPECTED = (
    0.95,
    1.05,
)  # where sound logs lie: a train row is a window of steps, an eval row the whole set
ROW = 96.0  # px


def ratios(entries: Sequence[dict[str, Any]], look: dict[str, Look]) -> str | None:
    """Train over eval loss at each eval step: a row a variant with its verdicts, a column a loss family."""
    main = [
        entry["families"][family]
        for entry in entries
        for family in FAMILIES
        if family in entry["families"]
    ]
    pairs = [pair for found in main for pair in found["pairs"]]
    if not pairs:
        return None
    variants = list(dict.fromkeys(entry["variant"] for entry in entries))
    counted = [
        pair["ratio"]
        for found in main
        for pair in found["pairs"]
        if pair["step"] >= found["from_step"]
    ]
    y_limits, x_limits = ratio_limits(counted), [pair["step"] for pair in pairs]
    label = min(
        190.0,
        24
        + max(
            text_width(words)
            for entry in entries
            for words in (entry["variant"], entry["verdict"] + " × 9")
        ),
    )
    column = (plot.WIDTH - label) / len(FAMILIES)
    height = 34 + ROW * len(variants) + 26

    def draw() -> Iterator[str]:
        for i, variant in enumerate(variants):
            mine = [entry for entry in entries if entry["variant"] == variant]
            top = 34 + i * ROW
            yield from row_label(
                variant, [entry["verdict"] for entry in mine], label, top + ROW / 2 - 10
            )
            for j, family in enumerate(FAMILIES):
                left = label + j * column + 34
                low, high, log = y_limits
                y = Scale(low, high, top + ROW - 16, top, log)
                panel = Panel(plot.step_scale(x_limits, left, left + column - 46), y)
                if i == 0:
                    yield fitted(left, 16, family, column - 46, size=13, bold=True)
                yield from ratio_panel(panel, family, mine, look[variant])
                if i == len(variants) - 1:
                    yield from plot.steps_axis(panel, None)

    return plot.sheet(height, "Train over eval loss at each evaluation", draw())


def row_label(variant: str, verdicts: Sequence[str], width: float, y: float) -> Iterator[str]:
    """The variant, and under it what the audit says of its runs."""
    yield fitted(0, y, variant, width - 12, bold=True)
    for i, verdict in enumerate(dict.fromkeys(verdicts)):
        n = verdicts.count(verdict)
        yield fitted(0, y + 17 * (i + 1), verdict + (f" × {n}" if n > 1 else ""), width - 12)


def ratio_panel(
    panel: Panel, family: str, entries: Sequence[dict[str, Any]], look: Look
) -> Iterator[str]:
    """The ratios of one family, a line a seed. Steps before the collapse ends are faint: they do not count."""
    for low, high in (CONSISTENT, EXPECTED):
        top, bottom = panel.y(min(high, panel.y.high)), panel.y(max(low, panel.y.low))
        yield box(panel.left, top, panel.right - panel.left, bottom - top, opacity=0.07)
    yield from plot.grid_y(panel, plot.ticks(panel.y, 5) if panel.y.log else (0.9, 1, 1.1))
    yield rule(panel.at(panel.x.low, 1), panel.at(panel.x.high, 1), 0.6)
    found = [entry["families"][family] for entry in entries if family in entry["families"]]
    if not found:
        yield text(
            (panel.left + panel.right) / 2, panel.y(1) - 8, "not applicable", "middle", opacity=0.75
        )
    for values in found:
        for counts, opacity in ((False, 0.35), (True, 1.0 if len(found) == 1 else 0.75)):
            points = [
                pair for pair in values["pairs"] if (pair["step"] >= values["from_step"]) is counts
            ]
            line = [
                panel.at(pair["step"], min(max(pair["ratio"], panel.y.low), panel.y.high))
                for pair in points
            ]
            yield path(line, look.colour, 1.2, opacity=opacity)
            for pair, at in zip(points, line, strict=True) if counts else ():
                yield glyph(look, at, 2.6, title=f"step {pair['step']}: {pair['ratio']:.3f}")


def ratio_limits(every: Sequence[float]) -> tuple[float, float, bool]:
    """Wide enough to judge ±10 %; logarithmic where a ratio is off by a factor, as a scaling fault is."""
    finite = [ratio for ratio in every if math.isfinite(ratio) and ratio > 0]
    low, high = min(0.85, *finite), max(1.15, *finite)
    if low < 0.5 or high > 2:
        return low / 1.2, high * 1.2, True
    return low - 0.02, high + 0.02, False


def losses(runs: Sequence[RunData], step: int | None, look: dict[str, Look]) -> str | None:
    """Train and eval loss of each variant on its own axes: their scales have nothing to do with each other."""
    groups = {variant: mine for variant, mine in by_variant(runs).items() if any(loss_values(mine))}
    if not groups:
        return None
    height, boxes = plot.small_multiples(len(groups), 150)

    def draw() -> Iterator[str]:
        for (variant, mine), (left, right, top, bottom) in zip(groups.items(), boxes, strict=False):
            values = [
                value
                for run in mine
                for value in (*points(run.log.train).values(), *points(run.log.evals).values())
            ]
            steps = [s for run in mine for s in (*run.log.train, *run.log.evals)]
            panel = Panel(
                plot.step_scale(steps, left, right),
                plot.y_scale(values, top, bottom, from_zero=False),
            )
            yield plot.heading(panel, f"{variant}, nats")
            yield from plot.grid_y(panel)
            yield from plot.steps_axis(panel, step)
            for run in mine:
                yield from loss_lines(panel, run, look[variant])

    return plot.sheet(height, "Train and eval loss of each variant", draw())


def loss_values(runs: Sequence[RunData]) -> Iterator[bool]:
    return (bool(points(run.log.train) or points(run.log.evals)) for run in runs)


def loss_lines(panel: Panel, run: RunData, look: Look) -> Iterator[str]:
    """Train as a line, eval as points; a run that diverged ends with a cross at its last finite loss."""
    train, evals = points(run.log.train), points(run.log.evals)
    yield path([panel.at(*point) for point in train.items()], look.colour, 1.2, opacity=0.8)
    for step, loss in evals.items():
        yield glyph(
            look, panel.at(step, loss), 2.8, title=f"{run.name}, step {step}: eval loss {loss:.4g}"
        )
    if run.diverged and train:
        x, y = panel.at(*list(train.items())[-1])
        for tilt in (-5, 5):
            yield path([(x - 5, y - tilt), (x + 5, y + tilt)], INK, 2)
        yield text(x - 8, y - 8, f"s{run.seed} diverged", "end", 11.5)


def points(rows: dict[int, Row]) -> dict[int, float]:
    """Finite losses by step, in order."""
    return {
        step: row["loss"]
        for step, row in sorted(rows.items())
        if math.isfinite(row.get("loss", math.nan))
    }
