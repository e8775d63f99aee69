"""Which fault of the loss's scale a run's train/eval ratios show, if any.

Three things move a sound ratio away from 1, and none may be taken for a fault. A train row is
noisy (one step or a few, 3 to 8 %): so medians are judged, and the bands widen with the noise that
a series shows. It lags while the loss falls (see `ratios.py`). And the model overfits: so the same
ratio is taken over an evaluation of train images where the log has one (`eval_train_subset/…`),
and a ratio that falls is judged more mildly than one that rises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordexp.analysis.audit.findings import FamilyRatios
from coordexp.analysis.audit.ratios import (
    CONSISTENT,
    FAMILIES,
    LAG,
    TERMS,
    eval_rise,
    overfit_ratio,
    share_of_loss,
)
from coordexp.storage.logs.log import Log

# The first of these that a family shows names the verdict of the run.
FAULTS = ("≈ 1/GAS", "≈ GAS", "drift", "inconsistent", "missing")

FACTOR_TOLERANCE = 1.25  # how near, as a factor, a median must be to 1/GAS or GAS to be named so
# Changes of the log ratio over the run that are no drift; overfitting makes it fall.
MILD_RISE, MILD_FALL = math.log(1.1), math.log(1.2)
# The audited train images may be that much easier or harder than the others.
SUBSET_TOLERANCE = math.log(1.25)
# A term below this share of the loss is accused of GAS or 1/GAS, never of drift or an odd level.
MATERIAL_SHARE = 0.05
MIN_FOR_DRIFT = 5  # pairs
TYPICAL_NOISE = 0.05  # of one train row, as a prior
PRIOR_PAIRS = 4  # how many pairs that prior is worth
MAD_TO_SD = 1.4826  # of a normal distribution
MEDIAN_SE = 1.2533  # SE of a median over that of a mean, of a normal distribution


@dataclass(frozen=True)
class Series:
    """Log ratios of one family from the step on that counts, summarised robustly.

    early: the median of the first third of all pairs, also of those that do not count.
    start, end: where a robust line through the pairs begins and ends.
    noise: SD of one pair about the line.
    level_se, change_se: of the median, and of end - start.
    """

    n: int
    median: float
    early: float
    start: float
    end: float
    noise: float
    level_se: float
    change_se: float

    @property
    def change(self) -> float:
        return self.end - self.start

    @property
    def moves(self) -> bool:
        """Whether the ratio changes more than mild overfitting and its own noise explain.

        The fewer pairs there are, the less is known of the noise, and the more is allowed.
        """
        mild = MILD_RISE if self.change > 0 else MILD_FALL
        allowed = mild + (2.5 + 5 / self.n) * self.change_se
        return self.n >= MIN_FOR_DRIFT and abs(self.change) > allowed


@dataclass(frozen=True)
class FamilyFinding:
    """What is wrong with one family (None: nothing), and the numbers that say so.

    overfit: the ratio is off, and the model is the reason, not the scale of the loss.
    """

    family: str
    fault: str | None
    why: str
    overfit: bool = False


def judge(log: Log, families: Mapping[str, FamilyRatios], gas: float | None) -> tuple[str, str]:
    """The verdict on a run's ratios, and its reason, which names the families that are off.

    Returns:
        "consistent", one of FAULTS ("inconsistent" is another factor than GAS), or
        "not identifiable": nothing is off, but without accumulation no fault of it could show.
    """
    found = [judge_family(log, family, ratios, gas) for family, ratios in families.items()]
    for fault in FAULTS:
        accused = [finding for finding in found if finding.fault == fault]
        if accused:
            return fault, accusation(accused, n_families=len(found))
    why = sound_reason(log, found)
    if gas is None or gas <= 1:
        unknown = f"without accumulation (GAS {gas or 'unknown'}) a fault of it cannot show"
        return "not identifiable", f"{why}; {unknown}"
    return "consistent", why


def accusation(accused: Sequence[FamilyFinding], n_families: int) -> str:
    """Which families show a fault, and the numbers of the first."""
    names = ", ".join(finding.family for finding in accused)
    if len(accused) == n_families > 1:
        names = "every loss family"
    what = "" if accused[0].fault == "missing" else "train/eval ratio "
    return f"{names}: {what}{accused[0].why}"


def sound_reason(log: Log, found: Sequence[FamilyFinding]) -> str:
    """The ratios of the main families; of a run that overfits, those that it moves."""
    overfit = [finding for finding in found if finding.overfit]
    if not overfit:
        main = [f"{f.family} {f.why}" for f in found if f.family in FAMILIES]
        return f"train/eval ratio: {'; '.join(main)}"
    ratio = overfit_ratio(log)
    numbers = f", eval loss {ratio:.2f} x that of train images at the end" if ratio else ""
    moved = "; ".join(f"{finding.family} {finding.why}" for finding in overfit)
    return f"the run overfits{numbers}; train/eval ratio: {moved}"


def judge_family(log: Log, family: str, ratios: FamilyRatios, gas: float | None) -> FamilyFinding:
    """What one family's ratios show, with overfitting told from a fault where the log allows it."""
    series = summarise([(pair.step, pair.ratio) for pair in ratios.pairs], ratios.from_step)
    if series is None:
        return FamilyFinding(
            family, "missing", "no eval row has a train row before it with this key"
        )
    fault, why = judge_series(series, gas)
    finding = FamilyFinding(family, fault, why)
    if fault is None or is_immaterial(log, family, fault):
        return replace(finding, fault=None)

    # A fault of the scale moves both ratios to the same side; overfitting moves only this one.
    over_train_images = [
        (pair.step, pair.subset_ratio) for pair in ratios.pairs if pair.subset_ratio is not None
    ]
    subset = summarise(over_train_images, ratios.from_step)
    if subset is not None:
        subset_fault, subset_why = judge_series(subset, gas, SUBSET_TOLERANCE)
        overfit = subset_fault is None or subset.median * series.median < 0
        return FamilyFinding(
            family,
            fault=None if overfit else subset_fault,
            why=f"{why}; over an evaluation of train images {subset_why}",
            overfit=overfit,
        )

    # Without such an evaluation: a ratio that falls while the eval value itself rises is overfit.
    falls = fault == "drift" and series.change < 0
    if falls and eval_rise(log, family) > max(math.log1p(LAG), -series.change / 5):
        return FamilyFinding(
            family, None, f"{why}, while the eval value itself rises", overfit=True
        )
    if falls or (fault == "inconsistent" and series.median < 0):
        why += (
            "; overfitting looks like this too, and the log has no evaluation of train images "
            "to tell"
        )
    return replace(finding, why=why)


def is_immaterial(log: Log, family: str, fault: str) -> bool:
    """Whether a small term shows a fault of which only a material one is accused."""
    mild = fault in ("drift", "inconsistent")
    return mild and family in TERMS and share_of_loss(log, family) < MATERIAL_SHARE


def summarise(points: Sequence[tuple[int, float]], start: int) -> Series | None:
    """Robust level, change and noise of a ratio; None where no point counts.

    The line is Theil's and Sen's (the median of pairwise slopes). The noise is the scaled MAD
    about it, with TYPICAL_NOISE as a prior: a handful of pairs says little of its own spread.

    Args:
        points: (step, ratio) in order of the steps.
        start: the first step that counts.
    """
    counted = [(step, ratio) for step, ratio in points if step >= start]
    if not counted:
        return None
    early = float(np.median(np.log([ratio for _, ratio in points[: max(2, len(points) // 3)]])))
    first, last = counted[0][0], counted[-1][0]
    # Progress from 0 at the first counted step to 1 at the last.
    u = (np.array([step for step, _ in counted]) - first) / max(last - first, 1)
    y = np.log([ratio for _, ratio in counted])
    i, j = np.triu_indices(len(y), 1)
    slope = float(np.median((y[j] - y[i]) / (u[j] - u[i]))) if len(i) else 0.0
    at_first = float(np.median(y - slope * u))
    spread = MAD_TO_SD * float(np.median(np.abs(y - at_first - slope * u)))
    # Variances pooled: PRIOR_PAIRS of the prior, and the pairs but for the line's two parameters.
    squares = PRIOR_PAIRS * TYPICAL_NOISE**2 + len(y) * spread**2
    noise = math.sqrt(squares / (PRIOR_PAIRS + max(len(y) - 2, 0)))
    change_se = math.inf
    if len(i):
        # Of a least-squares slope, and 5 % more for the robust one.
        change_se = 1.05 * noise / math.sqrt(((u - u.mean()) ** 2).sum())
    return Series(
        n=len(y),
        median=float(np.median(y)),
        early=early,
        start=at_first,
        end=at_first + slope,
        noise=noise,
        level_se=MEDIAN_SE * noise / math.sqrt(len(y)),
        change_se=change_se,
    )


def judge_series(
    series: Series, gas: float | None, tolerance: float = 0.0
) -> tuple[str | None, str]:
    """What is wrong with a series of ratios (None: nothing), and its numbers.

    Args:
        gas: micro-batches per optimizer step and process; None where it is unknown.
        tolerance: widens the band of the level, as a log ratio.
    """
    log_gas = math.log(gas) if gas and gas > 1 else math.inf
    level = f"median {math.exp(series.median):.3f}"
    moves, start = series.moves, series.start
    for label, factor in (("≈ 1/GAS", -log_gas), ("≈ GAS", log_gas)):
        near = min(math.log(FACTOR_TOLERANCE) + 2 * series.level_se, log_gas / 2)
        if abs(series.median - factor) > near:
            continue
        # A fault of the accumulation is there from the first step on, and stays.
        if abs(series.early - factor) > log_gas / 2:
            moves, start = True, series.early
        elif not moves or all(abs(x - factor) < log_gas / 3 for x in (series.start, series.end)):
            return label, f"{level}, and GAS is {gas:g}"
    if moves:
        path = f"moves from {math.exp(start):.2f} to {math.exp(series.end):.2f}"
        return "drift", f"{path} (noise of one pair {100 * series.noise:.0f} %)"
    slack = 3 * series.level_se + tolerance
    low, high = math.log(CONSISTENT[0]) - slack, math.log(CONSISTENT[1]) + slack
    if not low <= series.median <= high:
        return "inconsistent", f"{level}, outside {math.exp(low):.2f} … {math.exp(high):.2f}"
    return None, level
