"""Where the collapse ends, and what the curve does after it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coordexp.logs import Log

MAE_KEY = "coord_diag/expected_bin_mae"
WITHIN = 1.15  # of the final level: where a curve is said to have arrived
FLAT_PERCENT_PER_100_STEPS = 2.0


def collapse_end(log: Log) -> int:
    """The first eval step from which MAE stays within 15 % of its level over the last third.

    0 where the log has no MAE; the last eval step where MAE never settles.
    """
    curve = [(step, row[MAE_KEY]) for step, row in sorted(log.evals.items()) if math.isfinite(row.get(MAE_KEY, math.nan))]
    if not curve:
        return 0
    steps, values = (np.array(part) for part in zip(*curve, strict=True))
    level = float(np.median(values[-max(1, len(values) // 3) :]))
    outside = np.flatnonzero(values > WITHIN * level)
    return int(steps[min(outside[-1] + 1, len(steps) - 1)] if len(outside) else steps[0])


def plateau(log: Log, key: str) -> dict[str, Any] | None:
    """Level, spread and slope of an eval curve over its last third, and whether it is flat there.

    `slope_percent_per_100_steps` is a least-squares slope relative to the level. None where the curve has fewer
    than three points in its last third.
    """
    curve = [(step, row[key]) for step, row in sorted(log.evals.items()) if math.isfinite(row.get(key, math.nan))]
    if not curve:
        return None
    last_step = curve[-1][0]
    tail = [(step, value) for step, value in curve if step > last_step * 2 / 3]
    if len(tail) < 3:
        return None
    steps, values = (np.array(part, dtype=float) for part in zip(*tail, strict=True))
    level = float(values.mean())
    slope = float(np.polyfit(steps, values, 1)[0]) * 100 / level * 100 if level else 0.0
    return {
        "from_step": int(steps[0]),
        "collapse_ends": collapse_end(log),
        "level": level,
        "spread": float(values.max() - values.min()),
        "slope_percent_per_100_steps": slope,
        "flat": abs(slope) < FLAT_PERCENT_PER_100_STEPS,
    }
