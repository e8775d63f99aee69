"""What is doubtful about the rows of a log, and what follows from it.

- An evaluation that repeats an earlier one digit for digit. Hugging Face's Trainer loads the best
  checkpoint at the end of a training; an evaluation after that is logged under the last step, and
  belongs to an earlier one (transformers issue 12741). It is not used.
- An evaluation that follows another one of its step, without training between, and has other
  figures: it is of other weights (the best checkpoint, on another device or in other batches) or
  of other data (a test set). The first one counts.
- Steps that were logged again with other figures, by a restart or by a second run. The last count.
- Steps beyond the planned number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from coordexp.storage.logs.log import Log, differ, figures, is_figure
from coordexp.storage.logs.number_rows import Row

# An evaluation repeats another one if both agree in all figures to so many digits beyond those in
# which neighbouring evaluations differ. With each digit a coincidence is ten times less likely, so
# that one is not to be expected in a log of hundreds of evaluations.
TELLING_DIGITS = 5.0
EARLY = 0.1  # share of the steps of a pass within which it begins anew
MOST_ROUNDED = 0.05  # the largest rounding error that is looked for

Evaluation = tuple[int, Row]  # step and figures


def examine(log: Log) -> None:
    """Find the doubts of a log whose rows were all added, and take out what is not used."""
    drop_repeats(log)
    doubt_restarts(log)
    doubt_steps(log)


# --- evaluations that repeat an earlier one ---


def drop_repeats(log: Log) -> None:
    """Take out evaluations of an earlier checkpoint that stand under a later step.

    Two places are looked at: a step that was evaluated more than once, and the last step, which may
    have no evaluation of its own. Where an evaluation is equal but the log cannot tell a repeat
    from a run that stands still, it stays, with a note.
    """
    earlier: list[Evaluation] = []
    again: list[int] = []
    last = max(log.evals, default=None)
    for step in sorted(log.evals):
        # The first evaluation of a step is its own: training had not ended when it was logged.
        versions = versions_at(log, step)
        kept = versions[:1]
        texts = []
        for number, version in enumerate(versions[1:], start=1):
            source = repeated(version, earlier)
            if source is not None and tells(log, version, source[1]):
                texts.append(repeat_text(step, version, source))
            elif evaluated_again(log, step, number, kept[-1]):
                again.append(step)
            else:
                kept.append(version)
        for text in dict.fromkeys(texts):
            log.doubt(text, "not used")
        if len(kept) < len(versions):
            keep_versions(log, step, kept)
        elif step == last and len(versions) == 1:
            settle_last(log, step, earlier)
        earlier += [(step, version) for version in kept]
    if again:
        log.doubt(
            f"{counted_steps(again)} evaluated again with other figures, without training between, "
            "as of other weights or other data: the first evaluation counts",
            "not used",
        )


def counted_steps(steps: Collection[int]) -> str:
    """`step 40 was`, or `3 steps from 40 to 120 were`."""
    distinct = set(steps)
    if len(distinct) == 1:
        return f"step {min(distinct)} was"
    return f"{len(distinct)} steps from {min(distinct)} to {max(distinct)} were"


def evaluated_again(log: Log, step: int, number: int, before: Row) -> bool:
    """Whether this version of a step has other figures than the one before, without a restart.

    A restart goes back to an earlier step, or (where rows were sorted) logs the training again.
    """
    version = log.written[step][number]
    if not any(differ(before[key], version[key]) for key in figures(before, version)):
        return False
    first_pass, this_pass = log.written_in[step][number - 1 : number + 1]
    return first_pass == this_pass and step not in log.sorted_restarts


def settle_last(log: Log, step: int, earlier: Sequence[Evaluation]) -> None:
    """If the only evaluation of the last step repeats another: leave it out, or note why not."""
    row = log.evals[step]
    source = repeated(row, earlier)
    if source is None:
        return
    if tells(log, row, source[1]) and not may_stand_still(step, source, earlier):
        log.doubt(repeat_text(step, row, source), "not used")
        log.repeats.add(step)
        del log.evals[step]
    else:
        log.doubt(
            f"the evaluations at steps {source[0]} and {step} are equal (the run stands still, or "
            "one checkpoint was evaluated twice): both are used"
        )


def may_stand_still(step: int, source: Evaluation, earlier: Sequence[Evaluation]) -> bool:
    """Whether the weights may be those of the evaluation just before, as at a learning rate of 0.

    They may if that one repeats its predecessor too, or if the last step was due for an evaluation:
    one of a checkpoint that is loaded at the end would stand beside the step's own.
    """
    if source is not earlier[-1]:
        return False
    steps = sorted({at for at, _ in earlier})
    due = len(steps) > 1 and step - steps[-1] == steps[-1] - steps[-2]
    return due or repeated(source[1], earlier[:-1]) is not None


def keep_versions(log: Log, step: int, kept: list[Row]) -> None:
    """Make the eval row of a step from these evaluations alone: the last value of a key counts."""
    row: Row = {}
    for version in kept:
        row |= version
    log.evals[step] = row
    # What was taken out is no restart.
    if not any(differ(a[key], b[key]) for a, b in pairwise(kept) for key in figures(a, b)):
        log.rewritten.discard(step)


def versions_at(log: Log, step: int) -> list[Row]:
    """The evaluations of a step as they were logged."""
    return log.written.get(step, [log.evals[step]])


def repeated(row: Row, earlier: Sequence[Evaluation]) -> Evaluation | None:
    """The latest of the earlier evaluations that this one repeats."""
    return next((found for found in reversed(earlier) if equal(found[1], row)), None)


def equal(first: Row, second: Row) -> bool:
    """Whether two evaluations agree in every figure that both have, and all of these are finite.

    The second may be rounded.
    """
    shared = False
    for key, value in second.items():
        if key not in first or not is_figure(key):
            continue
        shared = True
        if not math.isfinite(value) or not (first[key] == value or is_rounded(first[key], value)):
            return False
    return shared


def is_rounded(value: float, rounded: float) -> bool:
    if not abs(value - rounded) < MOST_ROUNDED:
        return False
    n = decimals(rounded)
    return n < decimals(value) and round(value, n) == rounded


def tells(log: Log, row: Row, other: Row) -> bool:
    """Whether the agreement of two equal evaluations is too close for a coincidence.

    For each figure: how many digits both have beyond the usual step between neighbouring
    evaluations. A figure that usually stays as it is says nothing.
    """
    every = [version for at in sorted(log.evals) for version in versions_at(log, at)]
    digits = 0.0
    for key in figures(other, row):
        series = [values[key] for values in every if math.isfinite(values.get(key, math.nan))]
        usual_step = float(np.median(np.abs(np.diff(series)))) if len(series) > 1 else 0.0
        if usual_step > 0:
            resolution = min(decimals(row[key]), decimals(other[key]))
            digits += max(0.0, math.log10(usual_step) + resolution)
    return digits >= TELLING_DIGITS


@lru_cache(maxsize=10_000)
def decimals(value: float) -> int:
    """Decimals of a number as it was written: TensorBoard and torch give float32 values."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    exact = single if float(single) == value else np.float64(value)
    return len(np.format_float_positional(exact, trim="-").partition(".")[2])


def repeat_text(step: int, row: Row, source: Evaluation) -> str:
    exact = all(row[key] == source[1][key] for key in figures(source[1], row))
    return (
        f"an evaluation at step {step} repeats that of step {source[0]} "
        f"{'digit for digit' if exact else 'but for rounding'}, as where the best checkpoint is "
        "loaded at the end: it is not used"
    )


# --- steps that were logged again ---


def doubt_restarts(log: Log) -> None:
    """Doubt steps that a restart, or another run, logged again with other figures."""
    if not log.rewritten:
        return
    if of_two_runs(log):
        log.doubt(
            f"the log holds two runs: {len(log.rewritten)} steps from {min(log.rewritten)} to "
            f"{max(log.rewritten)} have two sets of figures, and the later ones count",
            "caps",
        )
        return
    log.doubt(f"{counted_steps(log.rewritten)} logged more than once: the last values count")
    newest = max([*log.train, *log.evals])
    if log.last_step < newest:
        log.doubt(
            f"the log ends at step {log.last_step}: "
            f"what it holds up to step {newest} is from before a restart"
        )


def of_two_runs(log: Log) -> bool:
    """Whether a pass through the steps begins anew after another one.

    A restart goes on from a checkpoint: it begins later. A run that was started anew after a false
    start soon gets beyond it, so that nothing of the false start is left. Two runs need not log at
    the same steps, so the first row of the second may lie a little later.
    """
    for i in range(1, len(log.passes)):
        lowest, highest = log.passes[i]
        first = min(low for low, _ in log.passes[:i])
        reached = max(high for _, high in log.passes[:i])
        again = sum(lowest <= step <= highest for step in log.rewritten)
        begins_anew = lowest <= max(first, EARLY * highest)
        if begins_anew and again > 1 and highest <= 2 * reached:
            return True
    return False


# --- steps beyond the planned number ---


def doubt_steps(log: Log) -> None:
    """Doubt steps beyond the planned number, as of micro-batches counted as steps."""
    last = max([*log.train, *log.evals, *log.repeats], default=0)
    if log.max_steps is not None and last > log.max_steps:
        log.doubt(
            f"step {last} lies beyond the planned {log.max_steps}: the log may count other steps "
            "than its plan",
            "caps",
        )
