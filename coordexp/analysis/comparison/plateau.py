"""Where the fast initial fall of MAE (its collapse) ends, and each curve's plateau after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coordexp.analysis.comparison.findings import Drift, Plateau
from coordexp.metrics import METRICS, log_key
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData

MAE_KEY = log_key("expected_bin_mae", "1")
ARRIVED_WITHIN = 1.15  # the collapse is over when MAE stays below this factor of its final level
FLAT_PERCENT_PER_100_STEPS = 2.0
MIN_POINTS = 3  # in the last third, for a plateau to be judged


def collapse_end(log: Log) -> int:
    """The first eval step from which MAE stays at most 15 % above its final level.

    The final level is the median over the last third of the evaluations. 0 if the log has no MAE;
    the last eval step if MAE never settles.
    """
    curve = curve_of(log, MAE_KEY)
    if not curve:
        return 0
    steps, values = np.array(list(curve)), np.array(list(curve.values()))
    level = float(np.median(values[-max(1, len(values) // 3) :]))
    outside = np.flatnonzero(values > ARRIVED_WITHIN * level)
    if not len(outside):
        return int(steps[0])
    return int(steps[min(outside[-1] + 1, len(steps) - 1)])


def curve_of(log: Log, key: str) -> dict[int, float]:
    """The finite eval values of a key by step, in order of the steps."""
    return {
        step: row[key]
        for step, row in sorted(log.evals.items())
        if math.isfinite(row.get(key, math.nan))
    }


def plateaus(runs: Sequence[RunData], temperature: str) -> list[Plateau]:
    """The plateau of each run and metric; a curve that is too short has none."""
    rows = []
    for run in runs:
        ends = collapse_end(run.log)
        for name in METRICS:
            curve = curve_of(run.log, log_key(name, temperature))
            tail = {step: value for step, value in curve.items() if step > max(curve) * 2 / 3}
            if len(tail) >= MIN_POINTS:
                rows.append(plateau(run, name, tail, ends))
    return rows


def plateau(run: RunData, name: str, tail: dict[int, float], collapse_ends: int) -> Plateau:
    """Level, spread and slope of a curve's last third, given as {step: value}."""
    steps, values = np.array(list(tail), dtype=float), np.array(list(tail.values()))
    level = float(values.mean())
    slope = 0.0
    if level:
        # Slope of a least-squares line per step, times 100 steps, in % of the level.
        slope = float(np.polyfit(steps, values, 1)[0]) * 100 / level * 100
    return Plateau(
        run=run.name,
        variant=run.variant,
        seed=run.seed,
        metric=name,
        collapse_ends=collapse_ends,
        from_step=int(steps[0]),
        level=level,
        spread=float(values.max() - values.min()),
        slope_percent_per_100_steps=slope,
        flat=abs(slope) < FLAT_PERCENT_PER_100_STEPS,
    )


def drifts(rows: Sequence[Plateau]) -> list[Drift]:
    """For each metric, whether variants differ by more than a single run varies on its plateau.

    Metrics that only one variant has are left out.
    """
    found = []
    for name in dict.fromkeys(row.metric for row in rows):
        of_metric = [row for row in rows if row.metric == name]
        levels: dict[str, list[float]] = {}
        for row in of_metric:
            levels.setdefault(row.variant, []).append(row.level)
        means = [math.fsum(values) / len(values) for values in levels.values()]
        if len(means) > 1:
            between = max(means) - min(means)
            within = max(row.spread for row in of_metric)
            found.append(Drift(name, between, within, between > within))
    return found
