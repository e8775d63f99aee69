"""The figure of the decision step: each variant's value, and under it the leads with their intervals and margins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordexp.analysis.comparison.leads import Lead
from coordexp.metrics import Metric
from coordexp.report import plot
from coordexp.report.curves import present, with_unit
from coordexp.report.plot import Panel, Scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import box, fitted, path, rule, text, text_width

VALUE_ROW, LEAD_ROW, HOLM = 34.0, 44.0, 12.0  # px; a line of p-values more
Box = tuple[float, float]  # left, right


def effects(
    comparison: dict[str, Any],
    leads: Sequence[Lead],
    confirmatory: Sequence[dict[str, Any]],
    look: dict[str, Look],
) -> str | None:
    """Above, the variants at the decision step; below, the leads, positive to the right, with Holm's p where it was taken."""
    rows = comparison["snapshots"][0]["rows"] if comparison["snapshots"] else []
    metrics = present(rows)
    if not metrics:
        return None
    pairs = list(dict.fromkeys((lead.first, lead.second) for lead in leads))
    names = [pair_name(pair, pairs) for pair in pairs]
    label_width = min(
        215.0, 14 + max(text_width(name) for name in [*names, *(row["variant"] for row in rows)])
    )
    columns = column_boxes(label_width, len(metrics))
    row_height = LEAD_ROW + (
        HOLM if any(claim["p_holm"] is not None for claim in confirmatory) else 0
    )
    middle = 30 + VALUE_ROW * len(rows)
    height = middle + (60 + row_height * len(pairs) if pairs else 0) + 26

    def draw() -> Iterator[str]:
        for i, row in enumerate(rows):
            yield fitted(
                label_width - 10,
                30 + VALUE_ROW * (i + 0.5) + 9,
                row["variant"],
                label_width - 10,
                "end",
            )
        for m, column in zip(metrics, columns, strict=True):
            yield from values_panel(m, rows, seeds_at(comparison, m), (30, middle), column, look)
        for i, name in enumerate(names):
            yield fitted(
                label_width - 10,
                middle + 60 + row_height * (i + 0.5) + 5,
                name,
                label_width - 10,
                "end",
            )
        for m, column in zip(metrics if pairs else [], columns, strict=False):
            mine = [lead for lead in leads if lead.metric == m.name]
            if mine:
                holm = {
                    claim["variant"]: claim["p_holm"]
                    for claim in confirmatory
                    if claim["metric"] == m.name
                }
                yield from leads_panel(
                    m, pairs, mine, holm, (middle + 60, height - 26), column, look
                )

    return plot.sheet(height, f"Values and leads at step {comparison['decision_step']}", draw())


def pair_name(pair: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> str:
    """`over B` where one variant leads every pair, else `A over B`."""
    return (
        f"over {pair[1]}"
        if len({first for first, _ in pairs}) == 1
        else f"{pair[0]} over {pair[1]}"
    )


def column_boxes(left: float, n_columns: int) -> list[Box]:
    width = (plot.WIDTH - left) / n_columns
    return [(left + i * width, left + (i + 1) * width - 18) for i in range(n_columns)]


def seeds_at(comparison: dict[str, Any], m: Metric) -> dict[str, list[float]]:
    """Each seed's value at the decision step, by variant."""
    found: dict[str, list[float]] = {}
    for row in comparison["curves"]:
        if row["step"] == comparison["decision_step"] and m.name in row["values"]:
            found.setdefault(row["variant"], []).append(row["values"][m.name])
    return found


def values_panel(
    m: Metric,
    rows: Sequence[dict[str, Any]],
    seeds: dict[str, list[float]],
    between: Box,
    column: Box,
    look: dict[str, Look],
) -> Iterator[str]:
    """A point a variant with its value over it; its seeds as small ticks."""
    shown = [row["values"][m.name] for row in rows if m.name in row["values"]] + [
        value for values in seeds.values() for value in values
    ]
    panel = Panel(Scale(*plot.spanning(shown, 0.25), *column), Scale(0, len(rows), *between))
    yield plot.heading(panel, with_unit(m), outdent=0)
    yield from frame(panel)
    for i, row in enumerate(rows):
        if m.name not in row["values"]:
            continue
        value = row["values"][m.name]
        at, style = panel.at(value, i + 0.5 + 5 / VALUE_ROW), look[row["variant"]]
        for of_seed in seeds[row["variant"]] if len(seeds[row["variant"]]) > 1 else []:
            x = panel.x(of_seed)
            yield path([(x, at[1] - 6), (x, at[1] + 6)], style.colour, width=1.3)
        yield glyph(style, at, 4.2, title=row["variant"])
        yield text(
            at[0],
            at[1] - 9,
            f"{value:.2f}" if m.unit else f"{value:.4f}",
            "middle",
            11.5,
        )


def leads_panel(
    m: Metric,
    pairs: Sequence[tuple[str, str]],
    leads: Sequence[Lead],
    holm: Mapping[str, float | None],
    between: Box,
    column: Box,
    look: dict[str, Look],
) -> Iterator[str]:
    """A lead and its interval a pair, over the margin; what they amount to, in words over them."""
    margin = leads[0].margin
    ends = [end for lead in leads for end in (lead.low, lead.value, lead.high) if end is not None]
    scale = plot.lead_scale(ends, margin, *column)
    panel = Panel(scale, Scale(0, len(pairs), *between))
    yield plot.heading(panel, f"lead{', ' + m.unit if m.unit else ''}", outdent=0)
    if margin:
        left, right = panel.x(max(-margin, scale.low)), panel.x(min(margin, scale.high))
        yield box(
            left,
            panel.top,
            right - left,
            panel.bottom - panel.top,
            opacity=0.09,
            title=f"margin: ±{margin:g}",
        )
    yield from frame(panel)
    yield rule(panel.at(0, 0), panel.at(0, len(pairs)), 0.7)
    for lead in leads:
        y = panel.y(pairs.index((lead.first, lead.second)) + 0.5) + 1
        style, value = look[lead.second], panel.x(lead.value)
        if lead.low is not None and lead.high is not None:
            yield path([(panel.x(lead.low), y), (panel.x(lead.high), y)], style.colour, width=2.4)
        yield glyph(
            style,
            (value, y),
            4.2,
            hollow=lead.unresolved,
            title=f"over {lead.second}: {lead.value:+.4g}",
        )
        if lead.verdict:
            yield fitted(
                (panel.left + panel.right) / 2,
                y - 12,
                lead.verdict,
                panel.right - panel.left + 12,
                "middle",
                11,
            )
        if (p := holm.get(lead.second)) is not None:
            yield text((panel.left + panel.right) / 2, y + 16, f"Holm p {p:.2g}", "middle", 10.5)


def frame(panel: Panel) -> Iterator[str]:
    """A few values below, and the axis they stand on."""
    yield from plot.grid_x(panel, plot.ticks(panel.x, 4))
    yield rule((panel.left, panel.bottom), (panel.right, panel.bottom), 0.7)
