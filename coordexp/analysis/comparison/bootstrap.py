"""The paired bootstrap over images: a metric on every resample, and the interval of a difference.

Shapes: S seeds, I images, C tokens, D resamples, W tokens of a window, B resamples of a block.
"""

from __future__ import annotations

import math

import numpy as np

from coordexp.analysis.comparison.statistics import LEVEL, Estimate
from coordexp.metrics import Metric
from coordexp.resampling import blocks, weighted_sums
from coordexp.storage.token_tables import TokenColumns


def bootstrap_draws(tokens: TokenColumns, m: Metric, weights: np.ndarray) -> np.ndarray:
    """The exact metric over the tokens of each resample.

    Args:
        weights: [D, I] how often each image stands in each resample.

    Returns:
        [D]
    """
    n_images, values = len(tokens.images), tokens.values[m.name]
    if m.quantile is not None:
        return _quantile_draws(values, tokens.image_index, weights, m.quantile)
    # A mean over tokens is a ratio of sums over images.
    sums = np.bincount(tokens.image_index, values, n_images)
    counts = np.bincount(tokens.image_index, np.ones_like(values), n_images)
    totals = weighted_sums(weights, np.stack([sums, counts], 1))  # [D, 2]
    means: np.ndarray = totals[:, 0] / totals[:, 1]
    return means


def bootstrap_estimate(
    first_draws: np.ndarray, second_draws: np.ndarray, difference: float
) -> Estimate:
    """Percentile interval of second - first over images.

    Args:
        first_draws, second_draws: [D], or [S, D] to be averaged over the seeds.
        difference: over all images.
    """
    draws = np.atleast_2d(second_draws).mean(0) - np.atleast_2d(first_draws).mean(0)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    variance = float(draws.var(ddof=1))
    return Estimate(
        difference=difference,
        low=float(low),
        high=float(high),
        se=math.sqrt(variance),
        df=None,
        share_above_0=float(np.mean(draws > 0) + np.mean(draws == 0) / 2),
        p_value=None,
        method="paired bootstrap over images",
        seed_var=None,
        image_var=variance,
        interaction_var=None,
    )


def _quantile_draws(
    values: np.ndarray, image_index: np.ndarray, weights: np.ndarray, q: float
) -> np.ndarray:
    """np.quantile(…, q), linear interpolation, of each resample written out token by token.

    How many tokens of a resample come before a given token in sorted order is a sum of weights.
    A resample's quantile lies near the sample's own, so only the tokens around it are sorted
    through; the sums of weights tell beforehand how many these must be. Resamples whose quantile
    lies outside that window go through all tokens.

    Args:
        values: [C] per-token values.
        image_index: [C] the image of each token.
        weights: [D, I]

    Returns:
        [D]
    """
    order = np.argsort(values, kind="stable")
    values, image_index = values[order], image_index[order]
    n_images, n_tokens = weights.shape[1], len(values)

    def tokens_before(end: int) -> np.ndarray:
        """How many of each resample's tokens are among the first `end`  # [D]"""
        return weighted_sums(weights, np.bincount(image_index[:end], minlength=n_images))

    # The quantile's position in each sorted resample, counted from 0, and in the sample itself.
    position = q * (tokens_before(n_tokens) - 1)  # [D]
    centre = int(q * (n_tokens - 1))
    # Half as many tokens again as the farthest resample has moved, and some for small samples.
    reach = 64 + int(1.5 * np.abs(position - tokens_before(centre)).max())
    window = slice(max(0, centre - reach), min(n_tokens, centre + reach))
    quantiles = _interpolate(
        values[window], image_index[window], weights, position - tokens_before(window.start)
    )
    outside = np.flatnonzero(np.isnan(quantiles))
    if len(outside):
        quantiles[outside] = _interpolate(values, image_index, weights[outside], position[outside])
    return quantiles


def _interpolate(
    values: np.ndarray, image_index: np.ndarray, weights: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """The value at a fractional position of each sorted resample of sorted tokens.

    Args:
        values, image_index: [W] the tokens, sorted by value, and their images.
        weights: [D, I]
        position: [D] from 0, in the resample of these tokens.

    Returns:
        [D]; NaN where the position lies outside.
    """
    found = np.full(len(weights), np.nan)
    lower = np.floor(position).astype(np.int64)
    upper = np.ceil(position).astype(np.int64)
    for rows in blocks(len(weights), len(values)):
        # How many tokens of the resample have come by each token, itself counted.  # [B, W]
        seen = weights[rows][:, image_index].cumsum(1, dtype=np.int32)
        at_lower = (seen <= lower[rows, None]).sum(1)
        at_upper = (seen <= upper[rows, None]).sum(1)
        inside = (lower[rows] >= 0) & (at_upper < len(values))
        at_lower, at_upper = at_lower[inside], at_upper[inside]
        share = (position[rows] - lower[rows])[inside]
        interpolated = values[at_lower] + share * (values[at_upper] - values[at_lower])
        found[np.arange(len(weights))[rows][inside]] = interpolated
    return found
