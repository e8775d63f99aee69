"""Power: what a study can detect, the seeds an interval needs, the seed SD that reverses a lead."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from coordexp.analysis.comparison.statistics import LEVEL, Estimate, satterthwaite

MAX_SEEDS = 1000
POWER = 0.8


def signal_to_noise(estimate: Estimate) -> float | None:
    """The size of a difference over its standard error; None if that is 0."""
    return abs(estimate.difference) / estimate.se if estimate.se else None


def detectable_effect(estimate: Estimate) -> float:
    """The smallest true difference that such a study would resolve in 80 of 100 repeats.

    "Resolve": the 95 % interval excludes 0. The usual approximation: (t.975 + t.80) standard
    errors. With fewer than three seeds it counts other images only.
    """
    df = estimate.df or (estimate.n_images or math.inf) - 1.0
    return float(stdtrit(df, (1 + LEVEL) / 2) + stdtrit(df, POWER)) * estimate.se


def seeds_needed(estimate: Estimate, n_seeds: int, margin: float) -> int | None:
    """The fewest seeds (three or more) with an expected interval of at most ± margin.

    It extrapolates the variances measured at `n_seeds`. The variances of seeds and of the
    interaction fall with more seeds; the variance over images does not.

    Returns:
        None if even MAX_SEEDS seeds are too few; then only more images help.

    Raises:
        ValueError: the estimate has no variance over seeds.
    """
    if estimate.seed_var is None:
        raise ValueError("how many seeds it takes cannot be told without a variance over seeds")
    interaction, n_images = estimate.interaction_var or 0.0, estimate.n_images or math.inf
    # image_var contains the interaction over the measured seeds. Take it out, and put it back for
    # each number of seeds: it is the part of image_var that falls with more seeds.
    image_alone = max(estimate.image_var - interaction / n_seeds, 0.0)
    seeds = np.arange(3, MAX_SEEDS + 1)
    v_si = interaction / seeds
    variance, df = satterthwaite(
        seeds, n_images, estimate.seed_var / seeds, image_alone + v_si, v_si
    )
    half_widths = stdtrit(df, (1 + LEVEL) / 2) * np.sqrt(variance)
    enough = np.flatnonzero(half_widths <= margin)
    return int(seeds[enough[0]]) if len(enough) else None


def flip_seed_sd(lead: float, image_se: float = 0.0) -> float:
    """The SD of one seed's metric at which one repeat in six reverses the order of two variants.

    The lead, measured with one seed per variant, is taken as the true lead. The lead of a repeat
    then has the variance 2 SD² + image_se². If that variance equals lead², a repeat is below 0 with
    probability Φ(-1) = 16 %. This is optimistic: the measured lead has the same variance around the
    true one, so a repeat differs from it with twice that variance, and flips with probability
    Φ(-1/√2) = 24 %.

    Args:
        lead: in the metric's unit; its sign does not matter.
        image_se: standard error of the lead over images; 0 for repeats on the same images.

    Returns:
        The SD in the metric's unit; 0 if other images alone flip the order at least as often.
    """
    return math.sqrt(max(lead**2 - image_se**2, 0.0) / 2)
