"""How far a difference between two variants can be trusted.

Estimand: the difference between variants given base weights, data and hyper-parameters. A seed changes data order,
adapter initialisation and dropout; the images are a sample of the population that the validation set represents.

One or two seeds: a paired bootstrap over images, which does not see what another seed would have changed. Three seeds
or more: a t interval in which seeds and images are both random, and crossed. How often the intervals hold the truth is
measured by benchmarks/calibration.py and told in docs/calibration.md.

Shapes: S seeds, I images, C tokens, D resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import (
    chdtri,
    stdtr,
    stdtrit,
)  # scipy.stats says the same and takes half a second to import

from coordexp.metrics import Metric
from coordexp.storage.token_tables import TokenColumns

LEVEL = 0.95
DRAWS = 2000
WEIGHTS_SEED = 20260126
MAX_SEEDS = 1000

Numbers = float | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A difference (second - first) and how far it can be trusted."""

    difference: float
    low: float  # 95 % interval
    high: float
    se: float
    df: float | None  # degrees of freedom of the t interval; None for the bootstrap
    share_above_0: float  # of the resamples, or by the t distribution: P(second - first > 0)
    p_value: (
        float | None
    )  # two-sided, of difference = 0; None where the variance over seeds is unseen
    method: (
        str  # "paired bootstrap over images" | "linearised over images" | "crossed seeds x images"
    )
    seed_var: float | None  # of the difference over seeds, per one seed; None where it is unseen
    image_var: float  # of the difference over images, at these seeds
    interaction_var: (
        float | None
    )  # the part of seed_var that is noise of these images, per one seed
    n_images: int | None = None  # None where only resamples are known

    def negated(self) -> Estimate:
        """The estimate of first - second."""
        return replace(
            self,
            difference=-self.difference + 0.0,  # no -0.0
            low=-self.high,
            high=-self.low,
            share_above_0=1 - self.share_above_0,
        )


@lru_cache(maxsize=1)
def image_weights(n_images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image stands in each resample  # [D, I] uint16

    Multinomial, from a fixed seed, and the same for every table of `n_images`: that pairs the images over all variants.
    """
    rng = np.random.default_rng((WEIGHTS_SEED, n_images))
    weights = np.empty((draws, n_images), dtype=np.uint16)
    for draw in weights:
        draw[:] = np.bincount(rng.integers(0, n_images, n_images), minlength=n_images)
    weights.flags.writeable = False
    return weights


def bootstrap_draws(tokens: TokenColumns, m: Metric, weights: np.ndarray) -> np.ndarray:
    """The exact metric over the tokens of each resample  # [D, I] -> [D]"""
    n_images, values = len(tokens.images), tokens.values[m.name]
    if m.quantile is not None:
        return _quantile_draws(values, tokens.image_index, weights, m.quantile)
    per_image = [
        np.bincount(tokens.image_index, w, n_images) for w in (values, np.ones_like(values))
    ]
    sums, counts = _totals(weights, np.stack(per_image, 1)).T
    return sums / counts


def bootstrap_estimate(
    first_draws: np.ndarray, second_draws: np.ndarray, difference: float
) -> Estimate:
    """Percentile interval of second - first over images, each side averaged over the seeds given  # [S, D] or [D]"""
    draws = np.atleast_2d(second_draws).mean(0) - np.atleast_2d(first_draws).mean(0)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    share = float(np.mean(draws > 0) + np.mean(draws == 0) / 2)
    variance = float(draws.var(ddof=1))
    method = "paired bootstrap over images"
    return Estimate(
        difference,
        float(low),
        float(high),
        math.sqrt(variance),
        None,
        share,
        None,
        method,
        None,
        variance,
        None,
    )


def _totals(weights: np.ndarray, per_image: np.ndarray) -> np.ndarray:
    """weights @ per_image in float64, a block of resamples at a time  # [D, I], [I, …] -> [D, …]"""
    return np.concatenate(
        [weights[rows].astype(np.float64) @ per_image for rows in _blocks(*weights.shape)]
    )


def _blocks(n_rows: int, width: int, cells: int = 4_000_000) -> Iterator[slice]:
    """Slices of rows, each at most about `cells` cells: what bounds the memory."""
    step = max(1, cells // max(1, width))
    return (slice(first, first + step) for first in range(0, n_rows, step))


def _quantile_draws(
    values: np.ndarray, image_index: np.ndarray, weights: np.ndarray, q: float
) -> np.ndarray:
    """np.quantile(…, q), linear interpolation, of each resample written out token by token  # [C], [C], [D, I] -> [D]

    The resample's tokens up to a sorted token are a sum of weights. Only the tokens near the sample's own quantile are
    gone through; how far a resample's quantile can lie from it is known before. Resamples it lies beyond take them all.
    """
    order = np.argsort(values, kind="stable")
    values, image_index = values[order], image_index[order]
    n_images, n_tokens = weights.shape[1], len(values)

    def tokens_before(end: int) -> np.ndarray:
        """How many of each resample's tokens are among the first `end`  # [D]"""
        return _totals(weights, np.bincount(image_index[:end], minlength=n_images))

    position = q * (tokens_before(n_tokens) - 1)  # [D] in the sorted resample, from 0
    centre = int(q * (n_tokens - 1))
    reach = 64 + int(1.5 * np.abs(position - tokens_before(centre)).max())
    window = slice(max(0, centre - reach), min(n_tokens, centre + reach))
    found = _interpolate(
        values[window], image_index[window], weights, position - tokens_before(window.start)
    )
    if len(outside := np.flatnonzero(np.isnan(found))):
        found[outside] = _interpolate(values, image_index, weights[outside], position[outside])
    return found


def _interpolate(
    values: np.ndarray, image_index: np.ndarray, weights: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """The value at a fractional position of each sorted resample of sorted tokens; NaN where it lies outside  # -> [D]"""
    found = np.full(len(weights), np.nan)
    lower = np.floor(position).astype(np.int64)
    upper = np.ceil(position).astype(np.int64)
    for rows in _blocks(len(weights), len(values)):
        seen = weights[rows][:, image_index].cumsum(
            1, dtype=np.int32
        )  # [B, W] tokens of the resample up to here
        at_lower, at_upper = ((seen <= rank[rows, None]).sum(1) for rank in (lower, upper))
        inside = (lower[rows] >= 0) & (at_upper < len(values))
        at_lower, at_upper = at_lower[inside], at_upper[inside]
        share = (position[rows] - lower[rows])[inside]
        found[np.arange(len(weights))[rows][inside]] = values[at_lower] + share * (
            values[at_upper] - values[at_lower]
        )
    return found


def influence_estimate(values: np.ndarray, influence: np.ndarray) -> Estimate:
    """The bootstrap's interval without resampling, from the images' influence at these seeds  # [S], [S, I]

    The infinitesimal jackknife, of means and quantiles alike (Efron & Tibshirani, An Introduction to the Bootstrap, 22).
    """
    _, v_i, _ = (float(part) for part in variance_parts(values, influence))
    n_images = influence.shape[1]
    return _t_estimate(
        "linearised over images",
        float(np.mean(values)),
        v_i,
        n_images - 1.0,
        None,
        v_i,
        None,
        n_images,
    )


def crossed_estimate(differences: np.ndarray, influence: np.ndarray) -> Estimate:
    """A t interval for the mean difference, seeds and images both random, and crossed  # [S], [S, I]

    `differences` are those of the runs that share a seed, `influence` (second - first) is each image's on them.
    Without image variance it is the paired t test over seeds.

    Raises:
        ValueError: fewer than three seeds, or a value is not finite (a diverged seed fails its variant: no estimate).
    """
    n_seeds, n_images = influence.shape
    if n_seeds < 3 or not (np.isfinite(differences).all() and np.isfinite(influence).all()):
        raise ValueError("a crossed estimate needs three seeds or more, every one of them finite")
    v_s, v_i, v_si = (float(part) for part in variance_parts(differences, influence))
    variance, df = (float(part) for part in satterthwaite(n_seeds, n_images, v_s, v_i, v_si))
    return _t_estimate("crossed seeds x images", float(np.mean(differences)), variance, df,
                       v_s * n_seeds, v_i, v_si * n_seeds, n_images)  # fmt: skip


def _t_estimate(method: str, difference: float, variance: float, df: float, seed_var: float | None, image_var: float,
                interaction_var: float | None, n_images: int) -> Estimate:  # fmt: skip
    se = math.sqrt(variance)
    half = float(stdtrit(df, (1 + LEVEL) / 2)) * se
    t = difference / se if se else math.copysign(math.inf, difference) if difference else 0.0
    p_value = float(2 * stdtr(df, -abs(t))) if seed_var is not None else None
    return Estimate(difference, difference - half, difference + half, se, df, float(stdtr(df, t)), p_value, method,
                    seed_var, image_var, interaction_var, n_images)  # fmt: skip


def variance_parts(
    differences: np.ndarray, influence: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V_S, V_I, V_SI: the variance of the mean difference by seeds, by images, by both  # [..., S], [..., S, I] -> [...]

    With d_si = difference + a_s + b_i + c_si, V_S estimates var(a)/S + var(c)/SI, V_I var(b)/I + var(c)/SI and V_SI
    var(c)/SI: the mean squares of a two-way layout, with I times an image's influence in the place of d_si - d_s. That
    takes in unequal token counts, and quantiles. V_SI is centred on the images' means (the usual sum of all squares would,
    with few seeds, take much of V_S and V_I away again).
    """
    n_seeds, n_images = influence.shape[-2:]
    over_seeds = influence.mean(-2, keepdims=True)
    bessel = n_images / (n_images - 1)
    v_s = differences.var(-1, ddof=1) / n_seeds if n_seeds > 1 else np.zeros(differences.shape[:-1])
    v_i = (over_seeds**2).sum((-1, -2)) * bessel
    v_si = ((influence - over_seeds) ** 2).sum((-1, -2)) * bessel / max(n_seeds * (n_seeds - 1), 1)
    return v_s, v_i, v_si


def satterthwaite(
    n_seeds: Numbers, n_images: float, v_s: Numbers, v_i: Numbers, v_si: Numbers
) -> tuple[np.ndarray, np.ndarray]:
    """The variance V_S + V_I - V_SI of the mean difference, and its degrees of freedom; arguments broadcast.

    Two-way clustering (Cameron, Gelbach & Miller 2011; Owen 2007). In truth neither V_S nor V_I is below V_SI, so what V_SI
    leaves of either is never taken as negative; that keeps the variance above max(V_S, V_I). Degrees of freedom:
    Satterthwaite (1946), never below those of the smaller factor, with V_S at its median-unbiased value: of three seeds it
    falls short of its expectation 63 times in 100, and would give too many degrees of freedom just when it gives too
    little variance (coverage as low as 92 %, with this 93 %).
    """
    variance = np.maximum(v_s, v_si) + np.maximum(v_i - v_si, 0.0)
    typical = v_s * (n_seeds - 1) / chdtri(n_seeds - 1, 0.5)
    spread = (
        typical**2 / (n_seeds - 1)
        + v_i**2 / (n_images - 1)
        + v_si**2 / ((n_seeds - 1) * (n_images - 1))
    )
    total = np.maximum(typical, v_si) + np.maximum(v_i - v_si, 0.0)
    return variance, np.maximum(
        total**2 / np.where(spread > 0, spread, 1.0), np.minimum(n_seeds, n_images) - 1.0
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def margin_verdict(low: float, high: float, margin: float) -> str:
    """What the interval of a lead (positive: better) says of 0 and of the margin.

    superior: beyond the margin. better: above 0, and it may reach beyond the margin. "better, but negligible": above 0
    and within the margin. Mirrored: inferior, worse, "worse, but negligible". equivalent: holds 0, within the margin.
    Else inconclusive. Touching a bound is not passing it; numbers within 1e-9 (relative) touch.
    """
    noise = 1e-9 * max(abs(low), abs(high), margin)
    if low > noise:
        return (
            "superior"
            if low > margin + noise
            else "better, but negligible"
            if high <= margin + noise
            else "better"
        )
    if high < -noise:
        return (
            "inferior"
            if high < -margin - noise
            else "worse, but negligible"
            if low >= -margin - noise
            else "worse"
        )
    return "equivalent" if low >= -margin - noise and high <= margin + noise else "inconclusive"


def seeds_needed(estimate: Estimate, n_seeds: int, margin: float) -> int | None:
    """The fewest seeds (three or more) with which the interval is expected to reach no farther than ± margin.

    From the variances measured at `n_seeds`: the seeds' and the interaction's shrink with more seeds, the images' does not.
    None if that leaves too much at 1000 seeds; only more images help then.

    Raises:
        ValueError: the estimate has no variance over seeds.
    """
    if estimate.seed_var is None:
        raise ValueError("how many seeds it takes cannot be told without a variance over seeds")
    per_seed, n_images = estimate.interaction_var or 0.0, estimate.n_images or math.inf
    pure_image = max(estimate.image_var - per_seed / n_seeds, 0.0)
    seeds = np.arange(3, MAX_SEEDS + 1)
    v_si = per_seed / seeds
    variance, df = satterthwaite(
        seeds, n_images, estimate.seed_var / seeds, pure_image + v_si, v_si
    )
    enough = np.flatnonzero(stdtrit(df, (1 + LEVEL) / 2) * np.sqrt(variance) <= margin)
    return int(seeds[enough[0]]) if len(enough) else None


def flip_seed_sd(lead: float, image_se: float = 0.0) -> float:
    """The SD of one seed's metric at which one repeat in six (16 %) puts the two variants in the other order.

    The lead, measured with one seed a side, is taken for the true one. A repeat's lead has the variance 2 SD² + image_se²
    around it (image_se 0: on the same images), and falls below 0 with probability Φ(-1) = 16 % where that is lead².
    0 where other images alone do that. Optimistic: with the true lead as unknown as one seed leaves it, the repeat's
    variance is twice that, and it flips with Φ(-1/√2) = 24 %.
    """
    return math.sqrt(max(lead**2 - image_se**2, 0.0) / 2)
