"""What is doubtful about the figures of a run without being a fault that fails the audit.

The reader's doubts are the first of them. The card names each under its caveats.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence

from coordexp.analysis.audit.rows import infinite_values, must_be_finite
from coordexp.analysis.audit.validation_set import samples_by_step
from coordexp.storage.logs.doubts import is_rounded
from coordexp.storage.logs.log import EVAL, Doubt, Log, figures, shown_key
from coordexp.storage.logs.number_rows import Row
from coordexp.study.inputs import RunData, by_variant

GRADIENT = "grad_norm"
# A step in half precision is skipped where its gradient overflows, as the first few often do. From
# this share of the train rows on, skipped steps make the training noticeably shorter.
MANY_SKIPPED = 0.1
# Two logs of which one is a part of the other, or rounded, share at least so many evaluations: a
# single one may agree by chance.
ENOUGH_SHARED = 2


def run_doubts(run: RunData) -> list[Doubt]:
    """The doubts about a run by itself."""
    log = run.log
    return [
        *log.doubts,
        *short(run),
        *other_samples(log),
        *skipped_steps(log),
        *other_values(log),
    ]


def short(run: RunData) -> list[Doubt]:
    """A log that ends early. A run with a manifest fails the audit for that."""
    log = run.log
    last = max([*log.train, *log.evals, *log.repeats], default=0)
    if run.manifest is not None or log.max_steps is None or last >= log.max_steps:
        return []
    return [Doubt(f"the log ends at step {last} of the planned {log.max_steps}", "note")]


def other_samples(log: Log) -> list[Doubt]:
    """Evaluations of another number of samples than most: they are of another set."""
    found = samples_by_step(log)
    alike = {step: [at for at in found if agree(found[at], found[step])] for step in found}
    usual = max(alike, key=lambda step: len(alike[step]), default=None)
    if usual is None or len(alike[usual]) == len(found):
        return []
    if 2 * len(alike[usual]) <= len(found):
        numbers = [n for n, _ in found.values()]
        span = f"from {min(numbers):,.0f} to {max(numbers):,.0f}"
        return [Doubt(f"the evaluations are of different sets: {span} samples", "caps")]
    odd = [step for step in found if step not in alike[usual]]
    which = f"the evaluation at step {odd[-1]} is"
    if odd[1:]:
        which = f"{len(odd)} evaluations are of other sets: that at step {odd[-1]} is"
    numbers_differ = f"of {found[odd[-1]][0]:,.0f} samples, most are of {found[usual][0]:,.0f}"
    return [Doubt(f"{which} {numbers_differ}", "caps")]


def agree(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two numbers, each with its rounding error, may be equal."""
    return abs(first[0] - second[0]) <= max(first[1] + second[1], 0.5)


def skipped_steps(log: Log) -> list[Doubt]:
    """Infinite gradients, with finite losses: half-precision steps that were skipped."""
    norms = [row[key] for row in log.train.values() for key in row if key.endswith(GRADIENT)]
    n, n_rows = sum(not math.isfinite(norm) for norm in norms), len(log.train)
    if n == 0:
        return []
    kind = "not finite" if any(math.isnan(norm) for norm in norms) else "infinite"
    found = f"{GRADIENT} is {kind} in {n} of {n_rows} train rows"
    if n > max(1, MANY_SKIPPED * n_rows):
        return [Doubt(f"{found}: so many skipped steps make it another training", "caps")]
    skipped = "a skipped half-precision step" if n == 1 else "skipped half-precision steps"
    return [Doubt(f"{found}: {skipped}", "note")]


def other_values(log: Log) -> list[Doubt]:
    """Values that are not finite, on which nothing rests: one doubt about all of them."""
    found = [
        f"{prefix}{shown_key(key)} at step {step}"
        for prefix, step, key in infinite_values(log)
        if not must_be_finite(prefix, key) and (prefix == EVAL or not key.endswith(GRADIENT))
    ]
    if not found:
        return []
    more = f", nor are {len(found) - 1} other values" if found[1:] else ""
    return [Doubt(f"{found[0]} is not finite{more}: nothing is decided by it", "note")]


def copies(run: RunData, runs: Sequence[RunData]) -> list[Doubt]:
    """Doubt a run whose log holds the values of a run before it: by variant as named, then seed."""
    for other in (each for group in by_variant(runs).values() for each in group):
        if other.name == run.name:
            break
        n = same_evaluations(run.log, other.log)
        if n == 0:
            continue
        held = f"the log holds the values of {other.name}"
        if run.log.evals.keys() != other.log.evals.keys():
            held = f"the log agrees with that of {other.name} in the {n} evaluations that both hold"
        if other.variant == run.variant:
            return [Doubt(f"{held}: they are one training, not two seeds", "caps")]
        return [Doubt(f"{held}, as one training under two names", "note")]
    return []


def same_evaluations(first: Log, second: Log) -> int:
    """How many evaluations two logs share, if they agree in every figure of every common step.

    One may end earlier, as two checkpoints of one training do, or hold rounded values: then they
    must share several. TensorBoard keeps float32, so that a run and its events agree to this
    precision. Returns 0 where they differ, or share too little to tell.
    """
    shared = [
        step
        for step in first.evals.keys() & second.evals.keys()
        if figures(first.evals[step], second.evals[step])
    ]
    pairs = ((first.evals, second.evals), (first.train, second.train))
    whole = first.evals.keys() == second.evals.keys()
    if whole and all(same_rows(*rows, equal) for rows in pairs):
        return len(shared)
    if len(shared) >= ENOUGH_SHARED and all(same_rows(*rows, equal_if_rounded) for rows in pairs):
        return len(shared)
    return 0


def same_rows(
    first: Mapping[int, Row], second: Mapping[int, Row], same: Callable[[float, float], bool]
) -> bool:
    """Whether two logs agree in every figure of their common steps."""
    common = first.keys() & second.keys()
    pairs = ((first[step], second[step]) for step in common)
    return all(same(a[key], b[key]) for a, b in pairs for key in figures(a, b))


def equal_if_rounded(first: float, second: float) -> bool:
    return equal(first, second) or is_rounded(first, second) or is_rounded(second, first)


def equal(first: float, second: float) -> bool:
    """Whether two numbers agree in single precision; two NaN do."""
    return single(first) == single(second)


def single(value: float) -> bytes:
    """A number in single precision; as bytes, so that two NaN are equal."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<d", value)
