"""How metrics and temperatures are named on the page and in the figures, and which are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from coordexp.analysis.comparison.findings import Comparison
from coordexp.metrics import METRICS, Metric

TEMPERATURES = {"own": "own T", "fitted": "fitted T"}


def temperature_label(comparison: Comparison, temperature: str) -> str:
    """`T = 1`, `T as logged`, `own T` or `fitted T`."""
    return TEMPERATURES.get(temperature, comparison.logged_at)


class HasValues(Protocol):
    """A row of metrics."""

    @property
    def values(self) -> Mapping[str, float]: ...


def with_unit(metric: Metric) -> str:
    """`MAE, bins`; a fraction has no unit."""
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def metrics_in(rows: Iterable[HasValues], metrics: Mapping[str, Metric] = METRICS) -> list[Metric]:
    """The metrics that any of these rows holds, in the order of the registry."""
    names: set[str] = set()
    for row in rows:
        names.update(row.values)
    return [metric for name, metric in metrics.items() if name in names]
