"""Figures of the raw logs: train over eval, and the losses, which are not comparable across variants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from coordexp.analysis.audit import CONSISTENT, FAMILIES
from coordexp.analysis.inputs import RunData, by_variant
from coordexp.logs import Row
from coordexp.report.style import INK, Look, grid, log_axis_if_wide, sheet, steps_axis

EXPECTED = (0.95, 1.05)  # where sound logs lie: a train row is a window of steps, an eval row the whole set


def ratios(entries: Sequence[dict[str, Any]], step: int | None, look: dict[str, Look]) -> Figure | None:
    """Train over eval loss at each eval step: a row a variant with its verdicts, a column a loss family."""
    every = [pair["ratio"] for entry in entries for family in entry["families"].values() for pair in family["pairs"]]
    if not every:
        return None
    variants = list(dict.fromkeys(entry["variant"] for entry in entries))
    figure = sheet(0.6 + 1.25 * len(variants))
    panels = figure.subplots(len(variants), len(FAMILIES), sharex=True, sharey=True, squeeze=False)
    for row, variant in zip(panels, variants, strict=True):
        mine = [entry for entry in entries if entry["variant"] == variant]
        for ax, family in zip(row, FAMILIES, strict=True):
            ratio_panel(ax, family, mine, look[variant])
        verdicts = dict.fromkeys(entry["verdict"] for entry in mine)
        row[0].set_ylabel(f"{variant}\n{', '.join(verdicts)}", rotation=0, ha="right", va="center")
    ratio_axis(panels[0, 0], every)
    for ax, family in zip(panels[0], FAMILIES, strict=True):
        ax.set_title(f"train / eval {family}")
    for ax in panels[-1]:
        ax.set_xlabel("step")
        steps_axis(ax, None)
    if step is not None:
        for ax in panels.flat:
            steps_axis(ax, step)
    return figure


def ratio_panel(ax: Axes, family: str, entries: Sequence[dict[str, Any]], look: Look) -> None:
    """The ratios of one family, a line a seed; steps before the collapse ends are faint, they do not count."""
    ax.axhspan(*CONSISTENT, color=INK, alpha=0.06, linewidth=0)
    ax.axhspan(*EXPECTED, color=INK, alpha=0.08, linewidth=0)
    ax.axhline(1, color=INK, alpha=0.6, linewidth=0.7)
    found = [entry["families"][family] for entry in entries if family in entry["families"]]
    if not found:
        ax.text(0.5, 0.62, "not applicable", transform=ax.transAxes, ha="center", alpha=0.7)
    for values in found:
        for counts, alpha in ((False, 0.35), (True, 1.0 if len(found) == 1 else 0.7)):
            pairs = [pair for pair in values["pairs"] if (pair["step"] >= values["from_step"]) is counts]
            xs, ys = [pair["step"] for pair in pairs], [pair["ratio"] for pair in pairs]
            ax.plot(xs, ys, color=look.colour, marker=look.marker, markersize=3, linewidth=1, alpha=alpha)


def ratio_axis(ax: Axes, every: Sequence[float]) -> None:
    """Wide enough to judge ±10 %; logarithmic where a ratio is off by a factor, as a scaling fault is."""
    finite = [ratio for ratio in every if math.isfinite(ratio) and ratio > 0]
    low, high = min(0.85, *finite), max(1.15, *finite)
    if low < 0.5 or high > 2:
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_ylim(low / 1.2, high * 1.2)
    else:
        ax.set_ylim(low - 0.02, high + 0.02)


def losses(runs: Sequence[RunData], step: int | None, look: dict[str, Look]) -> Figure | None:
    """Train and eval loss of each variant on its own axes: their scales have nothing to do with each other."""
    groups = {variant: mine for variant, mine in by_variant(runs).items() if any(run.log.train or run.log.evals for run in mine)}
    if not groups:
        return None
    n_columns = min(3, len(groups))
    n_rows = -(-len(groups) // n_columns)
    figure = sheet(2.6 * n_rows)
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax, (variant, mine) in zip(panels, groups.items(), strict=False):
        loss_panel(ax, mine, look[variant])
        steps_axis(ax, step)
        ax.set(title=f"{variant}: loss, nats\nnot comparable across variants", xlabel="step")
        grid(ax)
    for empty in panels[len(groups) :]:
        empty.set_axis_off()
    return figure


def loss_panel(ax: Axes, runs: Sequence[RunData], look: Look) -> None:
    """Train as a line, eval as points; a run that diverged ends with a cross at its last finite loss."""
    shown: list[float] = []
    for i, run in enumerate(runs):
        train, evals = loss_points(run.log.train), loss_points(run.log.evals)
        ax.plot([*train], [*train.values()], color=look.colour, linewidth=1, alpha=0.75, label="" if i else "train")
        ax.plot([*evals], [*evals.values()], look.marker, color=look.colour, markersize=3.5, label="" if i else "eval")
        if run.diverged and train:
            last = max(train)
            ax.plot(last, train[last], "x", color=INK, markersize=9, markeredgewidth=2, label=f"s{run.seed} diverged")
        shown += [*train.values(), *evals.values()]
    log_axis_if_wide(ax, shown)
    ax.legend(frameon=False, fontsize=8.5, loc="upper center")


def loss_points(rows: dict[int, Row]) -> dict[int, float]:
    """Finite losses by step, in order."""
    return {step: row["loss"] for step, row in sorted(rows.items()) if math.isfinite(row.get("loss", math.nan))}
