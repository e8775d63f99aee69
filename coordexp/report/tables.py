"""Rows of the page's tables, from the study's files: plain data that the template only lays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordexp.analysis.compare import values_at
from coordexp.analysis.inputs import RunData, by_variant
from coordexp.metrics import METRICS, TEMPERATURE_PREFIX, Metric
from coordexp.report.leads import Lead

# Logged beside the comparable metrics at the decision step: label, unit, whether lower is better (None: neither).
EXTRAS = {
    "text_ce": ("text cross-entropy", "nats", True),
    "text_token_acc": ("text accuracy", "", False),
    "coord_mass": ("coordinate mass", "", False),
    "entropy": ("entropy", "nats", None),
}
TEMPERATURES = {"1": "T = 1", "own": "own T", "fitted": "fitted T"}


def shared_columns(rows: Sequence[dict[str, Any]]) -> list[Metric]:
    """The comparable metrics that any of these rows holds."""
    return [m for m in METRICS.values() if any(m.name in row for row in rows)]


def best_of(rows: Sequence[dict[str, Any]], m: Metric) -> str | None:
    """Who holds the best value; nobody where there is nobody else to beat, or where several hold it."""
    values = {row["variant"]: row[m.name] for row in rows if m.name in row}
    return m.best(values) if len(values) > 1 else None


def snapshot_tables(snapshots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table a snapshot: its metrics, and the best variant of each."""
    tables = []
    for snapshot in snapshots:
        columns = shared_columns(snapshot["rows"])
        best = {m.name: best_of(snapshot["rows"], m) for m in columns}
        tables.append({**snapshot, "columns": columns, "best": best})
    return [table for table in tables if table["rows"]]


def extra_columns(snapshots: Sequence[dict[str, Any]]) -> list[str]:
    """What was logged beside the metrics at the decision step (the first snapshot, where there is one)."""
    return [name for name in EXTRAS if any(row.get(name) is not None for table in snapshots[:1] for row in table["rows"])]


def lead_table(leads: Sequence[Lead]) -> dict[str, Any]:
    """Leads by pair (rows) and metric (columns), and the margin of each metric."""
    columns = [m for m in METRICS.values() if any(lead.metric == m.name for lead in leads)]
    rows: dict[tuple[str, str], dict[str, Lead]] = {}
    for lead in leads:
        rows.setdefault((lead.first, lead.second), {})[lead.metric] = lead
    return {
        "columns": columns,
        "rows": rows,
        "margins": {lead.metric: lead.margin for lead in leads},
        "has_intervals": any(lead.low is not None for lead in leads),
    }


def check_columns(audit: dict[str, Any]) -> dict[str, str | None]:
    """Every check that judged some run, in order of appearance, with its detail where all runs share it."""
    details: dict[str, set[str]] = {}
    for entry in audit["runs"]:
        for check in entry["checks"]:
            if check["passed"] is not None:
                details.setdefault(check["name"], set()).add(check["detail"])
    return {name: next(iter(found)) if len(found) == 1 else None for name, found in details.items()}


def temperature_tables(runs: Sequence[RunData], step: int | None) -> list[dict[str, Any]]:
    """The metrics at each temperature at which some variant was read; accuracy, which has none, is left out."""
    if step is None:
        return []
    groups = by_variant([run for run in runs if step in run.log.evals and not run.diverged])
    tables = []
    for name, label in TEMPERATURES.items():
        rows = [
            {"variant": v, "used": temperatures_used(mine, step, name), **values_at(mine, step, name)}
            for v, mine in groups.items()
        ]
        columns = [m for m in shared_columns(rows) if m.has_temperature]
        if columns:
            tables.append({"label": label, "rows": rows, "columns": columns, "best": {m.name: best_of(rows, m) for m in columns}})
    return tables


def temperatures_used(runs: Sequence[RunData], step: int, name: str) -> list[float]:
    """The temperature of each seed that `own` or `fitted` stands for, where the log names it."""
    key = f"{TEMPERATURE_PREFIX[name]}/temperature"
    return [1.0] if name == "1" else [run.log.evals[step][key] for run in runs if key in run.log.evals[step]]


def temperature_disagreements(winners: dict[str, dict[str, str | None]], rule_temperature: str) -> list[str]:
    """Metrics whose winner is another one at another temperature than the rule's, each as a sentence."""
    reference = winners.get(rule_temperature, {})
    return [
        f"{METRICS[name].label}: {reference[name] or 'nobody'} is best at {TEMPERATURES[rule_temperature]}, "
        f"{winner or 'nobody'} at {TEMPERATURES[temperature]}"
        for temperature, by_metric in winners.items()
        for name, winner in by_metric.items()
        if name in reference and winner != reference[name]
    ]


def versions(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Each distinct set of versions the runs were trained with."""
    found = [", ".join(f"{name} {number}" for name, number in run["versions"].items()) for run in runs if run.get("versions")]
    return list(dict.fromkeys(found))
