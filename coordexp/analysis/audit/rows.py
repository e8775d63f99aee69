"""What the rows of one log say by themselves: finite, complete, adding up, and of the variant they are named after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from omegaconf import OmegaConf

from coordexp.analysis.audit.findings import Check
from coordexp.analysis.audit.ratios import COORD_TERMS
from coordexp.config.location import CONF_DIR
from coordexp.storage.logs.log import EVAL, Log, Row
from coordexp.study.inputs import RunData

COORDINATES = "coord_softce_w1"
TOLERANCE, ROUNDING = (
    1e-3,
    5e-5,
)  # of a sum, relative; and of each number, absolute: logs keep four to six decimals


def log_checks(run: RunData) -> list[Check]:
    """Evaluations, finite values, and the sums that hold inside every row."""
    broken, n_rows = not_finite(run.log), len(run.log.train) + len(run.log.evals)
    return [
        Check("has evaluations", bool(run.log.evals), f"{len(run.log.evals)} eval rows"),
        Check("finite", not broken, f"{broken[0]} is not finite" if broken else f"{n_rows} rows"),
        *row_sums(run),
    ]


def both(log: Log) -> list[Row]:
    return [*log.train.values(), *log.evals.values()]


def not_finite(log: Log) -> list[str]:
    """`eval_loss at step 40` for every value that is not finite."""
    rows = [("", *item) for item in log.train.items()] + [
        (EVAL, *item) for item in log.evals.items()
    ]
    return [
        f"{prefix}{key} at step {step}"
        for prefix, step, row in rows
        for key, value in row.items()
        if not math.isfinite(value)
    ]


# --- rows that are not there ---


def missing_rows(log: Log, families: Iterable[str]) -> str:
    """The evaluations that the log's own cadence expects, and the families that some eval rows lack; "" if there are none."""
    said = [f"no eval row at step {listed(steps)}"] if (steps := missing_evals(log)) else []
    for family in families:
        lacking = [step for step, row in sorted(log.evals.items()) if family not in row]
        if 0 < len(lacking) < len(log.evals):
            said.append(f"no {EVAL}{family} at step {listed(lacking)}")
    return "; ".join(said)


def listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if steps[8:] else "")


def missing_evals(log: Log) -> list[int]:
    """Steps without an eval row, by the spacing of those that are there, from the first train row on.

    The last evaluation of a run may stand closer, and one may be under way at the last step of a run that is not finished.
    """
    steps = sorted(log.evals)
    if len(steps) < 3:
        return []
    regular = steps[:-1] if steps[-1] == log.max_steps else steps
    gaps = Counter(after - before for before, after in pairwise(regular))
    common = [
        gap for gap, count in gaps.items() if count > max(1, gaps.total() / 5)
    ]  # one at a restart sets no cadence
    cadence = min(common or gaps)
    first, last = min(log.train, default=steps[0]), max([*log.train, steps[-1]])
    finished = log.max_steps is None or last >= log.max_steps
    if sum(step % cadence == 0 for step in regular) > 0.8 * len(regular):
        return [
            step
            for step in range(cadence, last + finished, cadence)
            if step >= first and step not in log.evals
        ]
    between = [
        before + i * cadence
        for before, after in pairwise(steps)
        for i in range(1, round((after - before) / cadence))
    ]  # each half of an epoch, say: by counting
    return [*between, *range(steps[-1] + cadence, last + finished, cadence)]


# --- sums ---


def row_sums(run: RunData) -> list[Check]:
    """loss = base CE + coordinate terms (without any: loss = base CE), and coordinate terms = the sum of theirs."""
    rows, total = both(run.log), f"{COORDINATES}/loss"
    terms = [
        f"{COORDINATES}/{term}"
        for term in COORD_TERMS
        if any(f"{COORDINATES}/{term}" in row for row in rows)
    ]
    parts = ["base_ce/loss", *([total] if any(row.get(total) for row in rows) else [])]
    checks = (
        [row_sum("loss adds up", run, "loss", parts)]
        if any("base_ce/loss" in row for row in rows)
        else []
    )
    return (
        [*checks, row_sum("coordinate terms add up", run, total, terms)]
        if len(terms) > 1
        else checks
    )


def row_sum(name: str, run: RunData, total: str, parts: Sequence[str]) -> Check:
    """Whether a total is the sum of its parts in every row.

    A bare log that plainly accounts for them otherwise is not accused: where no eval row keeps the sum its terms are
    defined in another way, and where only train rows break it, to both sides, the total averages a window and its parts
    do not.
    """
    trained, evaluated = (breaches(rows, total, parts) for rows in (run.log.train, run.log.evals))
    if not trained and not evaluated:
        return Check(name, True, f"{total} = {' + '.join(parts)}")
    prefix, step, rows = (
        (EVAL, min(evaluated), run.log.evals) if evaluated else ("", min(trained), run.log.train)
    )
    summed, more = sum(rows[step][part] for part in parts), len(trained) + len(evaluated) - 1
    detail = (
        f"{prefix}{total} at step {step} is {rows[step][total]:.6g}, its parts sum to {summed:.6g}"
    )
    detail += f" ({more} more rows like it)" if more else ""
    other_terms = 0 < len(evaluated) == len(run.log.evals)
    above = sum(error > 0 for error in trained.values())
    other_window = not evaluated and len(trained) > 5 and 0.2 < above / len(trained) < 0.8
    if run.manifest is None and (other_terms or other_window):
        return Check(name, None, f"{detail}: this log accounts for them otherwise")
    return Check(name, False, detail)


def breaches(rows: Mapping[int, Row], total: str, parts: Sequence[str]) -> dict[int, float]:
    """By how much the parts exceed the total, in the rows where it matters."""
    errors = {
        step: sum(row[p] for p in parts) - row[total]
        for step, row in rows.items()
        if {total, *parts} <= row.keys()
    }
    rounding = ROUNDING * (1 + len(parts))
    return {
        step: error
        for step, error in errors.items()
        if abs(error) > TOLERANCE * abs(rows[step][total]) + rounding
    }


# --- is the log of the variant it is named after? ---


def switch(log: Log) -> set[float]:
    """What the log says of the coordinate terms: 1 on, 0 off."""
    return {row["coord_diag/enabled"] for row in both(log) if "coord_diag/enabled" in row}


@cache
def shipped(variant: str) -> Mapping[str, Any] | None:
    """The objective of that name in conf/variant."""
    path = CONF_DIR / "variant" / f"{variant}.yaml"
    return OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else None  # type: ignore[return-value]


def declared(run: RunData) -> Mapping[str, Any] | None:
    """The objective the run was to have: from its configuration, else from conf/variant; None where neither knows."""
    return run.config.variant if run.config else shipped(run.variant)


def other_variant(run: RunData) -> str | None:
    """Why the log cannot be of the variant it is named after; None where it can, or where nobody can tell."""
    objective = declared(run)
    if objective is None:
        return None
    if shipped(run.variant) and objective["name"] != run.variant:
        return f"its configuration is that of {objective['name']}, not of {run.variant}"
    rows = both(run.log)
    found = {term for term in COORD_TERMS if any(row.get(f"{COORDINATES}/{term}") for row in rows)}
    has_terms = bool(found) or any(row.get(f"{COORDINATES}/loss") for row in rows)
    weighted = {term for term in COORD_TERMS if objective.get(term)}
    if not weighted:
        terms = ", ".join(sorted(found)) or "some"
        return (
            f"{run.variant} has no coordinate terms, the log has {terms}"
            if has_terms or 1.0 in switch(run.log)
            else None
        )
    if (not has_terms and (0.0 in switch(run.log) or is_joint(rows))) or (
        found and found != weighted
    ):
        return f"{run.variant} trains on {', '.join(sorted(weighted))}, the log has {', '.join(sorted(found)) or 'none of them'}"
    return None


def is_joint(rows: Iterable[Row]) -> bool:
    """Whether the loss is the base CE in every row that has both."""
    pairs = [
        (row["loss"], row["base_ce/loss"]) for row in rows if {"loss", "base_ce/loss"} <= row.keys()
    ]
    return bool(pairs) and all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs)
