"""Checks of one log by itself: are rows missing, are values finite, do losses equal their sums?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise

from coordexp.analysis.audit.findings import Check
from coordexp.analysis.audit.ratios import COORD_LOSS, SWITCH, TERMS
from coordexp.metrics import BESIDE, COORD_TERMS, METRICS, REGISTRY, TEMPERATURE_PREFIX, log_key
from coordexp.storage.logs.dialects import ACCUMULATION_KEY
from coordexp.storage.logs.log import EVAL, Log, shown_key
from coordexp.storage.logs.number_rows import Row
from coordexp.study.inputs import RunData

SUM_TOLERANCE = 1e-3  # of a sum, relative
ROUNDING = 5e-5  # absolute, of each number: logs keep four to six decimals
COMPARED = (*METRICS.values(), *BESIDE.values())  # between variants
COMPARED_KEYS = {log_key(m.name, t) for m in COMPARED for t in TEMPERATURE_PREFIX}
MIN_FOR_CADENCE = 3  # evaluations
MOST_EVALS = 100_000  # of a run; more would follow from a broken step, such as 99999999999/720


def log_checks(run: RunData) -> list[Check]:
    """Checks of evaluations, finite and possible values, and sums within each row."""
    log, broken = run.log, not_finite(run.log)
    n_rows = len(log.train) + len(log.evals)
    finite = f"{broken[0]} is not finite" if broken else f"losses and metrics of {n_rows} rows"
    return [
        Check("has evaluations", bool(log.evals), f"{len(log.evals)} eval rows"),
        Check("finite", not broken, finite),
        in_range(log),
        *sum_checks(run),
    ]


def all_rows(log: Log) -> Iterator[Row]:
    return chain(log.train.values(), log.evals.values())


def not_finite(log: Log) -> list[str]:
    """`eval_loss at step 40` for every value that must be finite and is not."""
    return [
        f"{prefix}{shown_key(key)} at step {step}"
        for prefix, step, key in infinite_values(log)
        if must_be_finite(prefix, key)
    ]


def must_be_finite(prefix: str, key: str) -> bool:
    """Whether the audit or the comparison rests on this value.

    That is every loss and its terms, the accumulation, the switch of the coordinate terms, and the
    metrics that are compared. Metrics of a train row are not compared.
    """
    if key == "loss" or key.endswith("/loss") or key in (*TERMS, ACCUMULATION_KEY, SWITCH):
        return True
    return prefix == EVAL and key in COMPARED_KEYS


def infinite_values(log: Log) -> list[tuple[str, int, str]]:
    """(prefix, step, key) of every value that is infinite or not a number."""
    return [
        (prefix, step, key)
        for prefix, rows in (("", log.train), (EVAL, log.evals))
        for step, row in rows.items()
        for key, value in row.items()
        if not math.isfinite(value)
    ]


def in_range(log: Log) -> Check:
    """Whether every metric has values that it can have: an accuracy of 43 may be in percent.

    A value that is not finite has a check of its own.
    """
    broken = []
    for prefix, rows in (("", log.train), (EVAL, log.evals)):
        for step, row in rows.items():
            broken += [
                f"{prefix}{key} at step {step} is {row[key]:.6g}, not {m.range}"
                for m in REGISTRY.values()
                for key in {log_key(m.name, temperature) for temperature in TEMPERATURE_PREFIX}
                if math.isfinite(row.get(key, math.nan)) and not m.range.holds(row[key])
            ]
    more = f" ({len(broken) - 1} more)" if broken[1:] else ""
    return Check("in range", not broken, f"{broken[0]}{more}" if broken else "every metric")


# --- rows that are missing ---


def missing_rows(log: Log, families: Iterable[str]) -> str:
    """A sentence on evaluations that the log's own cadence expects, and on missing families.

    A family is missing if some eval rows have it and others do not. "" if nothing is missing.
    """
    lines = []
    if steps := missing_evals(log):
        lines.append(f"no eval row at step {listed(steps)}")
    for family in families:
        lacking = [step for step, row in sorted(log.evals.items()) if family not in row]
        if 0 < len(lacking) < len(log.evals):
            lines.append(f"no {EVAL}{family} at step {listed(lacking)}")
    return "; ".join(lines)


def listed(steps: Sequence[int]) -> str:
    more = f" and {len(steps) - 8} more" if steps[8:] else ""
    return ", ".join(map(str, steps[:8])) + more


def missing_evals(log: Log) -> list[int]:
    """Steps at which the spacing of the eval rows expects one and the log has none.

    Steps before the first train row are not expected. The last evaluation of a run may follow at a
    shorter distance. An unfinished run need not have evaluated its last step yet. An evaluation
    that repeats another one, and is not used, is not missing. None are expected if there would be
    over MOST_EVALS: then the spacing is not that of evaluations.
    """
    there = log.evals.keys() | log.repeats
    steps = sorted(there)
    if len(steps) < MIN_FOR_CADENCE:
        return []
    regular = steps[:-1] if steps[-1] == log.max_steps else steps
    cadence = usual_gap(regular)
    first, last = min(log.train, default=steps[0]), max([*log.train, steps[-1]])
    finished = log.max_steps is None or last >= log.max_steps
    end = last + finished  # only a finished run must have an evaluation at its last step
    if end > MOST_EVALS * cadence:
        return []

    # If nearly all evaluations are at multiples of the cadence, every other multiple is missing.
    on_grid = sum(step % cadence == 0 for step in regular)
    if on_grid > 0.8 * len(regular):
        expected = range(cadence, end, cadence)
        return [step for step in expected if step >= first and step not in there]

    # The steps are not multiples of one cadence (such as one evaluation per half epoch): count how
    # many evaluations fit into each gap.
    missing = []
    for before, after in pairwise(steps):
        n_gaps = round((after - before) / cadence)
        missing += [before + i * cadence for i in range(1, n_gaps)]
    return [*missing, *range(steps[-1] + cadence, end, cadence)]


def usual_gap(steps: Sequence[int]) -> int:
    """The usual distance between evaluations.

    The smallest gap that occurs more than once and makes up over a fifth of all gaps: a single
    short gap after a restart does not count. If no gap qualifies, the smallest one.
    """
    gaps = Counter(after - before for before, after in pairwise(steps))
    repeated = [gap for gap, count in gaps.items() if count > max(1, gaps.total() / 5)]
    return min(repeated or gaps)


# --- sums ---


def sum_checks(run: RunData) -> list[Check]:
    """Check that loss = base CE + coordinate loss, and coordinate loss = sum of its terms.

    Without a coordinate loss, the loss must equal the base CE.
    """
    log, coord_loss = run.log, f"{COORD_LOSS}/loss"
    checks = []
    if any("base_ce/loss" in row for row in all_rows(log)):
        parts = ["base_ce/loss"]
        if any(row.get(coord_loss) for row in all_rows(log)):
            parts.append(coord_loss)
        checks.append(sum_check("loss adds up", run, "loss", parts))
    keys = [f"{COORD_LOSS}/{term}" for term in COORD_TERMS]
    terms = [key for key in keys if any(key in row for row in all_rows(log))]
    if len(terms) > 1:
        checks.append(sum_check("coordinate terms add up", run, coord_loss, terms))
    return checks


def sum_check(name: str, run: RunData, total: str, parts: Sequence[str]) -> Check:
    """Whether a total is the sum of its parts in every row.

    A log without a manifest may come from a program that computes the values differently. Such a
    log does not fail the check, in two cases:

    - The sum differs in every eval row: the terms are defined differently.
    - Only train rows differ (more than five), and the parts are too high in 20 to 80 % of them: the
      total averages a window of steps and its parts do not.
    """
    trained = breaches(run.log.train, total, parts)
    evaluated = breaches(run.log.evals, total, parts)
    if not trained and not evaluated:
        return Check(name, True, f"{total} = {' + '.join(parts)}")

    if evaluated:
        step = min(evaluated)
        prefix, row = EVAL, run.log.evals[step]
    else:
        step = min(trained)
        prefix, row = "", run.log.train[step]
    summed = sum(row[part] for part in parts)
    detail = f"{prefix}{total} at step {step} is {row[total]:.6g}, its parts sum to {summed:.6g}"
    if more := len(trained) + len(evaluated) - 1:
        detail += f" ({more} more rows like it)"

    other_terms = 0 < len(evaluated) == len(run.log.evals)
    above = sum(error > 0 for error in trained.values())
    other_window = not evaluated and len(trained) > 5 and 0.2 < above / len(trained) < 0.8
    if run.manifest is None and (other_terms or other_window):
        return Check(name, None, f"{detail}: this log accounts for them otherwise")
    return Check(name, False, detail)


def breaches(rows: Mapping[int, Row], total: str, parts: Sequence[str]) -> dict[int, float]:
    """The sum of the parts minus the total, at the steps where it exceeds rounding errors."""
    rounding = ROUNDING * (1 + len(parts))
    errors = {}
    for step, row in rows.items():
        if {total, *parts} <= row.keys():
            error = sum(row[part] for part in parts) - row[total]
            if abs(error) > SUM_TOLERANCE * abs(row[total]) + rounding:
                errors[step] = error
    return errors
