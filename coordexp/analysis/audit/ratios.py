"""Train over eval, family by family, and the verdict on them: is the training loss on the scale of the evaluation's?

Each eval row is paired with the nearest preceding train row (note, section "Quantitative check"). Three things move
a sound ratio away from 1, and none may be taken for a fault. A train row is noisy (one step or a few, 3 to 8 %): so
medians, and bands that widen with the noise a series shows. It looks back, and lags while the loss falls: so only
pairs after that family's collapse count. And the model overfits: so the same ratio is taken over an evaluation of
train images where the log has one (`eval_train_subset/…`), and a ratio that falls is judged more mildly than one that rises.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.analysis.audit.findings import FamilyRatios, RatioPair
from coordexp.metrics import COORD_TERMS
from coordexp.storage.logs.log import Log, Row

FAMILIES = ("loss", "base_ce/loss", "coord_softce_w1/loss")
TERMS = (
    "text_ce/loss",
    *(f"coord_softce_w1/{term}" for term in COORD_TERMS),
)  # parts of the families
SUBSET = "train_subset/"

CONSISTENT = (0.9, 1.1)  # where a sound family's median ratio lies, but for its own noise
FACTOR_TOLERANCE = 1.25  # how near, as a factor, to 1/GAS or GAS a median must be to be named so
RISE, FALL = (
    math.log(1.1),
    math.log(1.2),
)  # of the ratio over a run that are no drift; overfitting makes it fall
SUBSET_TOLERANCE = math.log(
    1.25
)  # the audited train images may be that much easier or harder than the others
MATERIAL = (
    0.05  # of the loss: a smaller term is accused of GAS or 1/GAS, never of drift or an odd level
)
LAG = 0.05  # relative: how far the eval value may fall over a train row's window for the pair to count
MIN_FOR_DRIFT = 5  # pairs
TYPICAL_NOISE, WORTH = 0.05, 4  # of one train row, and how many pairs that prior is worth

FAULTS = (
    "≈ 1/GAS",
    "≈ GAS",
    "drift",
    "inconsistent",
    "missing",
)  # the first that a family shows names the verdict


@dataclass(frozen=True)
class Series:
    """Log ratios of one family, summed up. `start` and `end` are those of a robust line through the pairs that count."""

    n: int
    median: float
    early: float  # median of the first third of all pairs, also those that do not count
    start: float
    end: float
    noise: float  # SD of one pair about the line
    level_se: float
    change_se: float

    @property
    def change(self) -> float:
        return self.end - self.start

    @property
    def moves(self) -> bool:
        """Whether the ratio changes over the run by more than mild overfitting and its noise, guessed from few pairs, explain."""
        allowed = RISE if self.change > 0 else FALL
        return (
            self.n >= MIN_FOR_DRIFT
            and abs(self.change) > allowed + (2.5 + 5 / self.n) * self.change_se
        )


@dataclass(frozen=True)
class Judged:
    """The verdict on one family (None: nothing against it), and the numbers that say so."""

    family: str
    fault: str | None
    why: str
    overfit: bool = False  # the ratio is off, and the model, not the scale, is why


def family_ratios(log: Log, family: str) -> FamilyRatios:
    """Every pair of a family, and the summary of those from `from_step` on."""
    trained = sorted(step for step, row in log.train.items() if family in row)
    pairs: list[RatioPair] = []
    for step, row in sorted(log.evals.items()):
        before = bisect_right(trained, step)
        train = log.train[trained[before - 1]] if before else {}
        if (ratio := _ratio(train, row, family)) is not None:
            subset = _ratio(train, row, family, SUBSET)
            pairs.append(RatioPair(step, trained[before - 1], ratio, subset))
    start = from_step(log, family, pairs, trained)
    ratios = [pair.ratio for pair in pairs if pair.step >= start]
    if not ratios:
        return FamilyRatios(pairs, start, 0, None, None, None)
    return FamilyRatios(
        pairs, start, len(ratios), float(np.median(ratios)), min(ratios), max(ratios)
    )


def _ratio(train: Row, evaluated: Row, family: str, prefix: str = "") -> float | None:
    """None where either is missing, not finite or not positive, or rounding has left nothing of it."""
    a, b = train.get(family, math.nan), evaluated.get(prefix + family, math.nan)
    return (
        float(a / b)
        if math.isfinite(a) and math.isfinite(b) and min(a, b) > 0 and max(a, b) > 1e-4
        else None
    )


def from_step(log: Log, family: str, pairs: Sequence[RatioPair], trained: Sequence[int]) -> int:
    """The first step that counts: from there on the eval value falls by less than LAG over a train row's window.

    A window reaches back to the train row before, and at least half way to the evaluation before. Where a value never
    settles, the second half of the run counts.
    """
    if len(pairs) < 2:
        return pairs[0].step if pairs else 0
    steps = np.array([pair.step for pair in pairs], dtype=float)
    values = np.log([log.evals[pair.step][family] for pair in pairs])
    rows_before = [trained[max(bisect_right(trained, pair.train_step) - 2, 0)] for pair in pairs]
    window_starts = np.minimum(
        rows_before, steps - np.diff(steps, prepend=2 * steps[0] - steps[1]) / 2
    )
    at_start = np.interp(window_starts, steps, values)
    at_start[0] = values[0] + (values[0] - values[1]) * (steps[0] - window_starts[0]) / (
        steps[1] - steps[0]
    )
    lagging = np.flatnonzero(at_start - values > math.log1p(LAG))
    return int(steps[min(lagging[-1] + 1, len(pairs) // 2)] if len(lagging) else steps[0])


def summarise(points: Sequence[tuple[int, float]], start: int) -> Series | None:
    """Robust level, change and noise of (step, ratio) from step `start` on; None where none counts.

    The line is Theil's and Sen's (the median of pairwise slopes). The noise is the scaled MAD about it, with TYPICAL_NOISE
    as a prior, because a handful of pairs says little about its own spread.
    """
    counted = [(step, ratio) for step, ratio in points if step >= start]
    if not counted:
        return None
    early = float(np.median(np.log([ratio for _, ratio in points[: max(2, len(points) // 3)]])))
    y = np.log([ratio for _, ratio in counted])
    first, last = counted[0][0], counted[-1][0]
    u = (np.array([step for step, _ in counted]) - first) / max(last - first, 1)
    i, j = np.triu_indices(len(y), 1)
    slope = float(np.median((y[j] - y[i]) / (u[j] - u[i]))) if len(i) else 0.0
    at_first = float(np.median(y - slope * u))
    spread = 1.4826 * float(np.median(np.abs(y - at_first - slope * u)))
    noise = math.sqrt(
        (WORTH * TYPICAL_NOISE**2 + len(y) * spread**2) / (WORTH + max(len(y) - 2, 0))
    )
    level_se = 1.2533 * noise / math.sqrt(len(y))  # of a median
    change_se = 1.05 * noise / math.sqrt(((u - u.mean()) ** 2).sum()) if len(i) else math.inf
    return Series(
        len(y), float(np.median(y)), early, at_first, at_first + slope, noise, level_se, change_se
    )


def judge_series(
    series: Series, gas: float | None, tolerance: float = 0.0
) -> tuple[str | None, str]:
    """What is wrong with a series of ratios (None: nothing), and its numbers. `tolerance` widens the band of the level."""
    log_gas = math.log(gas) if gas and gas > 1 else math.inf
    moves, start = series.moves, series.start
    level = f"median {math.exp(series.median):.3f}"
    for label, factor in (("≈ 1/GAS", -log_gas), ("≈ GAS", log_gas)):
        near = min(math.log(FACTOR_TOLERANCE) + 2 * series.level_se, log_gas / 2)
        if abs(series.median - factor) > near:
            continue
        if (
            abs(series.early - factor) > log_gas / 2
        ):  # a fault of the accumulation is there from the first step
            moves, start = True, series.early
        elif not moves or all(abs(x - factor) < log_gas / 3 for x in (series.start, series.end)):
            return label, f"{level}, and GAS is {gas:g}"
    if moves:
        said = f"moves from {math.exp(start):.2f} to {math.exp(series.end):.2f}"
        return "drift", f"{said} (noise of one pair {100 * series.noise:.0f} %)"
    slack = 3 * series.level_se + tolerance
    low, high = math.log(CONSISTENT[0]) - slack, math.log(CONSISTENT[1]) + slack
    if not low <= series.median <= high:
        return "inconsistent", f"{level}, outside {math.exp(low):.2f} … {math.exp(high):.2f}"
    return None, level


def judge_family(log: Log, family: str, found: FamilyRatios, gas: float | None) -> Judged:
    """The verdict on one family's pairs (`family_ratios`), overfitting told from a fault where the log allows it."""
    series = summarise([(pair.step, pair.ratio) for pair in found.pairs], found.from_step)
    if series is None:
        return Judged(family, "missing", "no eval row has a train row before it with this key")
    fault, why = judge_series(series, gas)
    immaterial = (
        family in TERMS
        and share_of_loss(log, family) < MATERIAL
        and fault in ("drift", "inconsistent")
    )
    if fault is None or immaterial:
        return Judged(family, None, why)
    over_train_images = [
        (pair.step, pair.subset_ratio) for pair in found.pairs if pair.subset_ratio is not None
    ]
    subset = summarise(over_train_images, found.from_step)
    if subset is not None:
        fault, over_subset = judge_series(subset, gas, SUBSET_TOLERANCE)
        overfit = (
            fault is None or subset.median * series.median < 0
        )  # a fault of the scale moves both alike
        why += f"; over an evaluation of train images {over_subset}"
        return Judged(family, None if overfit else fault, why, overfit)
    if (
        fault == "drift"
        and series.change < 0
        and eval_rise(log, family) > max(math.log1p(LAG), -series.change / 5)
    ):
        return Judged(family, None, f"{why}, while the eval value itself rises", overfit=True)
    if (fault == "drift" and series.change < 0) or (fault == "inconsistent" and series.median < 0):
        why += "; overfitting looks like this too, and the log has no evaluation of train images to tell"
    return Judged(family, fault, why)


def share_of_loss(log: Log, family: str) -> float:
    """A term's median share of the eval loss."""
    shares = [
        row[family] / row["loss"] for row in log.evals.values() if family in row and row.get("loss")
    ]
    return float(np.median(shares)) if shares else 0.0


def eval_rise(log: Log, family: str) -> float:
    """How far the eval value has risen from its lowest level to its last third, log ratio (running medians of three)."""
    values = [row[family] for _, row in sorted(log.evals.items()) if row.get(family, 0.0) > 0]
    if len(values) < 6:
        return 0.0
    levels = [float(np.median(values[i : i + 3])) for i in range(len(values) - 2)]
    return math.log(float(np.median(values[-(len(values) // 3) :])) / min(levels))


def overfit_ratio(log: Log) -> float | None:
    """Eval loss over the loss of the audited train images: median over the last third of the evals that have both."""
    rows = [
        row
        for _, row in sorted(log.evals.items())
        if row.get("loss", 0.0) > 0 and row.get(SUBSET + "loss", 0.0) > 0
    ]
    ratios = [row["loss"] / row[SUBSET + "loss"] for row in rows[-max(1, len(rows) // 3) :]]
    return float(np.median(ratios)) if ratios else None


def judge(log: Log, families: dict[str, FamilyRatios], gas: float | None) -> tuple[str, str]:
    """The verdict on a run's ratios ({family: `family_ratios`}), and its reason, which names the families that are off.

    "consistent", one of FAULTS ("inconsistent" is another factor than GAS), or "not identifiable": nothing is off, but
    without accumulation no fault of it could show.
    """
    judged = [judge_family(log, family, found, gas) for family, found in families.items()]
    for fault in FAULTS:
        accused = [j for j in judged if j.fault == fault]
        if accused:
            names = (
                "every loss family"
                if len(accused) == len(judged) > 1
                else ", ".join(j.family for j in accused)
            )
            return (
                fault,
                f"{names}: {'' if fault == 'missing' else 'train/eval ratio '}{accused[0].why}",
            )
    why = "train/eval ratio: " + "; ".join(
        f"{j.family} {j.why}" for j in judged if j.family in FAMILIES
    )
    if any(j.overfit for j in judged):
        ratio = overfit_ratio(log)
        numbers = f", eval loss {ratio:.2f} x that of train images at the end" if ratio else ""
        why = f"the run overfits{numbers}; train/eval ratio: " + "; ".join(
            f"{j.family} {j.why}" for j in judged if j.overfit
        )
    if gas is None or gas <= 1:
        return (
            "not identifiable",
            f"{why}; without accumulation (GAS {gas or 'unknown'}) a fault of it cannot show",
        )
    return "consistent", why
