"""The figure of the decision step: the values of each variant, and the leads below them.

Leads are drawn with their intervals, on top of the margin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from coordexp.analysis.comparison.findings import Comparison, SnapshotRow
from coordexp.analysis.comparison.leads import Lead
from coordexp.metrics import Metric
from coordexp.report import plot
from coordexp.report.labels import metrics_in, with_unit
from coordexp.report.numbers import metric_value
from coordexp.report.plot import SMALL, WIDTH, Figure, Panel
from coordexp.report.scales import Scale, lead_scale, padded_scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import Data, fitted, group, path, rule, text, text_width

Pair = tuple[str, str]  # (the variant whose lead it is, the other)

VALUES_TOP = 30.0  # px from the top of the figure to the first row
VALUE_ROW, LEAD_ROW = 34.0, 44.0  # px, the height of a row
HOLM_LINE = 12.0  # px more in a row with an adjusted p-value
BETWEEN_PARTS = 60.0  # px from the values down to the leads
AXIS_ROOM = 26.0  # px under the last row, for the axis
MAX_LABEL_WIDTH = 215.0  # px of a row's name
COLUMN_GAP = 18.0  # px


@dataclass(frozen=True)
class Layout:
    """Where rows and columns of the figure stand, in px."""

    label_width: float
    values_bottom: float
    lead_row: float  # height
    height: float
    columns: list[tuple[float, float]]  # left and right of each metric's panel

    @property
    def leads_top(self) -> float:
        return self.values_bottom + BETWEEN_PARTS


def effects(
    comparison: Comparison,
    leads: Sequence[Lead],
    holm: Mapping[tuple[str, str], float],
    looks: Mapping[str, Look],
    n_seeds: int,
) -> Figure | None:
    """The variants at the decision step (top), and the leads (bottom), positive to the right.

    Args:
        comparison: the study's.
        leads: of the primary; of every pair where there is no primary.
        holm: the adjusted p-values of the confirmatory claims, by metric and rival.
        looks: how variants are drawn.
        n_seeds: seeds per variant.

    None without results at the decision step.
    """
    rows = comparison.decision_rows
    metrics = metrics_in(rows)
    if not metrics:
        return None
    if leads:  # the other metrics stand in the table
        metrics = [m for m in metrics if any(lead.metric == m.name for lead in leads)]
    pairs = list(dict.fromkeys((lead.first, lead.second) for lead in leads))
    value_names = [row.variant for row in rows]
    lead_names = pair_names(pairs)
    layout = lay_out(value_names, lead_names, len(metrics), holm_line=bool(holm))

    parts = row_names(value_names, layout.label_width, VALUES_TOP, VALUE_ROW, 9)
    for metric, column in zip(metrics, layout.columns, strict=True):
        seeds = seeds_at(comparison, metric.name)
        panel = values_panel(metric, rows, seeds, (VALUES_TOP, layout.values_bottom), column, looks)
        parts.append(group({"panel": "values", "metric": metric.name}, panel))
    parts += row_names(lead_names, layout.label_width, layout.leads_top, layout.lead_row, 5)
    for metric, column in zip(metrics, layout.columns, strict=True):
        of_metric = [lead for lead in leads if lead.metric == metric.name]
        if of_metric:
            y = Scale(0, len(pairs), layout.leads_top, layout.height - AXIS_ROOM)
            panel = leads_panel(metric, pairs, of_metric, holm, y, column, looks)
            parts.append(group({"panel": "leads", "metric": metric.name}, panel))
    label = f"Values and leads at step {comparison.decision_step}"
    words = caption(comparison.decision_step, leads, n_seeds)
    return plot.figure("effects", label, words, layout.height, parts)


def caption(step: int | None, leads: Sequence[Lead], n_seeds: int) -> str:
    """How to read the figure; intervals are explained only if some lead has one."""
    seeds = " (ticks: its seeds)" if n_seeds > 1 else ""
    if not leads:
        return f"Values at step {step}{seeds}."
    words = f"Above: values at step {step}{seeds}. Below: leads"
    with_intervals = any(lead.method for lead in leads)
    if with_intervals:
        words += " with 95 % intervals"
    words += "; right of 0 is better, the grey band is the margin, too small to matter"
    if with_intervals:
        words += ", hollow: the interval holds 0"
    return words + "."


def lay_out(
    value_names: Sequence[str], lead_names: Sequence[str], n_columns: int, holm_line: bool
) -> Layout:
    """The column of names is as wide as the longest name; the panels share the rest."""
    longest = max(text_width(name) for name in (*value_names, *lead_names))
    label_width = min(MAX_LABEL_WIDTH, 14 + longest)
    column_width = (WIDTH - label_width) / n_columns
    columns = []
    for i in range(n_columns):
        left = label_width + i * column_width
        columns.append((left, left + column_width - COLUMN_GAP))
    lead_row = LEAD_ROW + HOLM_LINE if holm_line else LEAD_ROW
    values_bottom = VALUES_TOP + VALUE_ROW * len(value_names)
    height = values_bottom + AXIS_ROOM
    if lead_names:
        height += BETWEEN_PARTS + lead_row * len(lead_names)
    return Layout(label_width, values_bottom, lead_row, height, columns)


def pair_names(pairs: Sequence[Pair]) -> list[str]:
    """`over B` where one variant leads every pair, else `A over B`."""
    one_leads_all = len({first for first, _ in pairs}) == 1
    if one_leads_all:
        return [f"over {second}" for _, second in pairs]
    return [f"{first} over {second}" for first, second in pairs]


def row_names(
    names: Sequence[str], label_width: float, top: float, row_height: float, drop: float
) -> list[str]:
    """Names on the left of rows, their baselines `drop` px under the rows' middles."""
    width = label_width - 10
    parts = []
    for i, name in enumerate(names):
        baseline = top + row_height * (i + 0.5) + drop
        parts.append(fitted(width, baseline, name, width, "end", data={"mark": "row"}))
    return parts


def seeds_at(comparison: Comparison, metric: str) -> dict[str, list[float]]:
    """Each seed's value at the decision step, by variant."""
    seeds: dict[str, list[float]] = {}
    for row in comparison.curves:
        if row.step == comparison.decision_step and metric in row.values:
            seeds.setdefault(row.variant, []).append(row.values[metric])
    return seeds


def values_panel(
    metric: Metric,
    rows: Sequence[SnapshotRow],
    seeds: Mapping[str, Sequence[float]],
    top_and_bottom: tuple[float, float],
    left_and_right: tuple[float, float],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """A point for each variant with its value above it; several seeds as small ticks."""
    shown: list[float] = []
    for values in seeds.values():
        shown += values
    for row in rows:
        if metric.name in row.values:
            shown.append(row.values[metric.name])
    x = padded_scale(shown, *left_and_right, pad=0.25)
    panel = Panel(x, Scale(0, len(rows), *top_and_bottom))
    yield from plot.heading(panel, with_unit(metric), outdent=0)
    yield from plot.grid_x(panel)
    for i, row in enumerate(rows):
        if metric.name not in row.values:
            continue
        value, look = row.values[metric.name], looks[row.variant]
        at_x, at_y = panel.at(value, i + 0.5 + 5 / VALUE_ROW)
        of_seeds = seeds.get(row.variant, ())
        if len(of_seeds) > 1:
            for of_seed in of_seeds:
                seed_x = panel.x(of_seed)
                tick = [(seed_x, at_y - 6), (seed_x, at_y + 6)]
                data: Data = {"mark": "seed", "variant": row.variant}
                yield path(tick, look.colour, width=1.3, data=data)
        data = {"mark": "value", "variant": row.variant}
        yield glyph(look, (at_x, at_y), 4.2, title=row.variant, data=data)
        words = metric_value(value, metric.unit)
        data = {"mark": "number", "variant": row.variant}
        yield text(at_x, at_y - 9, words, "middle", SMALL, data=data)


def leads_panel(
    metric: Metric,
    pairs: Sequence[Pair],
    leads: Sequence[Lead],
    holm: Mapping[tuple[str, str], float],
    y: Scale,
    left_and_right: tuple[float, float],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """The leads on one metric, drawn on top of the margin; one row for each pair."""
    ends: list[float] = []
    for lead in leads:
        ends.append(lead.value)
        if lead.low is not None and lead.high is not None:
            ends += [lead.low, lead.high]
    margin = leads[0].margin
    panel = Panel(lead_scale(ends, margin, *left_and_right), y)
    title = f"lead, {metric.unit}" if metric.unit else "lead"
    yield from plot.heading(panel, title, outdent=0)
    yield from plot.margin_band_x(panel, margin)
    yield from plot.grid_x(panel)
    yield rule(panel.at(0, 0), panel.at(0, len(pairs)), 0.7)
    for lead in leads:
        row = pairs.index((lead.first, lead.second))
        p_holm = holm.get((metric.name, lead.second))
        yield from lead_row(panel, lead, panel.y(row + 0.5) + 1, p_holm, looks[lead.second])


def lead_row(panel: Panel, lead: Lead, y: float, p_holm: float | None, look: Look) -> Iterator[str]:
    """One lead with its interval; the verdict above it, the adjusted p-value below it."""
    data = {"variant": lead.first, "over": lead.second}
    if lead.low is not None and lead.high is not None:
        interval = [(panel.x(lead.low), y), (panel.x(lead.high), y)]
        yield path(interval, look.colour, width=2.4, data={"mark": "interval", **data})
    yield glyph(
        look,
        (panel.x(lead.value), y),
        4.2,
        hollow=lead.unresolved,
        title=f"over {lead.second}: {lead.value:+.4g}",
        data={"mark": "lead", **data},
    )
    if lead.verdict:
        width = panel.width + 12
        marked = {"mark": "verdict", **data}
        yield fitted(panel.middle, y - 12, lead.verdict, width, "middle", 11, data=marked)
    if p_holm is not None:
        words = f"Holm p {p_holm:.2g}"
        yield text(panel.middle, y + 16, words, "middle", 10.5, data={"mark": "p-holm", **data})
