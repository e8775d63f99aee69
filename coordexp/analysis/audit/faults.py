"""Which fault in the scale of the training loss a run's train/eval ratios show, if any.

A correct run also has ratios that differ from 1, for three reasons:

- Noise. A train row covers one step or a few and has a relative noise of 3 to 8 %. So the median
  ratio is judged, and its bands widen with the noise of the series.
- Lag. A train row lags while the loss falls; `ratios.py` excludes those pairs.
- Overfitting. If the log has an evaluation of train images (`eval_train_subset/…`), the ratio over
  that evaluation is judged too: overfitting does not move it. A falling ratio is allowed a larger
  change than a rising one, because overfitting makes the ratio fall.

The thresholds below are tested on simulated logs (tests/test_audit.py): at least 99 % of correct
runs are consistent, at least 99 % of runs with a factor GAS or 1/GAS are named so, and at least
95 % of runs with a drift by a factor of 1.6 to 3 are named "drift".
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

# By priority: the first fault in this list that any family shows is the verdict on the run.
FAULTS = ("≈ 1/GAS", "≈ GAS", "drift", "inconsistent", "missing")

# A median within this factor of 1/GAS or GAS is given that name; its standard error widens this.
FACTOR_TOLERANCE = 1.25
# Changes of the log ratio over the run that do not count as drift. A fall may be larger than a
# rise, because overfitting makes the ratio fall.
MILD_RISE, MILD_FALL = math.log(1.1), math.log(1.2)
# The audited train images may be easier or harder than the other train images by this factor.
SUBSET_TOLERANCE = math.log(1.25)
# "drift" and "inconsistent" are ignored for a term below this share of the loss: such a small term
# may overfit before the rest does. GAS and 1/GAS are reported for every term.
MATERIAL_SHARE = 0.05
MIN_FOR_DRIFT = 5  # pairs
# Prior for the noise of a series: the relative SD of one train row, and the number of pairs that
# the prior counts as.
TYPICAL_NOISE = 0.05
PRIOR_PAIRS = 4
# Constants of the normal distribution: SD / MAD, and the SE of a median / the SE of a mean.
MAD_TO_SD = 1.4826
MEDIAN_SE = 1.2533


@dataclass(frozen=True)
class Series:
    """Robust summary of the log ratios of one family, from the first step that counts.

    n, median: number and median of the pairs that count.
    early: median of the first third of all pairs, including pairs before the first step that
        counts.
    start, end: values of a robust line through the pairs at the first and the last of them.
    noise: SD of one pair about the line.
    level_se, change_se: standard errors of the median, and of end - start.
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
        """Whether the ratio changes by more than mild overfitting and noise explain."""
        mild = MILD_RISE if self.change > 0 else MILD_FALL
        # 2.5 standard errors with many pairs and 3.5 with five: with few pairs the noise itself is
        # poorly known.
        allowed = mild + (2.5 + 5 / self.n) * self.change_se
        return self.n >= MIN_FOR_DRIFT and abs(self.change) > allowed


@dataclass(frozen=True)
class FamilyFinding:
    """The fault that one family shows (None: no fault), and the numbers behind it.

    overfit: the ratio is off because the model overfits. The scale of the loss is correct.
    """

    family: str
    fault: str | None
    why: str
    overfit: bool = False


def judge(log: Log, families: Mapping[str, FamilyRatios], gas: float | None) -> tuple[str, str]:
    """The verdict on a run's ratios, and a reason that names the families with a fault.

    Returns:
        "consistent"; or one of FAULTS ("inconsistent": a factor other than GAS and 1/GAS); or
        "not identifiable": no fault was found, but GAS is 1 or unknown, so an error in the
        accumulation could not show.
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
    """The reason for a fault: the families that show it, and the numbers of the first of them."""
    names = ", ".join(finding.family for finding in accused)
    if len(accused) == n_families > 1:
        names = "every loss family"
    what = "" if accused[0].fault == "missing" else "train/eval ratio "
    return f"{names}: {what}{accused[0].why}"


def sound_reason(log: Log, found: Sequence[FamilyFinding]) -> str:
    """The reason for a verdict without a fault.

    It gives the ratios of the main families or, if the run overfits, of the families that
    overfitting has moved.
    """
    overfit = [finding for finding in found if finding.overfit]
    if not overfit:
        main = [f"{f.family} {f.why}" for f in found if f.family in FAMILIES]
        return f"train/eval ratio: {'; '.join(main)}"
    ratio = overfit_ratio(log)
    numbers = f", eval loss {ratio:.2f} x that of train images at the end" if ratio else ""
    moved = "; ".join(f"{finding.family} {finding.why}" for finding in overfit)
    return f"the run overfits{numbers}; train/eval ratio: {moved}"


def judge_family(log: Log, family: str, ratios: FamilyRatios, gas: float | None) -> FamilyFinding:
    """The fault that one family's ratios show; overfitting is separated where the log allows it."""
    series = summarise([(pair.step, pair.ratio) for pair in ratios.pairs], ratios.from_step)
    if series is None:
        return FamilyFinding(
            family, "missing", "no eval row has a train row before it with this key"
        )
    fault, why = judge_series(series, gas)
    finding = FamilyFinding(family, fault, why)
    if fault is None or is_immaterial(log, family, fault):
        return replace(finding, fault=None)

    # Compare with the ratio over train images. An error in the loss's scale moves both ratios to
    # the same side of 1. Overfitting moves only the ratio over validation images.
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

    # The log has no evaluation of train images. If the ratio falls and the eval value itself rises,
    # the cause is overfitting. The rise must exceed the lag tolerance and a fifth of the fall.
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
    """Whether to ignore a fault: drift or another level in a term below MATERIAL_SHARE."""
    mild = fault in ("drift", "inconsistent")
    return mild and family in TERMS and share_of_loss(log, family) < MATERIAL_SHARE


def summarise(points: Sequence[tuple[int, float]], start: int) -> Series | None:
    """Robust level, change and noise of a ratio; None where no point counts.

    The line is the Theil-Sen estimate (median of pairwise slopes). The noise is the scaled MAD
    about the line, pooled with the prior TYPICAL_NOISE, because a few pairs estimate their own
    spread poorly.

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
    # Pool the variances. The prior has PRIOR_PAIRS degrees of freedom. The pairs have two fewer
    # than their number, because the line has two parameters.
    squares = PRIOR_PAIRS * TYPICAL_NOISE**2 + len(y) * spread**2
    noise = math.sqrt(squares / (PRIOR_PAIRS + max(len(y) - 2, 0)))
    change_se = math.inf
    if len(i):
        # The standard error of a least-squares slope, plus 5 % for the robust slope.
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
    """The fault that a series of ratios shows (None: no fault), and its numbers.

    All comparisons are between logarithms of ratios. The order is: a factor 1/GAS or GAS from the
    first step on, then a drift, then a median outside the band around CONSISTENT.

    Args:
        gas: micro-batches per optimizer step and process; None where it is unknown.
        tolerance: added on both sides of the band around CONSISTENT, as a log ratio.
    """
    # With GAS 1 or unknown, no median is near infinity, so neither GAS factor can be reported.
    log_gas = math.log(gas) if gas and gas > 1 else math.inf
    level = f"median {math.exp(series.median):.3f}"
    moves, start = series.moves, series.start
    for label, factor in (("≈ 1/GAS", -log_gas), ("≈ GAS", log_gas)):
        # The tolerance, plus two standard errors of the median. At most half of log GAS: beyond
        # that the median is nearer to 1 than to the factor.
        near = min(math.log(FACTOR_TOLERANCE) + 2 * series.level_se, log_gas / 2)
        if abs(series.median - factor) > near:
            continue
        # An accumulation error exists from the first step. If the early pairs are nearer to 1, the
        # ratio has moved to this factor later: a drift. A ratio that moves during the run is still
        # this factor if both ends of the line lie within a third of log GAS of it.
        if abs(series.early - factor) > log_gas / 2:
            moves, start = True, series.early
        elif not moves or all(abs(x - factor) < log_gas / 3 for x in (series.start, series.end)):
            return label, f"{level}, and GAS is {gas:g}"
    if moves:
        path = f"moves from {math.exp(start):.2f} to {math.exp(series.end):.2f}"
        return "drift", f"{path} (noise of one pair {100 * series.noise:.0f} %)"
    # Widen the band of a correct run by three standard errors of the median.
    slack = 3 * series.level_se + tolerance
    low, high = math.log(CONSISTENT[0]) - slack, math.log(CONSISTENT[1]) + slack
    if not low <= series.median <= high:
        return "inconsistent", f"{level}, outside {math.exp(low):.2f} … {math.exp(high):.2f}"
    return None, level
