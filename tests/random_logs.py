"""Rows of logs with random numbers, some of them doubtful, as a trainer would write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.storage.logs.doubts import examine
from coordexp.storage.logs.log import Log

STEPS = (40, 80, 120, 160)
LAST = STEPS[-1]
KINDS = (
    "best loaded, evaluated again",
    "best loaded, evaluated at a step of its own",
    "evaluated again",
    "another number of samples",
    "restart",
    "restart that repeats itself",
    "false start",
    "two runs",
    "beyond the plan",
    "short",
    "a skipped step",
    "many skipped steps",
    "values on which nothing rests",
    "stands still",
)
Entry = tuple[int, dict[str, float], dict[str, float]]  # step, train values, eval values


def random_rows(rng: np.random.Generator, kind: str | None = None) -> list[Entry]:
    """The rows of a run that was planned for LAST steps, in the order of writing."""
    rows = [entry for step in STEPS for entry in evaluated(rng, step)]
    first = {step: evals for step, _, evals in rows if evals}
    match kind:
        case "best loaded, evaluated again":
            best = first[int(rng.choice(STEPS[:-1]))]
            rows.append((LAST, {}, best | {"runtime": 9.0}))
        case "best loaded, evaluated at a step of its own":
            best = first[int(rng.choice(STEPS[:-1]))]
            rows[-1] = (LAST, {}, {k: best[k] for k in best if k != "ap/person"})
        case "evaluated again":
            for step in rng.choice(STEPS, size=rng.integers(1, 3), replace=False).tolist():
                at = max(i for i, (s, _, evals) in enumerate(rows) if s == step and evals)
                rows[at + 1 : at + 1] = evaluated(rng, step)[1:]
        case "another number of samples":
            odd = set(rng.choice(STEPS, size=rng.integers(1, 3) // 2 + 1, replace=False).tolist())
            for step, _, evals in rows:
                if evals:
                    evals["samples_per_second"] = (500 if step in odd else 200) / evals["runtime"]
        case "restart":
            rows += evaluated(rng, STEPS[2])
        case "restart that repeats itself":
            rows += [(s, t, e and e | {"runtime": 7.0}) for s, t, e in rows[4:]]
        case "false start":
            rows = evaluated(rng, 5) + evaluated(rng, STEPS[0]) + evaluated(rng, 5) + rows
        case "two runs":
            rows += [entry for step in STEPS[:3] for entry in evaluated(rng, step)]
        case "beyond the plan":
            rows += evaluated(rng, LAST + 40)
        case "short":
            del rows[-2:]
        case "a skipped step":
            rows[2][1]["grad_norm"] = math.inf
        case "many skipped steps":
            for i in (0, 2, 4):
                rows[i][1]["grad_norm"] = math.nan if i == 2 else math.inf
        case "values on which nothing rests":
            for i in range(1, 1 + 2 * rng.integers(1, 4), 2):
                rows[i][2]["ap/person"] = math.nan
        case "stands still":
            rows = [(step, train, evals and first[STEPS[0]]) for step, train, evals in rows]
    return rows


def evaluated(rng: np.random.Generator, step: int) -> list[Entry]:
    """A train row and an eval row, with numbers of full precision."""
    train = {"loss": rng.uniform(1, 2), "grad_norm": rng.uniform(0, 1), "epoch": step / 7}
    evals = {
        "loss": rng.uniform(1, 2),
        "coord_diag/expected_bin_mae": rng.uniform(20, 30),
        "ap/person": rng.uniform(0, 1),
        "runtime": rng.uniform(8, 9),
    }
    return [(step, as_floats(train), {}), (step, {}, as_floats(evals))]


def as_floats(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


def read_rows(path: Path, rows: list[Entry]) -> Log:
    """The log that a reader makes of these rows."""
    log = Log(path, max_steps=LAST)
    for step, train, evals in rows:
        log.add(step, train, evals)
    log.rows = len(rows)
    examine(log)
    return log
