"""The figures of a report, each a function from the study's numbers to SVG.

A figure whose numbers are not there (logs without token tables, no run that finished) is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coordexp.analysis.inputs import RunData
from coordexp.metrics import METRICS, Metric
from coordexp.report import log_figures
from coordexp.report.leads import Lead
from coordexp.report.style import INK, PAPER, Look, grid, key, log_axis_if_wide, sheet, steps_axis, styled, svg

SIZE_LABELS = {"small": "small\n< 32² px", "medium": "medium\n32² to 96² px", "large": "large\n≥ 96² px"}


def draw(
    audit: dict[str, Any],
    comparison: dict[str, Any],
    runs: Sequence[RunData],
    primary: str | None,
    leads: Sequence[Lead],
    look: dict[str, Look],
) -> dict[str, str]:
    """Every figure that the numbers allow: name -> SVG."""
    step = comparison["decision_step"]
    rows = comparison["snapshots"][0]["rows"] if step is not None else []
    curves = pd.DataFrame(comparison["curves"])
    with styled():
        figures = {
            "effects": effects(rows, curves, leads, step, look),
            "curves": metric_curves(curves, step, look),
            "leads": lead_curves(curves, primary, comparison, look),
            "ratios": log_figures.ratios(audit["runs"], step, look),
            "slices": slices(comparison["slices"], step, look),
            "losses": log_figures.losses(runs, step, look),
        }
        return {name: svg(figure, name) for name, figure in figures.items() if figure}


def metric_title(m: Metric) -> str:
    direction = "lower is better" if m.lower_is_better else "higher is better"
    return f"{m.label}{', ' + m.unit if m.unit else ''} ({direction})"


def present(frame: pd.DataFrame) -> list[Metric]:
    """The comparable metrics that a frame of curves holds."""
    return [m for m in METRICS.values() if m.name in frame.columns and frame[m.name].notna().any()]


def by_seed(curves: pd.DataFrame, variant: str, name: str) -> pd.DataFrame:
    """A variant's curve of a metric: a row a step, a column a seed."""
    return curves[curves["variant"] == variant].pivot(index="step", columns="seed", values=name)


def draw_seeds(ax: Axes, seeds: pd.DataFrame, look: Look) -> None:
    """One line; several seeds as thin lines under their mean, which stops where a seed is missing."""
    if seeds.shape[1] > 1:
        ax.plot(seeds.index, seeds, color=look.colour, alpha=0.35, linewidth=0.7)
    mean = seeds.mean(axis=1, skipna=False).dropna()
    ax.plot(mean.index, mean, markevery=max(1, len(mean) // 8), **line(look))


def line(look: Look) -> dict[str, Any]:
    return {
        "color": look.colour,
        "linestyle": look.dashes,
        "linewidth": 1.5,
        "marker": look.marker,
        "markersize": 4.5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.6,
    }


def small_multiples(n_panels: int) -> tuple[Figure, list[Axes]]:
    """Panels in rows of three, one more than asked for: the last is the key."""
    n_rows = (n_panels + 3) // 3
    figure = sheet(2.45 * n_rows)
    panels = list(figure.subplots(n_rows, 3, squeeze=False).flat)
    for empty in panels[n_panels + 1 :]:
        empty.set_axis_off()
    return figure, panels


def metric_curves(curves: pd.DataFrame, step: int | None, look: dict[str, Look]) -> Figure | None:
    """The comparable metrics over the steps, a panel each, on the validation set."""
    if curves.empty:
        return None
    metrics, variants = present(curves), list(dict.fromkeys(curves["variant"]))
    figure, panels = small_multiples(len(metrics))
    for ax, m in zip(panels, metrics, strict=False):
        for variant in variants:
            if by_seed(curves, variant, m.name).notna().any(axis=None):
                draw_seeds(ax, by_seed(curves, variant, m.name), look[variant])
        if m.lower_is_better:
            log_axis_if_wide(ax, curves[m.name].dropna().tolist())
        else:
            ax.set_ylim(0, 1.08 * curves[m.name].max() or 1)
        ax.set(title=metric_title(m), xlabel="step")
        steps_axis(ax, step)
        grid(ax)
    n_seeds = curves["seed"].nunique()
    notes = [f"dotted: decision step {step}", *(["thin: seeds, thick: their mean"] if n_seeds > 1 else [])]
    key(panels[len(metrics)], [(v, line(look[v])) for v in variants], notes)
    return figure


def lead_curves(curves: pd.DataFrame, primary: str | None, comparison: dict[str, Any], look: dict[str, Look]) -> Figure | None:
    """The primary's lead over each other variant at every common step after the collapse, with the margin."""
    steps = [s for s in comparison["common_steps"] if s >= after_collapse(comparison)]
    if primary is None or curves["variant"].nunique() < 2 or len(steps) < 2:
        return None
    curves = curves[curves["step"].isin(steps)]
    metrics = present(curves)
    others = [variant for variant in dict.fromkeys(curves["variant"]) if variant != primary]
    margins = {d["metric"]: d["margin"] for d in comparison["differences"]}
    figure, panels = small_multiples(len(metrics))
    for ax, m in zip(panels, metrics, strict=False):
        margin_band(ax.axhspan, ax.axhline, margins.get(m.name))
        for other in others:
            gap = by_seed(curves, primary, m.name) - by_seed(curves, other, m.name)
            shared = (-gap if m.lower_is_better else gap).dropna(axis=1, how="all")
            if not shared.empty:
                draw_seeds(ax, shared, look[other])
        ax.set(title=f"lead in {m.label}{', ' + m.unit if m.unit else ''}", xlabel="step")
        steps_axis(ax, comparison["decision_step"])
        grid(ax)
    notes = [
        f"above 0: {primary} is better",
        "grey band: within the margin",
        f"dotted: decision step {comparison['decision_step']}",
    ]
    key(panels[len(metrics)], [(f"over {other}", line(look[other])) for other in others], notes)
    return figure


def after_collapse(comparison: dict[str, Any]) -> int:
    """The step from which every run that has a plateau has left its collapse; 0 where none has one."""
    return max((found["collapse_ends"] for found in comparison["plateau"].values() if found), default=0)


def margin_band(span: Any, zero_line: Any, margin: float | None) -> None:
    if margin:
        span(-margin, margin, color=INK, alpha=0.09, linewidth=0)
    zero_line(0, color=INK, alpha=0.6, linewidth=0.8)


def effects(
    rows: list[dict[str, Any]], curves: pd.DataFrame, leads: Sequence[Lead], step: int | None, look: dict[str, Look]
) -> Figure | None:
    """Above, each variant's value at the decision step; below, the leads with their intervals and margins."""
    if not rows or step is None:
        return None
    metrics = [m for m in METRICS.values() if any(m.name in row for row in rows)]
    pairs = list(dict.fromkeys((lead.first, lead.second) for lead in leads))
    heights = [len(rows) + 0.6] + ([len(pairs) + 0.6] if pairs else [])
    figure = sheet(1.0 + 0.42 * sum(heights), wspace=0.1, hspace=0.08)
    panels = figure.subplots(len(heights), len(metrics), sharey="row", squeeze=False, height_ratios=heights)
    at_step = curves[curves["step"] == step]
    for ax, m in zip(panels[0], metrics, strict=True):
        values_panel(ax, m, rows, at_step, look)
    for ax, m in zip(panels[-1] if pairs else [], metrics, strict=False):
        leads_panel(ax, m, pairs, [lead for lead in leads if lead.metric == m.name], look)
    return figure


def values_panel(ax: Axes, m: Metric, rows: list[dict[str, Any]], at_step: pd.DataFrame, look: dict[str, Look]) -> None:
    for y, row in enumerate(rows):
        style = look[row["variant"]]
        seeds = at_step.loc[at_step["variant"] == row["variant"], m.name].dropna() if m.name in at_step else []
        if len(seeds) > 1:
            ax.plot(seeds, [y] * len(seeds), "|", color=style.colour, alpha=0.8, markersize=9)
        if m.name in row:
            ax.plot(row[m.name], y, linestyle="", marker=style.marker, markersize=6.5, color=style.colour, markeredgecolor=PAPER)
            label = f"{row[m.name]:.2f}" if m.unit else f"{row[m.name]:.4f}"
            ax.annotate(label, (row[m.name], y), (0, 7), textcoords="offset points", ha="center", fontsize=8.5)
    category_axis(ax, [row["variant"] for row in rows])
    ax.set_title(f"{m.label}{', ' + m.unit if m.unit else ''}")


def leads_panel(ax: Axes, m: Metric, pairs: list[tuple[str, str]], leads: Sequence[Lead], look: dict[str, Look]) -> None:
    margin_band(ax.axvspan, ax.axvline, leads[0].margin if leads else None)
    for lead in leads:
        y, style = pairs.index((lead.first, lead.second)), look[lead.second]
        if lead.low is not None and lead.high is not None:
            ax.plot([lead.low, lead.high], [y, y], color=style.colour, linewidth=2, solid_capstyle="butt")
        face = PAPER if lead.unresolved else style.colour
        ax.plot(lead.value, y, linestyle="", marker=style.marker, markersize=6.5, color=style.colour, markerfacecolor=face)
    one_leader = len({first for first, _ in pairs}) == 1
    category_axis(ax, [f"over {second}" if one_leader else f"{first} over {second}" for first, second in pairs])
    ax.set_title(f"lead{', ' + m.unit if m.unit else ''}")


def category_axis(ax: Axes, names: list[str]) -> None:
    """Names down the left, with room for a label beside the outermost points."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.75)
    ax.margins(x=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(2))
    ax.tick_params(axis="y", length=0)
    grid(ax, "x")


def slices(found: dict[str, Any], step: int | None, look: dict[str, Look]) -> Figure | None:
    """MAE by coordinate slot and by box size, in bins."""
    if not found:
        return None
    figure = sheet(2.6)
    panels = figure.subplots(1, 3, width_ratios=[1.25, 1, 0.75])
    for ax, part, title in zip(panels, ("by_slot", "by_box_size"), ("by coordinate slot", "by box size"), strict=False):
        names = list(dict.fromkeys(name for variant in found.values() for name in variant[part]))
        for i, (variant, values) in enumerate(found.items()):
            shift = (i - (len(found) - 1) / 2) * min(0.18, 0.7 / len(found))
            y = [values[part].get(name, np.nan) for name in names]
            ax.plot(np.arange(len(names)) + shift, y, **line(look[variant]) | {"linestyle": "", "markersize": 7})
        ax.set_xticks(range(len(names)), [SIZE_LABELS.get(name, name) for name in names])
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_ylim(0, 1.1 * max(value for variant in found.values() for value in variant[part].values()))
        ax.set_title(f"MAE {title}, bins")
        grid(ax)
    key(panels[2], [(v, line(look[v]) | {"linestyle": ""}) for v in found], [f"step {step}, lower is better"])
    return figure
