"""The metrics of every run at every eval step; means, winners and temperatures at one step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from coordexp.analysis.comparison.effects import Tables
from coordexp.analysis.comparison.findings import CurveRow, Snapshot, SnapshotRow, TemperatureRow
from coordexp.metrics import (
    BESIDE,
    METRICS,
    REGISTRY,
    TEMPERATURE_PREFIX,
    metric,
    metric_values,
)
from coordexp.study.inputs import RunData


def curve_rows(
    groups: Mapping[str, Sequence[RunData]], temperature: str, tables: Tables
) -> list[CurveRow]:
    """Each run at each eval step of its log; metrics missing in the log come from its token table.

    At the fitted temperature, metrics without a temperature come from the table too: the log has
    them over all images, the table over the half of the images that is judged.

    Args:
        groups: the runs of each variant.
        tables: by run name and step, read at this temperature.
    """
    rows = []
    for variant, runs in groups.items():
        for run in runs:
            for step, logged in sorted(run.log.evals.items()):
                table = tables.get((run.name, step))
                of_table = dict(table.values) if table else {}
                values = of_table | metric_values(logged, temperature)
                if temperature == "fitted":
                    values |= {n: v for n, v in of_table.items() if not REGISTRY[n].has_temperature}
                rows.append(CurveRow(variant, run.seed, step, values))
    return rows


def snapshot(curves: Sequence[CurveRow], step: int | None) -> Snapshot:
    """The metrics of each variant at a step, averaged over the seeds that have them."""
    rows = []
    for variant, of_seeds in by_variant(row for row in curves if row.step == step).items():
        means = {}
        for name in (*METRICS, *BESIDE):
            values = [row.values[name] for row in of_seeds if name in row.values]
            if values:
                means[name] = math.fsum(values) / len(values)
        if means:
            rows.append(SnapshotRow(variant, [row.seed for row in of_seeds], means))
    return Snapshot(step, rows)


def by_variant(rows: Iterable[CurveRow]) -> dict[str, list[CurveRow]]:
    """The rows of each variant, in their order."""
    groups: dict[str, list[CurveRow]] = {}
    for row in rows:
        groups.setdefault(row.variant, []).append(row)
    return groups


def temperature_rows(
    groups: Mapping[str, Sequence[RunData]], at_step: Snapshot, temperature: str
) -> list[TemperatureRow]:
    """The snapshot's variants that have at least one metric that depends on the temperature.

    Args:
        at_step: the decision snapshot, read at this temperature.
    """
    key = f"{TEMPERATURE_PREFIX[temperature]}/temperature"
    rows = []
    for row in at_step.rows:
        if not any(name in row.values for name, m in METRICS.items() if m.has_temperature):
            continue
        logs = [run.log for run in groups[row.variant] if at_step.step in run.log.evals]
        if temperature == "1":
            used = [log.temperature for log in logs if log.temperature is not None]
        else:
            evals = [log.evals[at_step.step] for log in logs if at_step.step is not None]
            used = [logged[key] for logged in evals if key in logged]
        rows.append(TemperatureRow(row.variant, row.seeds, row.values, used))
    return rows


def winners(at_step: Snapshot, names: Sequence[str]) -> dict[str, str | None]:
    """The best variant on each metric that every variant has; None where the best are equal."""
    found: dict[str, str | None] = {}
    for name in names:
        values = {r.variant: r.values[name] for r in at_step.rows if name in r.values}
        if values and len(values) == len(at_step.rows):
            found[name] = metric(name).best(values)
    return found


def mean_curves(curves: Sequence[CurveRow], name: str) -> dict[str, dict[int, float]]:
    """Each variant's curve of a metric, averaged over its seeds, at the steps that all have.

    Returns:
        {variant: {step: value}}; a variant without any such step is left out.
    """
    found: dict[str, dict[int, float]] = {}
    for variant, rows in by_variant(curves).items():
        n_seeds = len({row.seed for row in rows})
        values: dict[int, list[float]] = {}
        for row in rows:
            if name in row.values:
                values.setdefault(row.step, []).append(row.values[name])
        means = {s: math.fsum(v) / len(v) for s, v in values.items() if len(v) == n_seeds}
        if means:
            found[variant] = means
    return found
