"""Figures over the optimizer steps: the comparable metrics, and the leads of the primary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from coordexp.analysis.comparison.findings import Comparison, CurveRow
from coordexp.metrics import Metric
from coordexp.report import plot
from coordexp.report.labels import metrics_in, with_unit
from coordexp.report.plot import Box, Figure, Panel
from coordexp.report.scales import lead_scale, step_scale, y_scale
from coordexp.report.style import Look, looks_of
from coordexp.report.svg import Data, group, path, rule

Curve = dict[int, float]  # step -> value, in order of steps
Seeds = dict[int, Curve]  # seed -> its curve

KEY_WIDTH = 250  # px
METRICS_CAPTION = (
    "On the validation set. An axis is logarithmic where its values span more than a factor of "
    "three."
)
LEADS_CAPTION = (
    "The curves as leads of the primary, at the common steps after every collapse. Another "
    "stopping point would change a lead that changes sides here."
)


def by_seed(rows: Sequence[CurveRow], variant: str, metric: str) -> Seeds:
    """A variant's curves of a metric; a seed without the metric has none."""
    seeds: Seeds = {}
    for row in sorted(rows, key=lambda row: (row.seed, row.step)):
        if row.variant == variant and metric in row.values:
            seeds.setdefault(row.seed, {})[row.step] = row.values[metric]
    return seeds


def mean_curve(seeds: Seeds) -> Curve:
    """The mean over seeds, at the steps that every seed has."""
    if not seeds:
        return {}
    curves = list(seeds.values())
    steps = set(curves[0]).intersection(*curves)
    mean = {}
    for step in sorted(steps):
        mean[step] = sum(curve[step] for curve in curves) / len(curves)
    return mean


def leads_of(first: Seeds, second: Seeds, lower_is_better: bool) -> Seeds:
    """The leads of `first`, on the seeds and steps that both have; positive: it is better."""
    sign = -1 if lower_is_better else 1
    leads: Seeds = {}
    for seed, curve in first.items():
        other = second.get(seed, {})
        shared = [step for step in curve if step in other]
        if shared:
            leads[seed] = {step: sign * (curve[step] - other[step]) for step in shared}
    return leads


def values_of(curves: Iterable[Seeds]) -> list[float]:
    """Every value of these curves."""
    values: list[float] = []
    for seeds in curves:
        for curve in seeds.values():
            values += curve.values()
    return values


def variants_of(rows: Sequence[CurveRow]) -> set[str]:
    """The variants that have rows."""
    return {row.variant for row in rows}


def metric_curves(comparison: Comparison, looks: Mapping[str, Look]) -> Figure | None:
    """The comparable metrics on the validation set, one panel each, with intervals if available.

    None where no run has finished with an evaluation.
    """
    metrics = metrics_in(comparison.curves)
    if not metrics:
        return None
    shown = looks_of(variants_of(comparison.curves), looks)
    notes = curve_notes(comparison)
    if comparison.bands:
        notes.insert(2, "tinted: 95 % interval of the value")
    height, boxes = plot.small_multiples(len(metrics) + 1, key_rows=len(shown) + len(notes))
    parts = []
    for metric, box in zip(metrics, boxes, strict=False):
        _, drawn = metric_panel(comparison, metric, box, shown)
        parts.append(group({"panel": metric.name}, drawn))
    parts += plot.key(boxes[-1].left, boxes[-1].top, KEY_WIDTH, shown, notes)
    label = "The comparable metrics over the optimizer steps"
    return plot.figure("curves", label, METRICS_CAPTION, height, parts)


def curve_notes(comparison: Comparison) -> list[str]:
    """How to read the step axis and the lines."""
    notes = [
        f"dotted: decision step {comparison.decision_step}",
        "bar on the axis: the declared window",
    ]
    if len({row.seed for row in comparison.curves}) > 1:
        notes.append("thin: seeds, thick: their mean")
    return notes


def metric_panel(
    comparison: Comparison, metric: Metric, box: Box, looks: Mapping[str, Look]
) -> tuple[Panel, list[str]]:
    """One metric: the interval of each variant, drawn under its seeds and their mean."""
    curves = {variant: by_seed(comparison.curves, variant, metric.name) for variant in looks}
    intervals: dict[str, dict[int, tuple[float, float]]] = {}
    values = values_of(curves.values())
    for band in comparison.bands:
        if band.metric == metric.name:
            intervals.setdefault(band.variant, {})[band.step] = (band.low, band.high)
            values += [band.low, band.high]

    steps = [row.step for row in comparison.curves]
    y = y_scale(values, box.top, box.bottom, from_zero=not metric.lower_is_better)
    panel = Panel(step_scale(steps, box.left, box.right), y)
    direction = "lower" if metric.lower_is_better else "higher"
    parts = [*plot.heading(panel, with_unit(metric), f"{direction} is better")]
    parts += plot.grid_y(panel)
    parts += plot.steps_axis(panel, comparison.decision_step, comparison.window.steps)
    for variant, look in looks.items():
        parts += plot.band(panel, intervals.get(variant, {}), look, variant)
    for variant, look in looks.items():
        parts += seeds_and_mean(panel, curves[variant], look, variant)
    return panel, parts


def seeds_and_mean(panel: Panel, seeds: Seeds, look: Look, name: str) -> Iterator[str]:
    """The mean curve, which stops where a seed is missing, over thin lines for several seeds."""
    if len(seeds) > 1:
        for seed, curve in seeds.items():
            data: Data = {"mark": "seed-curve", "of": name, "seed": seed}
            yield path(panel.line(curve), look.colour, width=0.9, opacity=0.45, data=data)
    yield from plot.curve(panel, mean_curve(seeds), look, name)


def lead_curves(
    comparison: Comparison, primary: str | None, looks: Mapping[str, Look]
) -> Figure | None:
    """The primary's lead over each other variant at every common step after the collapse.

    None without a primary, without another variant, or where fewer than two such steps exist.
    """
    start = collapse_end(comparison)
    steps = [step for step in comparison.common_steps if step >= start]
    rows = [row for row in comparison.curves if row.step in steps]
    rivals = looks_of(variants_of(rows) - {primary}, looks)
    if primary is None or not rivals or len(steps) < 2:
        return None
    metrics = metrics_in(rows)
    notes = [
        f"above 0: {primary} is better",
        "grey band: within the margin",
        *curve_notes(comparison),
    ]
    height, boxes = plot.small_multiples(len(metrics) + 1, key_rows=len(rivals) + len(notes))
    margins = {d.metric: d.margin for d in comparison.differences}
    parts = []
    for metric, box in zip(metrics, boxes, strict=False):
        own = by_seed(rows, primary, metric.name)
        leads = {}
        for rival in rivals:
            theirs = by_seed(rows, rival, metric.name)
            leads[rival] = leads_of(own, theirs, bool(metric.lower_is_better))
        x = step_scale(steps, box.left, box.right)
        y = lead_scale(values_of(leads.values()), margins.get(metric.name), box.bottom, box.top)
        drawn = lead_panel(comparison, metric, margins.get(metric.name), Panel(x, y), leads, rivals)
        parts.append(group({"panel": metric.name}, drawn))
    names = {f"over {rival}": look for rival, look in rivals.items()}
    parts += plot.key(boxes[-1].left, boxes[-1].top, KEY_WIDTH, names, notes)
    label = f"The lead of {primary} over the optimizer steps"
    return plot.figure("leads", label, LEADS_CAPTION, height, parts)


def lead_panel(
    comparison: Comparison,
    metric: Metric,
    margin: float | None,
    panel: Panel,
    leads: Mapping[str, Seeds],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """The leads in one metric over each rival, with the line at 0 and the margin."""
    yield from plot.heading(panel, f"lead in {with_unit(metric)}")
    yield from plot.margin_band_y(panel, margin)
    yield from plot.grid_y(panel)
    yield rule(panel.at(panel.x.low, 0), panel.at(panel.x.high, 0), 0.7)
    yield from plot.steps_axis(panel, comparison.decision_step, comparison.window.steps)
    for rival, seeds in leads.items():
        yield from seeds_and_mean(panel, seeds, looks[rival], f"over {rival}")


def collapse_end(comparison: Comparison) -> int:
    """The first step after the collapse of every run that has a plateau; 0 where none has one."""
    return max((row.collapse_ends for row in comparison.plateau), default=0)
