"""Where the collapse ends, what the curves do after it, and whether variants differ by more than their own drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coordexp.metrics import METRICS, log_key
from coordexp.storage.logs import Log
from coordexp.study.inputs import RunData

MAE_KEY = "coord_diag/expected_bin_mae"
WITHIN = 1.15  # of the final level: where a curve is said to have arrived
FLAT_PERCENT_PER_100_STEPS = 2.0


def collapse_end(log: Log) -> int:
    """The first eval step from which MAE stays within 15 % of its level over the last third.

    0 where the log has no MAE; the last eval step where MAE never settles.
    """
    curve = curve_of(log, MAE_KEY)
    if not curve:
        return 0
    steps, values = np.array([*curve]), np.array([*curve.values()])
    level = float(np.median(values[-max(1, len(values) // 3) :]))
    outside = np.flatnonzero(values > WITHIN * level)
    return int(steps[min(outside[-1] + 1, len(steps) - 1)] if len(outside) else steps[0])


def curve_of(log: Log, key: str) -> dict[int, float]:
    """The finite eval values of a key by step, in order."""
    return {
        step: row[key]
        for step, row in sorted(log.evals.items())
        if math.isfinite(row.get(key, math.nan))
    }


def plateau(curve: Mapping[int, float]) -> dict[str, Any] | None:
    """Level, spread (largest minus smallest) and slope of a curve over its last third, and whether it is flat there.

    `slope_percent_per_100_steps` is a least-squares slope relative to the level. None where the curve has fewer
    than three points in its last third.
    """
    tail = {step: value for step, value in curve.items() if step > max(curve) * 2 / 3}
    if len(tail) < 3:
        return None
    steps, values = np.array([*tail], dtype=float), np.array([*tail.values()])
    level = float(values.mean())
    slope = float(np.polyfit(steps, values, 1)[0]) * 100 / level * 100 if level else 0.0
    return {
        "from_step": int(steps[0]),
        "level": level,
        "spread": float(values.max() - values.min()),
        "slope_percent_per_100_steps": slope,
        "flat": abs(slope) < FLAT_PERCENT_PER_100_STEPS,
    }


def plateaus(runs: Sequence[RunData], temperature: str) -> list[dict[str, Any]]:
    """The plateau of each run and metric; a curve that is too short has none."""
    found = []
    for run in runs:
        ends = collapse_end(run.log)
        for name in METRICS:
            if flat := plateau(curve_of(run.log, log_key(name, temperature))):
                found.append(
                    {
                        "run": run.name,
                        "variant": run.variant,
                        "seed": run.seed,
                        "metric": name,
                        "collapse_ends": ends,
                        **flat,
                    }
                )
    return found


def drift(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per metric: how far the variants' plateau levels lie apart, and how far a single run moves on its plateau.

    `between` is the largest difference of levels (averaged over seeds), `within` the largest spread of a run.
    """
    found = []
    for name in dict.fromkeys(row["metric"] for row in rows):
        mine = [row for row in rows if row["metric"] == name]
        levels: dict[str, list[float]] = {}
        for row in mine:
            levels.setdefault(row["variant"], []).append(row["level"])
        means = [math.fsum(values) / len(values) for values in levels.values()]
        if len(means) > 1:
            between, within = max(means) - min(means), max(row["spread"] for row in mine)
            found.append(
                {"metric": name, "between": between, "within": within, "differ": between > within}
            )
    return found
