"""Rows of the page's tables, from the study's files: plain data that the template only lays out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coordexp.analysis.audit.ratios import FAMILIES
from coordexp.analysis.comparison.leads import Lead
from coordexp.metrics import BESIDE, METRICS, Metric
from coordexp.study.study_runs import StudyRun

# How an interval was made, and what it therefore sees.
METHODS = {
    "paired bootstrap over images": "a paired bootstrap over the validation images: the same resamples of images for every "
    "variant. It sees what other images would change, and not what another seed would",
    "crossed seeds x images": "a t interval in which seeds and images are both random and crossed, with Satterthwaite's degrees "
    "of freedom: it sees what other seeds and other images would change",
}
TEMPERATURES = {"1": "T = 1", "own": "own T", "fitted": "fitted T"}


def shared_columns(rows: Sequence[dict[str, Any]]) -> list[Metric]:
    """The comparable metrics that any of these rows holds."""
    return [m for m in METRICS.values() if any(m.name in row["values"] for row in rows)]


def best_of(rows: Sequence[dict[str, Any]], m: Metric) -> str | None:
    """Who holds the best value; nobody where there is nobody else to beat, or where several hold it."""
    values = {row["variant"]: row["values"][m.name] for row in rows if m.name in row["values"]}
    return m.best(values) if len(values) > 1 else None


def snapshot_tables(snapshots: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table a snapshot: its metrics, and the best variant of each."""
    tables = []
    for snapshot in snapshots:
        columns = shared_columns(snapshot["rows"])
        best = {m.name: best_of(snapshot["rows"], m) for m in columns}
        tables.append({**snapshot, "columns": columns, "best": best})
    return [table for table in tables if table["rows"]]


def beside_columns(snapshots: Sequence[dict[str, Any]]) -> list[Metric]:
    """What was logged beside the metrics at the decision step (the first snapshot, where there is one)."""
    return [
        m
        for m in BESIDE.values()
        if any(m.name in row["values"] for table in snapshots[:1] for row in table["rows"])
    ]


def lead_table(leads: Sequence[Lead]) -> dict[str, Any]:
    """Leads by pair (rows) and metric (columns), the margin of each metric, and how the intervals were made."""
    columns = [m for m in METRICS.values() if any(lead.metric == m.name for lead in leads)]
    rows: dict[tuple[str, str], dict[str, Lead]] = {}
    for lead in leads:
        rows.setdefault((lead.first, lead.second), {})[lead.metric] = lead
    return {
        "columns": columns,
        "rows": rows,
        "margins": {lead.metric: lead.margin for lead in leads},
        "methods": list(dict.fromkeys(lead.method for lead in leads if lead.method)),
        "without": [lead for lead in leads if lead.method is None],
        "windows": max((lead.window.n for lead in leads if lead.window), default=0),
    }


def family_columns(audit: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The loss families of any run: the objective with its two parts, and the terms these parts are made of."""
    found = list(dict.fromkeys(family for entry in audit["runs"] for family in entry["families"]))
    return [f for f in FAMILIES if f in found], [f for f in found if f not in FAMILIES]


def check_table(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a check, in order of appearance: failed where any run fails, and what it says, runs that agree together."""
    names = dict.fromkeys(check["name"] for entry in audit["runs"] for check in entry["checks"])
    table = []
    for name in names:
        said = {
            run_name(entry): check
            for entry in audit["runs"]
            for check in entry["checks"]
            if check["name"] == name
        }
        outcomes = [check["passed"] for check in said.values()]
        table.append({
            "name": name,
            "passed": False if False in outcomes else True if True in outcomes else None,
            "n_failed": outcomes.count(False),
            "findings": alike({run: (check["passed"], check["detail"]) for run, check in said.items()}, len(audit["runs"])),
        })  # fmt: skip
    return table


def alike(said: Mapping[str, Any], n_runs: int) -> list[tuple[Any, list[str]]]:
    """What is said, once, with the runs it is said of; no runs where it is said of all of them."""
    groups: dict[Any, list[str]] = {}
    for run, words in said.items():
        groups.setdefault(words, []).append(run)
    return [(words, runs if len(runs) < n_runs else []) for words, runs in groups.items()]


def unchecked(audit: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What could not be checked, each line with the runs it is true of; no runs where that is all of them."""
    lines = dict.fromkeys(line for entry in audit["runs"] for line in entry["not_checked"])
    of_line = {
        line: [run_name(e) for e in audit["runs"] if line in e["not_checked"]] for line in lines
    }
    return [
        (line, runs if len(runs) < len(audit["runs"]) else []) for line, runs in of_line.items()
    ]


def run_name(entry: dict[str, Any]) -> str:
    return f"{entry['variant']} s{entry['seed']}"


def temperature_tables(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics at each temperature at which some variant was read; accuracy, which has none, is left out."""
    tables = []
    for name, rows in comparison["temperatures"].items():
        columns = [m for m in shared_columns(rows) if m.has_temperature]
        if columns:
            best = {m.name: best_of(rows, m) for m in columns}
            tables.append(
                {"label": TEMPERATURES[name], "rows": rows, "columns": columns, "best": best}
            )
    return tables


def temperature_disagreements(
    winners: dict[str, dict[str, str | None]], rule_temperature: str
) -> list[str]:
    """Metrics whose winner is another one at another temperature than the rule's, each as a sentence."""
    reference = winners[rule_temperature]
    return [
        f"{METRICS[name].label}: {reference[name] or 'nobody'} is best at {TEMPERATURES[rule_temperature]}, "
        f"{winner or 'nobody'} at {TEMPERATURES[temperature]}"
        for temperature, by_metric in winners.items()
        for name, winner in by_metric.items()
        if name in reference and winner != reference[name]
    ]


def plateau_table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row a variant, a column a metric: level (mean over seeds), slopes and how many seeds are flat."""
    variants = dict.fromkeys(row["variant"] for row in rows)
    table = []
    for variant in variants:
        mine = [row for row in rows if row["variant"] == variant]
        cells = {
            name: [row for row in mine if row["metric"] == name]
            for name in ordered(row["metric"] for row in mine)
        }
        table.append({"variant": variant, "cells": {name: plateau_cell(found) for name, found in cells.items()}}
                     | {key: spread_of([row[key] for row in mine]) for key in ("collapse_ends", "from_step")})  # fmt: skip
    return {
        "columns": [METRICS[name] for name in ordered(row["metric"] for row in rows)],
        "rows": table,
    }


def plateau_cell(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One variant's plateau of one metric, a row a seed."""
    return {
        "level": sum(row["level"] for row in rows) / len(rows),
        "slopes": spread_of([row["slope_percent_per_100_steps"] for row in rows]),
        "n_flat": sum(row["flat"] for row in rows),
        "n": len(rows),
    }


def spread_of(values: Sequence[float]) -> list[float]:
    """The smallest and the largest, or the one there is."""
    return sorted({min(values), max(values)})


def ordered(names: Iterable[str]) -> list[str]:
    """Metrics in the order of the registry."""
    found = set(names)
    return [name for name in METRICS if name in found]


def versions(runs: Sequence[StudyRun]) -> list[str]:
    """Each distinct set of versions the runs were trained with."""
    found = [
        ", ".join(f"{name} {number}" for name, number in run.versions.items())
        for run in runs
        if run.versions
    ]
    return list(dict.fromkeys(found))
