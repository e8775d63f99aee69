"""Train loss over eval loss for each loss family: do both have the same scale?

Each eval row is paired with the nearest train row at or before its step, as in the check of the
note's section "Quantitative check". A train row averages the steps before it, so it lags while the
loss falls: only pairs after the fast initial fall of that family count. `faults.py` judges the
ratios.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from coordexp.analysis.audit.findings import FamilyRatios, RatioPair
from coordexp.metrics import COORD_TERMS
from coordexp.storage.logs.log import Log
from coordexp.storage.logs.number_rows import Row

COORD_LOSS = "coord_softce_w1"  # its terms are logged as coord_softce_w1/<term>
FAMILIES = ("loss", "base_ce/loss", f"{COORD_LOSS}/loss")
TERMS = ("text_ce/loss", *(f"{COORD_LOSS}/{term}" for term in COORD_TERMS))  # parts of FAMILIES
SWITCH = "coord_diag/enabled"  # 1 where coordinate terms are on, 0 where they are off
SUBSET = "train_subset/"  # key prefix of an evaluation of train images

CONSISTENT = (0.9, 1.1)  # band of the median ratio of a correct run, before noise widens it
# A train row lags if the eval value falls by more than this fraction within the row's window.
LAG = 0.05
# Logs keep four to six decimals. Where neither value is above this, the ratio is mostly rounding.
SMALLEST_LOGGED = 1e-4


def family_ratios(log: Log, family: str) -> FamilyRatios:
    """Every pair of a family, and the summary of those from `from_step` on."""
    trained = sorted(step for step, row in log.train.items() if family in row)
    pairs: list[RatioPair] = []
    for step, evaluated in sorted(log.evals.items()):
        n_before = bisect_right(trained, step)
        if n_before == 0:
            continue
        train_step = trained[n_before - 1]
        train = log.train[train_step]
        ratio = train_over_eval(train, evaluated, family)
        if ratio is not None:
            subset_ratio = train_over_eval(train, evaluated, family, SUBSET)
            pairs.append(RatioPair(step, train_step, ratio, subset_ratio))
    start = from_step(log, family, pairs, trained)
    ratios = [pair.ratio for pair in pairs if pair.step >= start]
    if not ratios:
        return FamilyRatios(pairs, start, 0, None, None, None)
    median = float(np.median(ratios))
    return FamilyRatios(pairs, start, len(ratios), median, min(ratios), max(ratios))


def train_over_eval(train: Row, evaluated: Row, family: str, prefix: str = "") -> float | None:
    """The train value over the eval value of one key.

    None where a value is missing, not finite or not positive, or both are at most SMALLEST_LOGGED.
    """
    above, below = train.get(family, math.nan), evaluated.get(prefix + family, math.nan)
    if not (math.isfinite(above) and math.isfinite(below)):
        return None
    if min(above, below) <= 0 or max(above, below) <= SMALLEST_LOGGED:
        return None
    return float(above / below)


def from_step(log: Log, family: str, pairs: Sequence[RatioPair], trained: Sequence[int]) -> int:
    """The first step that counts: from it on the eval value falls by at most LAG in each window.

    The window of a train row reaches back to the previous train row, and at least half way to the
    previous evaluation. If the value never settles, the second half of the pairs counts.

    Args:
        pairs: of this family, by step.
        trained: the steps of the train rows that have it, in order.
    """
    if len(pairs) < 2:
        return pairs[0].step if pairs else 0
    steps = np.array([pair.step for pair in pairs], dtype=float)
    values = np.log([log.evals[pair.step][family] for pair in pairs])
    rows_before = [trained[max(bisect_right(trained, pair.train_step) - 2, 0)] for pair in pairs]
    half_gaps = np.diff(steps, prepend=2 * steps[0] - steps[1]) / 2
    window_starts = np.minimum(rows_before, steps - half_gaps)
    # The eval value at the start of each window; the first is extrapolated from the first two.
    at_start = np.interp(window_starts, steps, values)
    reach, spacing = steps[0] - window_starts[0], steps[1] - steps[0]
    at_start[0] = values[0] + (values[0] - values[1]) * reach / spacing
    lagging = np.flatnonzero(at_start - values > math.log1p(LAG))
    if not len(lagging):
        return int(steps[0])
    return int(steps[min(lagging[-1] + 1, len(pairs) // 2)])


def share_of_loss(log: Log, family: str) -> float:
    """A term's median share of the eval loss."""
    shares = [
        row[family] / row["loss"] for row in log.evals.values() if family in row and row.get("loss")
    ]
    return float(np.median(shares)) if shares else 0.0


def eval_rise(log: Log, family: str) -> float:
    """The rise of the eval value from its lowest level to the median of its last third (log ratio).

    The lowest level is the minimum of running medians over three evaluations. 0 with fewer than six
    evaluations.
    """
    values = [row[family] for _, row in sorted(log.evals.items()) if row.get(family, 0.0) > 0]
    if len(values) < 6:
        return 0.0
    levels = [float(np.median(values[i : i + 3])) for i in range(len(values) - 2)]
    last = float(np.median(values[-(len(values) // 3) :]))
    return math.log(last / min(levels))


def overfit_ratio(log: Log) -> float | None:
    """Validation loss over the loss of the audited train images, at the end of the run.

    The median over the last third of the evaluations that have both losses; None without any.
    """
    both = [
        (row["loss"], row[SUBSET + "loss"])
        for _, row in sorted(log.evals.items())
        if row.get("loss", 0.0) > 0 and row.get(SUBSET + "loss", 0.0) > 0
    ]
    if not both:
        return None
    last_third = both[-max(1, len(both) // 3) :]
    return float(np.median([loss / subset for loss, subset in last_third]))
