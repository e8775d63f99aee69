"""Synthetic logs of sound runs, as varied as sound runs are, and what a test does to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.analysis.audit.ratios import SUBSET
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData

N_DRAWS = 200
GAS = (2, 4, 8, 16, 32)
TERMS = {
    "pure_ce": ("coord",),
    "softce_w1_gate": ("soft_ce", "w1", "gate"),
    "mixed": ("soft_ce", "w1", "gate", "ce"),
}
LEVELS = {
    "text": (0.05, 0.5),
    "coord": (1.0, 5.0),
    "soft_ce": (2, 12),
    "w1": (0.02, 0.2),
    "gate": (0.005, 0.1),
    "ce": (2, 6),
}
# What a loss is made of, by step: text, and the coordinate terms (pure CE: coord).
Parts = dict[str, np.ndarray]


Fault = Callable[[Parts, np.ndarray, int], Parts]  # (parts, progress from 0 to 1, GAS) -> parts


def draws(test: Callable[[np.random.Generator], Any], n: int = N_DRAWS) -> list[Any]:
    return [test(np.random.default_rng([20260127, seed])) for seed in range(n)]


def sound(
    rng: np.random.Generator,
    variant: str | None = None,
    overfit: float | None = None,
    subset: bool = False,
    gas: int | None = None,
    n_evals: int | None = None,
    scale: Fault | None = None,
) -> RunData:
    """A run as it should be: noisy train rows that look back, exact eval rows, mild overfitting.

    9 to 60 evaluations; noise of a train row 1 to 8 %, some of it common to all terms; the loss
    falls fast, then slowly. `overfit`: by how much the eval value ends above what it would be
    (default: up to 15 %). `subset`: the eval rows hold train images too, which may be a little
    easier or harder. `scale(parts, progress, gas)` works on the train rows.
    """
    variant = variant or str(rng.choice([*TERMS]))
    n_evals, gap, noise = (
        n_evals or int(rng.integers(9, 61)),
        int(rng.choice([10, 20, 40])),
        rng.uniform(0.01, 0.08),
    )
    gas, overfit = gas or int(rng.choice(GAS)), rng.uniform(0, 0.15) if overfit is None else overfit
    last, window, every = (
        n_evals * gap,
        rng.uniform(0, gap),
        int(rng.choice([gap, gap // 5, gap // 2])),
    )
    names = ("text", *TERMS[variant])
    shape = {
        name: (rng.uniform(*LEVELS[name]), rng.uniform(0.2, 6), rng.uniform(0, 0.3))
        for name in names
    }
    fast, common = rng.uniform(0.02, 0.1) * last, rng.uniform(0, 1)

    def curve(name: str, steps: np.ndarray) -> np.ndarray:
        level, amplitude, slow = shape[name]
        return level * (1 + amplitude * np.exp(-steps / fast) + slow * (1 - steps / last))

    steps = np.arange(every, last + 1, every)
    shared = rng.normal(0, noise * common, len(steps))
    own = {name: rng.normal(0, noise * math.sqrt(1 - common**2), len(steps)) for name in names}
    train = {
        name: curve(name, np.maximum(steps - window / 2, 0)) * np.exp(shared + own[name])
        for name in names
    }
    log = Log(Path("logging.jsonl"), max_steps=last)
    scaled = scale(train, steps / last, gas) if scale else train
    log.train = rows(variant, scaled, steps, {"accum/grad_steps": float(gas)})
    at = np.arange(gap, last + 1, gap)
    gap_opens = 1 + overfit * np.clip((at / last - 0.2) / 0.8, 0, 1)
    evaluated = {
        name: curve(name, at) * gap_opens * np.exp(rng.normal(0, 0.005, len(at))) for name in names
    }
    log.evals = rows(variant, evaluated, at, {"coord_diag/enabled": float(variant != "pure_ce")})
    if subset:
        images = {
            name: curve(name, at) * np.exp(rng.normal(0, 0.05) + rng.normal(0, 0.01, len(at)))
            for name in names
        }
        for step, row in rows(variant, images, at, {}).items():
            log.evals[step] |= {SUBSET + key: value for key, value in row.items()}
    return RunData(variant, 0, log)


def rows(
    variant: str, parts: Parts, steps: np.ndarray, extra: dict[str, float]
) -> dict[int, dict[str, float]]:
    """Log rows by step, to six decimals."""
    columns = {"text_ce/loss": parts["text"]}
    if variant == "pure_ce":
        columns["base_ce/loss"] = columns["loss"] = 0.3 * parts["text"] + 0.7 * parts["coord"]
    else:
        columns |= {
            f"coord_softce_w1/{name}": values for name, values in parts.items() if name != "text"
        }
        columns["coord_softce_w1/loss"] = sum(
            values for name, values in parts.items() if name != "text"
        )
        columns |= {
            "base_ce/loss": parts["text"],
            "loss": parts["text"] + columns["coord_softce_w1/loss"],
        }
    table = np.round(np.array([*columns.values()]), 6).T.tolist()
    return {
        int(step): dict(zip(columns, row, strict=True)) | extra
        for step, row in zip(steps, table, strict=True)
    }


def times(factor: Callable[[np.ndarray, int], Any], *only: str) -> Fault:
    """A fault of the scale: `factor(progress, gas)` on all terms of the train rows, or on some."""
    return lambda parts, progress, gas: {
        name: values * (factor(progress, gas) if name in (only or parts) else 1.0)
        for name, values in parts.items()
    }
