"""Intervals and tests for the difference between two variants.

Estimand: the difference between variants for given base weights, data and hyper-parameters. A seed
changes data order, adapter initialisation and dropout. The images are a sample from the population
that the validation set represents.

One or two seeds: a paired bootstrap over images (`bootstrap.py`), which does not include the
variance between seeds. Three seeds or more: a t interval with seeds and images as crossed random
factors. benchmarks/calibration.py measures the coverage of these intervals; docs/calibration.md
reports it.

Shapes: S seeds, I images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# scipy.special has the distribution functions of scipy.stats, which takes half a second to import.
from scipy.special import chdtri, stdtr, stdtrit

LEVEL = 0.95
# With fewer images an interval over images settles nothing. Resamples of n images vary by
# (n - 1) / n of what they should, and never reach beyond the n values seen: of two images, half of
# the resamples shows one of them twice, and the interval ends at the two. From ten on the variance
# is at most a tenth too small.
FEWEST_IMAGES = 10

Numbers = float | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A difference (second - first) and how far it can be trusted.

    difference, low, high, se: in the metric's unit; low and high bound the 95 % interval.
    df: degrees of freedom of the t interval; None for the bootstrap.
    share_above_0: probability that second - first > 0, by the resamples or the t distribution.
    p_value: two-sided, of difference = 0; None where the variance over seeds is unseen.
    method: "paired bootstrap over images", "linearised over images" or "crossed seeds x images".
    seed_var: variance of the difference over seeds, per one seed; None where it is unseen.
    image_var: variance of the difference over images, at these seeds.
    interaction_var: the part of seed_var that is noise of these images, per one seed.
    n_images: None where only resamples are known.
    n_seeds: seeds per variant that were paired; None where the estimate is not of a pair.
    """

    difference: float
    low: float
    high: float
    se: float
    df: float | None
    share_above_0: float
    p_value: float | None
    method: str
    seed_var: float | None
    image_var: float
    interaction_var: float | None
    n_images: int | None = None
    n_seeds: int | None = None

    @property
    def too_few_images(self) -> bool:
        """Whether it is over so few images that its interval is too narrow to settle anything."""
        return self.n_images is not None and self.n_images < FEWEST_IMAGES

    def negated(self) -> Estimate:
        """The estimate of first - second."""
        return replace(
            self,
            difference=-self.difference + 0.0,  # no -0.0
            low=-self.high + 0.0,
            high=-self.low + 0.0,
            share_above_0=1 - self.share_above_0,
        )


def influence_estimate(values: np.ndarray, influence: np.ndarray) -> Estimate:
    """An approximation of the bootstrap interval over images, without resampling.

    It uses the infinitesimal jackknife, which holds for means and for quantiles (Efron &
    Tibshirani, An Introduction to the Bootstrap, chapter 22).

    Args:
        values: [S] the metric of each seed.
        influence: [S, I] influence of each image on it.
    """
    n_images = influence.shape[1]
    _, image_var, _ = variance_parts(values, influence)
    return _t_estimate(
        "linearised over images",
        difference=float(np.mean(values)),
        variance=float(image_var),
        df=n_images - 1.0,
        seed_var=None,
        image_var=float(image_var),
        interaction_var=None,
        n_images=n_images,
    )


def crossed_estimate(differences: np.ndarray, influence: np.ndarray) -> Estimate:
    """A t interval of the mean difference, with seeds and images as crossed random factors.

    If there is no variance over images, this is the paired t test over seeds.

    Args:
        differences: [S] second - first of the runs that share a seed.
        influence: [S, I] influence of each image on that difference.

    Raises:
        ValueError: fewer than three seeds, or a value is not finite (a variant with a diverged
            seed has no estimate).
    """
    n_seeds, n_images = influence.shape
    if n_seeds < 3 or not (np.isfinite(differences).all() and np.isfinite(influence).all()):
        raise ValueError("a crossed estimate needs three seeds or more, every one of them finite")
    v_s, v_i, v_si = (float(part) for part in variance_parts(differences, influence))
    variance, df = satterthwaite(n_seeds, n_images, v_s, v_i, v_si)
    return _t_estimate(
        "crossed seeds x images",
        difference=float(np.mean(differences)),
        variance=float(variance),
        df=float(df),
        seed_var=v_s * n_seeds,
        image_var=v_i,
        interaction_var=v_si * n_seeds,
        n_images=n_images,
    )


def _t_estimate(
    method: str,
    *,
    difference: float,
    variance: float,
    df: float,
    seed_var: float | None,
    image_var: float,
    interaction_var: float | None,
    n_images: int,
) -> Estimate:
    """The interval difference ± t sqrt(variance), and the probabilities that go with it."""
    se = math.sqrt(variance)
    half_width = float(stdtrit(df, (1 + LEVEL) / 2)) * se
    t = 0.0
    if se:
        t = difference / se
    elif difference:
        t = math.copysign(math.inf, difference)
    # The null hypothesis is about the mean over seeds, so a test needs the variance over seeds.
    p_value = None if seed_var is None else float(2 * stdtr(df, -abs(t)))
    return Estimate(
        difference=difference,
        low=difference - half_width,
        high=difference + half_width,
        se=se,
        df=df,
        share_above_0=float(stdtr(df, t)),
        p_value=p_value,
        method=method,
        seed_var=seed_var,
        image_var=image_var,
        interaction_var=interaction_var,
        n_images=n_images,
    )


def variance_parts(
    differences: np.ndarray, influence: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The variance components V_S (seeds), V_I (images) and V_SI (interaction).

    Each is a part of the variance of the mean difference. The model is a two-way layout with one
    difference per seed s and image i:

        d_si = difference + a_s + b_i + c_si

    V_S estimates var(a)/S + var(c)/SI, V_I estimates var(b)/I + var(c)/SI, and V_SI estimates
    var(c)/SI. A metric is a ratio of sums or a quantile over tokens, so it has no d_si. I times the
    influence of image i at seed s replaces the deviation d_si - d_s. This also covers images with
    unequal token counts.

    V_SI uses deviations from each image's mean over seeds. The usual sum of all squares also
    contains the image effects: with few seeds, subtracting it would remove much of V_S and V_I.

    Args:
        differences: [..., S] second - first of each seed.
        influence: [..., S, I] influence of each image on each seed's difference.

    Returns:
        V_S, V_I, V_SI, each [...]. With one seed V_S and V_SI are 0.
    """
    n_seeds, n_images = influence.shape[-2:]
    over_seeds = influence.mean(-2, keepdims=True)  # [..., 1, I]
    bessel = n_images / (n_images - 1)
    # V_S: the sample variance of the seeds' differences, for a mean over S seeds.
    v_s = np.zeros(differences.shape[:-1])
    if n_seeds > 1:
        v_s = differences.var(-1, ddof=1) / n_seeds
    # V_I: influences have mean 0, and their sum over images is already scaled as a mean, so the sum
    # of their squares is the variance (infinitesimal jackknife). The factor I / (I - 1) makes it a
    # sample variance.
    v_i = (over_seeds**2).sum((-1, -2)) * bessel
    # V_SI: the same for the deviations from the image's mean over seeds, with S - 1 degrees of
    # freedom, for a mean over S seeds. max(…, 1) avoids 0 / 0 with one seed.
    v_si = ((influence - over_seeds) ** 2).sum((-1, -2)) * bessel / max(n_seeds * (n_seeds - 1), 1)
    return v_s, v_i, v_si


def satterthwaite(
    n_seeds: Numbers, n_images: float, v_s: Numbers, v_i: Numbers, v_si: Numbers
) -> tuple[np.ndarray, np.ndarray]:
    """The variance V_S + V_I - V_SI of the mean difference, and its degrees of freedom.

    Variance: two-way clustering (Cameron, Gelbach & Miller 2011; Owen 2007). V_S and V_I both
    contain the interaction, so V_SI is subtracted once. The true V_S and V_I are at least V_SI, so
    negative estimates of V_S - V_SI and V_I - V_SI count as 0. The variance is then at least
    max(V_S, V_I).

    Degrees of freedom: Satterthwaite (1946), at least those of the factor with fewer levels. V_S
    enters with its median-unbiased value. With three seeds, V_S is below its expectation in 63 of
    100 studies. Satterthwaite's formula would then give too many degrees of freedom in the same
    studies in which the variance is too small: coverage would fall to 92 %; with the
    median-unbiased value it is 93 %.

    Args:
        All arguments broadcast; `v_s`, `v_i` and `v_si` as `variance_parts` gives them.

    Returns:
        variance, degrees of freedom.
    """
    # V_S + V_I - V_SI, with negative differences set to 0.
    variance = np.maximum(v_s, v_si) + np.maximum(v_i - v_si, 0.0)
    # V_S / E[V_S] is a chi-squared variable over its degrees of freedom. Dividing V_S by the median
    # of that ratio gives the median-unbiased value.
    typical = v_s * (n_seeds - 1) / chdtri(n_seeds - 1, 0.5)
    # Satterthwaite: df = (sum of components)² / sum of (component² / its degrees of freedom).
    spread = (
        typical**2 / (n_seeds - 1)
        + v_i**2 / (n_images - 1)
        + v_si**2 / ((n_seeds - 1) * (n_images - 1))
    )
    total = np.maximum(typical, v_si) + np.maximum(v_i - v_si, 0.0)
    df = total**2 / np.where(spread > 0, spread, 1.0)
    return variance, np.maximum(df, np.minimum(n_seeds, n_images) - 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def margin_verdict(low: float, high: float, margin: float) -> str:
    """The verdict on the interval of a lead (positive: better) against 0 and the margin.

    A bound that equals 0 or the margin does not lie beyond it. Numbers within 1e-9 (relative) count
    as equal.

    Returns:
        "superior": the interval lies beyond the margin.
        "better": above 0, and it may reach beyond the margin.
        "better, but negligible": above 0 and within the margin.
        "inferior", "worse", "worse, but negligible": the same on the other side.
        "equivalent": it contains 0 and lies within the margin.
        "inconclusive": anything else.
    """
    noise = 1e-9 * max(abs(low), abs(high), margin)
    below_margin, above_minus_margin = high <= margin + noise, low >= -margin - noise
    if low > noise:
        if low > margin + noise:
            return "superior"
        return "better, but negligible" if below_margin else "better"
    if high < -noise:
        if high < -margin - noise:
            return "inferior"
        return "worse, but negligible" if above_minus_margin else "worse"
    return "equivalent" if below_margin and above_minus_margin else "inconclusive"
