"""Tables of metrics by variant: the roles, and the values at each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coordexp.analysis.comparison.findings import Comparison, Snapshot
from coordexp.analysis.recommendation.findings import Ineligible, Role
from coordexp.metrics import BESIDE, METRICS, Metric
from coordexp.report.labels import metrics_in
from coordexp.report.numbers import metric_value
from coordexp.report.table import (
    Cell,
    Column,
    Line,
    Part,
    Table,
    cell,
    column,
    name,
    numbers,
    small,
    words,
)


def direction(lower_is_better: bool) -> Part:
    """An arrow to the better side."""
    if lower_is_better:
        return small("↓", "lower is better")
    return small("↑", "higher is better")


def metric_columns(metrics: Iterable[Metric], arrow: bool = True) -> list[Column]:
    """A numeric column for each metric, with its unit; an arrow points to the better side."""
    columns = []
    for metric in metrics:
        lines: list[Line] = [metric.label]
        if arrow and metric.lower_is_better is not None:
            lines = [(f"{metric.label} ", direction(metric.lower_is_better))]
        if metric.unit:
            lines.append(small(metric.unit))
        columns.append(column(*lines, numeric=True))
    return columns


def metric_cells(
    variant: str,
    values: Mapping[str, float],
    metrics: Iterable[Metric],
    best: Mapping[str, str | None],
) -> list[Cell]:
    """The values of one variant; bold if it is the best of the table."""
    cells = []
    for metric in metrics:
        tone = "best" if best.get(metric.name) == variant else ""
        cells.append(cell(metric_value(values.get(metric.name), metric.unit), tone=tone))
    return cells


def best_variants(
    rows: Mapping[str, Mapping[str, float]], metrics: Iterable[Metric]
) -> dict[str, str | None]:
    """The best variant of each metric; None if there is only one variant, or several are best.

    `rows` are the metrics of each variant.
    """
    best = {}
    for metric in metrics:
        values = {v: row[metric.name] for v, row in rows.items() if metric.name in row}
        best[metric.name] = metric.best(values) if len(values) > 1 else None
    return best


def role_table(roles: Sequence[tuple[str, Role]]) -> Table | None:
    """The roles with the metrics that all their holders have; None if no role has a holder."""
    if not roles:
        return None
    rows = {role.variant: role.metrics for _, role in roles}
    names = set(METRICS).intersection(*rows.values())
    shared = [metric for metric in METRICS.values() if metric.name in names]
    best = best_variants(rows, shared)
    columns = [*words("role", "variant"), *numbers("seed"), *metric_columns(shared, arrow=False)]
    table = Table("roles", columns)
    for title, role in roles:
        values = metric_cells(role.variant, role.metrics, shared, best)
        table.add(cell(title), cell(name(role.variant)), cell(str(role.seed)), *values)
    return table


def judged(variant: str, ineligible: Sequence[Ineligible]) -> tuple[Part | str, ...]:
    """A variant, marked if it may not hold a role."""
    if any(entry.variant == variant for entry in ineligible):
        return name(variant), " ", small("not eligible")
    return (name(variant),)


def snapshot_tables(
    snapshots: Sequence[Snapshot],
    ineligible: Sequence[Ineligible],
    n_seeds: int,
    controls: Sequence[str] = (),
) -> list[Table]:
    """The metrics at the decision step, then at each later step that only some runs have."""
    tables: list[Table] = []
    for snapshot in snapshots:
        if snapshot.rows:
            caption = f"At the decision step, {snapshot.step}"
            if tables:
                who = "only one variant has" if len(snapshot.rows) == 1 else "not every run has"
                caption = f"At step {snapshot.step}, which {who}: it decides nothing"
            tables.append(snapshot_table(snapshot, caption, ineligible, n_seeds, controls))
    return tables


def snapshot_table(
    snapshot: Snapshot,
    caption: str,
    ineligible: Sequence[Ineligible],
    n_seeds: int,
    controls: Sequence[str],
) -> Table:
    """The metrics at one step; how many seeds each variant has, where the study has several.

    A control has a row of its own, and is never shown as the best.
    """
    metrics = metrics_in(snapshot.rows)
    ranked = [row for row in snapshot.rows if row.variant not in controls]
    best = best_variants({row.variant: row.values for row in ranked}, metrics)
    columns = words("variant")
    if n_seeds > 1:
        columns += numbers("seeds")
    table = Table(f"step-{snapshot.step}", columns + metric_columns(metrics), caption=caption)
    for row in snapshot.rows:
        cells = [cell(judged(row.variant, ineligible))]
        if n_seeds > 1:
            cells.append(cell(str(len(row.seeds))))
        table.add(*cells, *metric_cells(row.variant, row.values, metrics, best))
    return table


def beside_table(comparison: Comparison) -> Table | None:
    """Other metrics that were logged at the decision step; None if there are none."""
    rows = comparison.decision_rows
    metrics = metrics_in(rows, BESIDE)
    if not metrics:
        return None
    caption = (
        f"Also logged at step {comparison.decision_step}: the protocol (text, coordinate mass) and "
        "the sharpness of the coordinate distributions"
    )
    table = Table("beside", words("variant") + metric_columns(metrics), caption=caption)
    for row in rows:
        table.add(cell(name(row.variant)), *metric_cells(row.variant, row.values, metrics, {}))
    return table
