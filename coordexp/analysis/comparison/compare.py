"""The comparison: exact common steps, snapshots, plateau, and paired differences, on comparable metrics only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from coordexp.analysis.comparison.effects import Tables, bands, differences, read_tables
from coordexp.analysis.comparison.findings import (
    Comparison,
    CurveRow,
    Snapshot,
    SnapshotRow,
    Stability,
    TemperatureRow,
    Window,
)
from coordexp.analysis.comparison.plateau import drifts, plateaus
from coordexp.analysis.comparison.resolution_limit import resolution_limit, vision_facts
from coordexp.analysis.comparison.slices import slices
from coordexp.analysis.comparison.stability import rank_stability
from coordexp.config.schema import RuleConfig
from coordexp.errors import UserError
from coordexp.metrics import BESIDE, METRICS, TEMPERATURE_PREFIX, metric, metric_values
from coordexp.study.inputs import RunData, by_variant
from coordexp.study.study import Vision


def compare(runs: Sequence[RunData], rule: RuleConfig, vision: Vision | None = None) -> Comparison:
    """The comparison of a study under its rule.

    `vision` gives `side_px` and `cell_px` where no manifest does.

    Raises:
        UserError: no step is common to all runs that finished, or the decision step is not one of them.
    """
    finished = [run for run in runs if not run.diverged and run.log.evals]
    groups = by_variant(finished)
    steps = common_steps(finished)
    decision_step = decide_step(steps, rule.decision_step)
    window = [
        s for s in steps if decision_step and (1 - rule.window) * decision_step < s <= decision_step
    ]
    tables = read_tables(finished, rule.temperature)
    curves = {
        t: curve_rows(groups, t, tables if t == rule.temperature else {})
        for t in TEMPERATURE_PREFIX
    }
    mine = curves[rule.temperature]
    later = sorted({row.step for row in mine if steps and row.step > steps[-1]})
    snapshots = [
        snapshot(mine, step) for step in ([decision_step, *later] if decision_step else [])
    ]
    means = {name: mean_curves(mine, name) for name in rule.metrics}
    levels = plateaus(finished, rule.temperature)
    level_drifts = drifts(levels)
    return Comparison(
        temperature=rule.temperature,
        common_steps=steps,
        decision_step=decision_step,
        window=Window(rule.window, window),
        snapshots=snapshots,
        temperatures={
            t: temperature_rows(groups, rows, decision_step, t) for t, rows in curves.items()
        },
        winners={
            t: winners(snapshot(rows, decision_step), rule.metrics) for t, rows in curves.items()
        },
        curves=mine,
        bands=bands(groups, tables),
        stability=stability(means, steps, window),
        plateau=levels,
        drift=level_drifts,
        differences=differences(groups, means, tables, decision_step, window, rule),
        slices=slices(groups, decision_step, rule.temperature),
        resolution_limit=resolution_limit(
            snapshots[0].rows if snapshots else [], level_drifts, *vision_facts(finished, vision)
        ),
    )


def common_steps(runs: Sequence[RunData]) -> list[int]:
    """The exact intersection of eval steps; nothing is interpolated."""
    if not runs:
        return []
    shared = set.intersection(*(set(run.log.evals) for run in runs))
    if not shared:
        raise UserError(
            "the runs share no eval step: give them the same train.eval_steps (or --step, to `coordexp evaluate`)"
        )
    return sorted(shared)


def decide_step(steps: list[int], setting: str) -> int | None:
    if not steps:
        return None
    if setting == "last_common":
        return steps[-1]
    if not setting.isdigit() or int(setting) not in steps:
        raise UserError(
            f"study.rule.decision_step={setting}: must be last_common or one of the common eval steps {steps}"
        )
    return int(setting)


def curve_rows(
    groups: dict[str, list[RunData]], temperature: str, tables: Tables
) -> list[CurveRow]:
    """What each run's log says at each eval step; a metric its log lacks comes from its token table."""
    return [
        CurveRow(
            variant,
            run.seed,
            step,
            (tables[run.name, step].values if (run.name, step) in tables else {})
            | metric_values(row, temperature),
        )
        for variant, runs in groups.items()
        for run in runs
        for step, row in sorted(run.log.evals.items())
    ]


def snapshot(curves: Sequence[CurveRow], step: int | None) -> Snapshot:
    """The metrics of each variant at a step, averaged over the seeds that have them."""
    rows = []
    at_step = [row for row in curves if row.step == step]
    for variant in dict.fromkeys(row.variant for row in at_step):
        mine = [row for row in at_step if row.variant == variant]
        means = {}
        for name in (*METRICS, *BESIDE):
            values = [row.values[name] for row in mine if name in row.values]
            if values:
                means[name] = math.fsum(values) / len(values)
        if means:
            rows.append(SnapshotRow(variant, [row.seed for row in mine], means))
    return Snapshot(step, rows)


def temperature_rows(
    groups: dict[str, list[RunData]], curves: Sequence[CurveRow], step: int | None, name: str
) -> list[TemperatureRow]:
    """The decision snapshot at a temperature, and which temperature that was for each seed, where the log names it."""
    key = f"{TEMPERATURE_PREFIX[name]}/temperature"
    rows = []
    for row in snapshot(curves, step).rows:
        if not any(METRICS[n].has_temperature for n in row.values if n in METRICS):
            continue
        evals = [run.log.evals[step] for run in groups[row.variant] if step in run.log.evals]
        used = [1.0] * len(evals) if name == "1" else [e[key] for e in evals if key in e]
        rows.append(TemperatureRow(row.variant, row.seeds, row.values, used))
    return rows


def winners(at_step: Snapshot, names: Sequence[str]) -> dict[str, str | None]:
    """Who is best on each metric that every variant has; None where several are."""
    values = {row.variant: row.values for row in at_step.rows}
    shared = [name for name in names if values and all(name in row for row in values.values())]
    return {name: metric(name).best({v: row[name] for v, row in values.items()}) for name in shared}


def mean_curves(curves: Sequence[CurveRow], name: str) -> dict[str, dict[int, float]]:
    """Each variant's curve of a metric, averaged over its seeds, at the steps that all of its seeds have."""
    found: dict[str, dict[int, float]] = {}
    for variant in dict.fromkeys(row.variant for row in curves):
        mine = [row for row in curves if row.variant == variant]
        seeds = {row.seed for row in mine}
        for step in dict.fromkeys(row.step for row in mine):
            values = [row.values[name] for row in mine if row.step == step and name in row.values]
            if len(values) == len(seeds):
                found.setdefault(variant, {})[step] = math.fsum(values) / len(values)
    return found


def stability(
    means: dict[str, dict[str, dict[int, float]]], steps: Sequence[int], window: Sequence[int]
) -> dict[str, Stability]:
    """Who leads at each common step, since when for good, and whether leaving out a block of the window changes it."""
    found = {}
    for name, curves in means.items():
        if (
            len(curves) > 1
            and window
            and all(step in curve for curve in curves.values() for step in steps)
        ):
            lower = bool(METRICS[name].lower_is_better)
            whole, inside = (
                rank_stability(curves, steps, lower),
                rank_stability(curves, window, lower),
            )
            found[name] = replace(inside, winners=whole.winners, settled_from=whole.settled_from)
    return found
