"""Figures over the optimizer steps: the comparable metrics, and the primary's lead in each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordexp.metrics import METRICS, Metric
from coordexp.report import plot
from coordexp.report.plot import Panel
from coordexp.report.style import Look
from coordexp.report.svg import box, path, rule

Curve = dict[int, float]  # step -> value, in order of steps
Seeds = dict[int, Curve]


def by_seed(rows: Sequence[Mapping[str, Any]], variant: str, name: str) -> Seeds:
    """A variant's curves of a metric; seeds without it have none."""
    found: Seeds = {}
    for row in sorted(rows, key=lambda row: (row["seed"], row["step"])):
        if row["variant"] == variant and name in row["values"]:
            found.setdefault(row["seed"], {})[row["step"]] = row["values"][name]
    return found


def mean_curve(seeds: Seeds) -> Curve:
    """The mean over seeds, at the steps that every seed has."""
    steps = set.intersection(*(set(curve) for curve in seeds.values())) if seeds else set()
    return {
        step: sum(curve[step] for curve in seeds.values()) / len(seeds) for step in sorted(steps)
    }


def leads_of(first: Seeds, second: Seeds, lower_is_better: bool) -> Seeds:
    """How far `first` is ahead, on the seeds and steps that both have; positive: it is better."""
    sign = -1 if lower_is_better else 1
    return {
        seed: {
            step: sign * (first[seed][step] - second[seed][step])
            for step in first[seed]
            if step in second[seed]
        }
        for seed in first
        if seed in second and first[seed].keys() & second[seed].keys()
    }


def present(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The comparable metrics that any of these rows holds."""
    return [m for m in METRICS.values() if any(m.name in row["values"] for row in rows)]


def with_unit(m: Metric) -> str:
    return f"{m.label}{', ' + m.unit if m.unit else ''}"


def metric_curves(comparison: dict[str, Any], look: dict[str, Look]) -> str | None:
    """The comparable metrics on the validation set, a panel each, with the intervals that token tables give."""
    rows, metrics = comparison["curves"], present(comparison["curves"])
    if not metrics:
        return None
    variants = [variant for variant in look if any(row["variant"] == variant for row in rows)]
    notes = curve_notes(comparison)
    height, boxes = plot.small_multiples(len(metrics) + 1, key_rows=len(variants) + len(notes))

    def draw() -> Iterator[str]:
        for m, (left, right, top, bottom) in zip(metrics, boxes, strict=False):
            seeds = {variant: by_seed(rows, variant, m.name) for variant in variants}
            bands = [band for band in comparison["bands"] if band["metric"] == m.name]
            values = [
                value
                for curves in seeds.values()
                for curve in curves.values()
                for value in curve.values()
            ]
            values += [edge for band in bands for edge in (band["low"], band["high"])]
            y = plot.y_scale(values, top, bottom, from_zero=not m.lower_is_better)
            panel = Panel(plot.step_scale([row["step"] for row in rows], left, right), y)
            yield plot.heading(
                panel, with_unit(m), f"{'lower' if m.lower_is_better else 'higher'} is better"
            )
            yield from plot.grid_y(panel)
            yield from plot.steps_axis(
                panel, comparison["decision_step"], comparison["window"]["steps"]
            )
            for variant in variants:
                mine = [band for band in bands if band["variant"] == variant]
                yield plot.band(
                    panel, {b["step"]: (b["low"], b["high"]) for b in mine}, look[variant]
                )
            for variant in variants:
                yield from seeds_and_mean(panel, seeds[variant], look[variant], variant)
        left, _, top, _ = boxes[len(metrics)]
        yield from plot.key(left, top, 250, {v: look[v] for v in variants}, notes)

    return plot.sheet(height, "The comparable metrics over the optimizer steps", draw())


def curve_notes(comparison: dict[str, Any]) -> list[str]:
    notes = [
        f"dotted: decision step {comparison['decision_step']}",
        "bar on the axis: the declared window",
    ]
    if comparison["bands"]:
        notes.append("tinted: 95 % interval of the value")
    if len({row["seed"] for row in comparison["curves"]}) > 1:
        notes.append("thin: seeds, thick: their mean")
    return notes


def seeds_and_mean(panel: Panel, seeds: Seeds, look: Look, name: str) -> Iterator[str]:
    """One line; several seeds as thin lines under their mean, which stops where a seed is missing."""
    if len(seeds) > 1:
        for curve in seeds.values():
            yield path(
                [panel.at(x, y) for x, y in curve.items()], look.colour, width=0.9, opacity=0.45
            )
    yield from plot.curve(panel, mean_curve(seeds), look, name)


def lead_curves(
    comparison: dict[str, Any], primary: str | None, look: dict[str, Look]
) -> str | None:
    """The primary's lead over each other variant at every common step after the collapse, with the margin."""
    steps = [step for step in comparison["common_steps"] if step >= after_collapse(comparison)]
    rows = [row for row in comparison["curves"] if row["step"] in steps]
    others = [
        variant
        for variant in look
        if variant != primary and any(row["variant"] == variant for row in rows)
    ]
    if primary is None or not others or len(steps) < 2:
        return None
    metrics = present(rows)
    margins = {d["metric"]: d["margin"] for d in comparison["differences"]}
    notes = [
        f"above 0: {primary} is better",
        "grey band: within the margin",
        *curve_notes(comparison | {"bands": []}),
    ]
    height, boxes = plot.small_multiples(len(metrics) + 1, key_rows=len(others) + len(notes))

    def draw() -> Iterator[str]:
        for m, (left, right, top, bottom) in zip(metrics, boxes, strict=False):
            own = by_seed(rows, primary, m.name)
            leads = {
                other: leads_of(own, by_seed(rows, other, m.name), bool(m.lower_is_better))
                for other in others
            }
            values = [
                value
                for curves in leads.values()
                for curve in curves.values()
                for value in curve.values()
            ]
            panel = Panel(
                plot.step_scale(steps, left, right),
                plot.lead_scale(values, margins.get(m.name), bottom, top),
            )
            yield plot.heading(panel, f"lead in {with_unit(m)}")
            yield margin_band(panel, margins.get(m.name))
            yield from plot.grid_y(panel)
            yield rule(panel.at(panel.x.low, 0), panel.at(panel.x.high, 0), 0.7)
            yield from plot.steps_axis(
                panel, comparison["decision_step"], comparison["window"]["steps"]
            )
            for other, curves in leads.items():
                yield from seeds_and_mean(panel, curves, look[other], f"over {other}")
        left, _, top, _ = boxes[len(metrics)]
        yield from plot.key(
            left, top, 250, {f"over {other}": look[other] for other in others}, notes
        )

    return plot.sheet(height, f"The lead of {primary} over the optimizer steps", draw())


def after_collapse(comparison: dict[str, Any]) -> int:
    """The step from which every run that has a plateau has left its collapse; 0 where none has one."""
    return max((row["collapse_ends"] for row in comparison["plateau"]), default=0)


def margin_band(panel: Panel, margin: float | None) -> str:
    """The leads too small to matter, as far as the panel shows them."""
    if not margin:
        return ""
    top, bottom = panel.y(min(margin, panel.y.high)), panel.y(max(-margin, panel.y.low))
    return box(
        panel.left,
        top,
        panel.right - panel.left,
        bottom - top,
        opacity=0.09,
        title=f"margin: ±{margin:g}",
    )
