"""Rows of the page's tables, from the study's files: plain data that the template only lays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordexp.analysis.compare import values_at
from coordexp.analysis.inputs import RunData, by_variant
from coordexp.analysis.metrics import METRICS, Metric
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


def extra_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [name for name in EXTRAS if any(row.get(name) is not None for row in rows)]


def lead_table(leads: Sequence[Lead]) -> dict[str, Any]:
    """Leads by metric (rows) and pair (columns)."""
    pairs = list(dict.fromkeys((lead.first, lead.second) for lead in leads))
    names = [name for name in METRICS if any(lead.metric == name for lead in leads)]
    cells = {(lead.metric, lead.first, lead.second): lead for lead in leads}
    rows = [{"metric": METRICS[n], "leads": [cells.get((n, *pair)) for pair in pairs]} for n in names]
    for row in rows:
        row["margin"] = next(lead.margin for lead in row["leads"] if lead)
    return {"pairs": pairs, "rows": rows, "has_intervals": any(lead.low is not None for lead in leads)}


def check_names(audit: dict[str, Any]) -> list[str]:
    """Every check that judged some run, in order of appearance."""
    return list(dict.fromkeys(c["name"] for entry in audit["runs"] for c in entry["checks"] if c["passed"] is not None))


def temperature_tables(runs: Sequence[RunData], step: int | None, own_key: str = "coord_diag_{}_t/temperature") -> list[dict[str, Any]]:
    """The comparable metrics at each temperature for which every variant has them; accuracy, which has none, is left out."""
    tables = []
    groups = by_variant([run for run in runs if step in run.log.evals and not run.diverged])
    for name, label in TEMPERATURES.items():
        rows = []
        for variant, mine in groups.items():
            used = [run.log.evals[step].get(own_key.format(name)) for run in mine] if step is not None else []
            values = values_at(mine, step, name) if step is not None else {}
            rows.append({"variant": variant, "used": [1.0] if name == "1" else [t for t in used if t is not None], **values})
        columns = [m for m in shared_columns(rows) if m.has_temperature]
        if rows and columns:
            tables.append({"label": label, "rows": rows, "columns": columns, "best": {m.name: best_of(rows, m) for m in columns}})
    return tables


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
