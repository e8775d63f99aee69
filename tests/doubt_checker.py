"""The doubts about a run, found again by brute force, without the package, from its log's rows.

A run is plain data: `rows` as (step, train values, eval values) in the order of writing, and
`planned`, its number of steps.
"""

from __future__ import annotations

import collections
import itertools
import math
from typing import Any

TIMES = ("runtime", "epoch", "samples_per_second")


def expected_doubts(run: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, str]:
    """Each doubt about a run with its consequence; `earlier` are the runs named before it."""
    rows = [(step, train, evals) for step, train, evals in run["rows"]]
    found, rows = repeats(rows)
    other, rows = evaluated_again(rows)
    found |= other | logged_again(rows)
    last = max(step for step, _, _ in run["rows"])
    if last > run["planned"]:
        beyond = f"step {last} lies beyond the planned {run['planned']}"
        found[f"{beyond}: the log may count other steps than its plan"] = "caps"
    if last < run["planned"] and not run["has_manifest"]:
        found[f"the log ends at step {last} of the planned {run['planned']}"] = "note"
    found |= of_other_samples(rows)
    return found | not_finite(last_values(run["rows"])) | copied(run, earlier)


def figures(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if key not in TIMES}


def agree(a: dict[str, float], b: dict[str, float]) -> bool:
    shared = [key for key in figures(a) if key in b]
    return bool(shared) and all(a[key] == b[key] for key in shared)


def repeats(rows: list[Any]) -> tuple[dict[str, str], list[Any]]:
    """Evaluations that repeat one of an earlier step; and the rows without them."""
    found, kept = {}, []
    every = [(step, evals) for step, _, evals in rows if evals]
    steps = sorted({step for step, _ in every})
    last, evenly = steps[-1], len({b - a for a, b in itertools.pairwise(steps[-3:])}) == 1
    for i, (step, train, evals) in enumerate(rows):
        sources = [at for at, other in every if at < step and agree(other, evals)]
        again = any(at == step and other for at, _, other in rows[:i])
        alone = step == last and sum(at == step for at, _ in every) == 1
        if not evals or not sources or not (again or alone):
            kept.append((step, train, evals))
        elif again or not evenly or max(sources) != steps[-2]:
            text = (
                f"an evaluation at step {step} repeats that of step {max(sources)} digit for digit,"
                " as where the best checkpoint is loaded at the end: it is not used"
            )
            found[text] = "not used"
        else:
            text = (
                f"the evaluations at steps {max(sources)} and {step} are equal (the run stands "
                "still, or one checkpoint was evaluated twice): both are used"
            )
            found[text] = "note"
            kept.append((step, train, evals))
    return found, kept


def evaluated_again(rows: list[Any]) -> tuple[dict[str, str], list[Any]]:
    """Evaluations right after another one of their step, with other figures; rows without them."""
    steps, kept = [], []
    for step, train, evals in rows:
        before = kept[-1] if kept else None
        if evals and before and before[0] == step and before[2] and not agree(before[2], evals):
            steps.append(step)
        else:
            kept.append((step, train, evals))
    if not steps:
        return {}, kept
    which = f"{len(set(steps))} steps from {min(steps)} to {max(steps)} were"
    if len(set(steps)) == 1:
        which = f"step {steps[0]} was"
    text = (
        f"{which} evaluated again with other figures, without training between, as of other "
        "weights or other data: the first evaluation counts"
    )
    return {text: "not used"}, kept


def logged_again(rows: list[Any]) -> dict[str, str]:
    """Steps with two sets of figures: a restart, or two runs."""
    again = set()
    for i, (step, train, evals) in enumerate(rows):
        for at, other_train, other_evals in rows[:i]:
            for a, b in ((train, other_train), (evals, other_evals)):
                both = [key for key in figures(a) if key in b]
                if at == step and any(a[key] != b[key] for key in both):
                    again.add(step)
    if not again:
        return {}
    steps = [step for step, _, _ in rows]
    turns = [i for i in range(1, len(steps)) if steps[i] < steps[i - 1]]
    for start, end in zip(turns, [*turns[1:], len(steps)], strict=True):
        before, within = steps[:start], steps[start:end]
        anew = min(within) <= max(min(before), max(within) / 10)
        anew &= sum(s in again for s in set(within)) > 1
        if anew and max(within) <= 2 * max(before):
            text = (
                f"the log holds two runs: {len(again)} steps from {min(again)} to {max(again)} have"
                " two sets of figures, and the later ones count"
            )
            return {text: "caps"}
    which = f"{len(again)} steps from {min(again)} to {max(again)} were"
    if len(again) == 1:
        which = f"step {min(again)} was"
    found = {f"{which} logged more than once: the last values count": "note"}
    if steps[-1] < max(steps):
        text = (
            f"the log ends at step {steps[-1]}: what it holds up to step {max(steps)} is from "
            "before a restart"
        )
        found[text] = "note"
    return found


def of_other_samples(rows: list[Any]) -> dict[str, str]:
    """Evaluations of another number of samples than most."""
    sizes = {
        step: values["runtime"] * values["samples_per_second"]
        for step, values in last_values(rows)[1].items()
        if "samples_per_second" in values
    }
    counts = collections.Counter(round(size) for size in sizes.values())
    if len(counts) < 2:
        return {}
    usual, n = counts.most_common(1)[0]
    if 2 * n <= len(sizes):
        span = f"from {min(counts):,} to {max(counts):,}"
        return {f"the evaluations are of different sets: {span} samples": "caps"}
    odd = [step for step in sorted(sizes) if round(sizes[step]) != usual]
    text = f"the evaluation at step {odd[-1]} is"
    if len(odd) > 1:
        text = f"{len(odd)} evaluations are of other sets: that at step {odd[-1]} is"
    return {f"{text} of {round(sizes[odd[-1]]):,} samples, most are of {usual:,}": "caps"}


def last_values(rows: list[Any]) -> tuple[dict[int, Any], dict[int, Any]]:
    """The last value of each key of each step, of train and of eval rows."""
    found: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
    for step, *both in rows:
        for rows_of, values in zip(found, both, strict=True):
            if values:
                rows_of.setdefault(step, {}).update(values)
    return found


def not_finite(values: tuple[dict[int, Any], dict[int, Any]]) -> dict[str, str]:
    """Infinite gradients of skipped steps, and average precisions that are not a number."""
    train, evals = values
    found = {}
    norms = [row["grad_norm"] for row in train.values() if not math.isfinite(row["grad_norm"])]
    if norms:
        kind = "not finite" if any(map(math.isnan, norms)) else "infinite"
        text = f"grad_norm is {kind} in {len(norms)} of {len(train)} train rows: "
        if len(norms) > 1 and len(norms) > len(train) / 10:
            found[f"{text}so many skipped steps make it another training"] = "caps"
        else:
            found[f"{text}a skipped half-precision step"] = "note"
    odd = [step for step, row in evals.items() if math.isnan(row.get("ap/person", 0.0))]
    if odd:
        more = f", nor are {len(odd) - 1} other values" if odd[1:] else ""
        text = f"eval_ap/person at step {odd[0]} is not finite{more}: nothing is decided by it"
        found[text] = "note"
    return found


def copied(run: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, str]:
    """The first of the earlier runs that agrees with this one wherever both have rows."""
    train, evals = used_values(run)
    for other in earlier:
        other_train, other_evals = used_values(other)
        common = [step for step in evals if step in other_evals]
        pairs = [(evals[s], other_evals[s]) for s in common]
        pairs += [(train[s], other_train[s]) for s in train if s in other_train]
        if not all(repr(a[k]) == repr(b[k]) for a, b in pairs for k in figures(a) if k in b):
            continue
        held = f"the log holds the values of {other['variant']} s{other['seed']}"
        if list(evals) != list(other_evals):
            name = f"{other['variant']} s{other['seed']}"
            held = f"the log agrees with that of {name} in the {len(common)} evaluations"
            held += " that both hold"
            if len(common) < 2:
                continue
        if other["variant"] == run["variant"]:
            return {f"{held}: they are one training, not two seeds": "caps"}
        return {f"{held}, as one training under two names": "note"}
    return {}


def used_values(run: dict[str, Any]) -> tuple[dict[int, Any], dict[int, Any]]:
    """The last train and eval values of each step, without evaluations that are not used."""
    train, evals = last_values(evaluated_again(repeats(run["rows"])[1])[1])
    return train, dict(sorted(evals.items()))
