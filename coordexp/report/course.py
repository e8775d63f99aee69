"""The figure of how the variants got where they are: two metrics over the steps, lines labelled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from coordexp.analysis.comparison.findings import Comparison
from coordexp.metrics import METRICS, Metric
from coordexp.report import plot
from coordexp.report.curves import by_seed, collapse_end, mean_curve, metric_panel, variants_of
from coordexp.report.labels import metrics_in
from coordexp.report.plot import WIDTH, Box, Figure, Panel
from coordexp.report.style import Look, looks_of
from coordexp.report.svg import Point, fitted, group, path, text_width

TOP, BOTTOM, HEIGHT = 30.0, 250.0, 278.0  # px: of the panels, and of the figure
FEWEST = 3  # evaluations that are worth a figure
AXIS_ROOM, MOST_LABEL_ROOM = 46.0, 150.0  # px: left and right of a panel


def course(
    comparison: Comparison, votes: Sequence[str], looks: Mapping[str, Look]
) -> Figure | None:
    """The first deciding metric, and the first one of which the better side is the other one.

    Args:
        comparison: the study's.
        votes: the metrics by which the rule ranks, in its order.
        looks: how variants are drawn.

    None where no run has finished with an evaluation.
    """
    metrics = two_metrics(comparison, votes)
    if not metrics:
        return None
    comparison, start = after_collapse(comparison)
    shown = looks_of(variants_of(comparison.curves), looks)
    pitch = WIDTH / len(metrics)
    room = 24 + min(MOST_LABEL_ROOM, max(text_width(variant, plot.SMALL) for variant in shown))
    parts = []
    for i, metric in enumerate(metrics):
        box = Box(i * pitch + AXIS_ROOM, (i + 1) * pitch - room, TOP, BOTTOM)
        parts.append(group({"panel": metric.name}, panel_of(comparison, metric, box, shown)))
    names = " and ".join(metric.label for metric in metrics)
    return plot.figure(
        "course", f"{names} over the optimizer steps", caption(comparison, start), HEIGHT, parts
    )


def two_metrics(comparison: Comparison, votes: Sequence[str]) -> list[Metric]:
    """At most two of the metrics that the curves hold, those that decide first."""
    held = metrics_in(comparison.curves)
    ordered = [METRICS[name] for name in votes if METRICS[name] in held]
    ordered += [metric for metric in held if metric not in ordered]
    first = ordered[:1]
    others = [m for m in ordered[1:] if m.lower_is_better != first[0].lower_is_better]
    return first + (others or ordered[1:])[:1]


def panel_of(
    comparison: Comparison, metric: Metric, box: Box, looks: Mapping[str, Look]
) -> Iterator[str]:
    """The curves of one metric, each with its variant's name at its end."""
    panel, drawn = metric_panel(comparison, metric, box, looks)
    yield from drawn
    ends = {}
    for variant in looks:
        mean = mean_curve(by_seed(comparison.curves, variant, metric.name))
        if mean:
            step = max(mean)
            ends[variant] = (step, mean[step])
    yield from end_labels(panel, ends, looks)


def end_labels(panel: Panel, ends: Mapping[str, Point], looks: Mapping[str, Look]) -> Iterator[str]:
    """The name of each curve right of its end, by (step, value); crowded names move apart."""
    height = plot.SMALL + 3
    order = sorted(ends, key=lambda name: panel.at(*ends[name])[1])
    y = panel.top - height
    baselines = {}
    for name in order:
        y = max(panel.at(*ends[name])[1], y + height)
        baselines[name] = y
    overflow = max(0.0, y - panel.bottom)
    for name in order:
        x, end_y = panel.at(*ends[name])
        y = baselines[name] - overflow
        yield path([(x + 6, end_y), (x + 16, y)], looks[name].colour, 1, data={"mark": "leader"})
        width = WIDTH - x - 20 if panel.right > WIDTH / 2 else WIDTH / 2 - x - 20
        yield fitted(x + 20, y + 4, name, width, size=plot.SMALL, data={"mark": "end", "of": name})


def after_collapse(comparison: Comparison) -> tuple[Comparison, int]:
    """The curves from the step at which every run's collapse has ended, and that step.

    The fall from a random start would hide what differs after it. All of them, from step 0, where
    fewer than three evaluations are left.
    """
    start = collapse_end(comparison)
    if sum(step >= start for step in comparison.common_steps) < FEWEST:
        return comparison, 0
    curves = [row for row in comparison.curves if row.step >= start]
    bands = [band for band in comparison.bands if band.step >= start]
    return replace(comparison, curves=curves, bands=bands), start


def caption(comparison: Comparison, start: int) -> str:
    """How to read the lines and the axis."""
    words = "On the validation set"
    words += f", from step {start}, where the last collapse ended." if start else "."
    if len({row.seed for row in comparison.curves}) > 1:
        words += " Thin: seeds; thick: their mean."
    if comparison.bands:
        words += " Tinted: 95 % interval."
    words += f" Dotted: the decision step, {comparison.decision_step}"
    if len(comparison.window.steps) > 1:
        words += "; bar on the axis: the declared window"
    return words + "."
