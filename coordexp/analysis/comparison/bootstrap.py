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
        tokens: per-token values of C tokens from I images.
        weights: [D, I] how often each resample contains each image.

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
    """np.quantile(…, q) of each resample, as if its tokens were written out; linear interpolation.

    The rank of a token in a sorted resample is the sum of the weights of the tokens before it. A
    resample's quantile lies near the quantile of the sample, so only a window of tokens around the
    latter is searched. Resamples whose quantile lies outside the window search all tokens.

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

    # The quantile's position in each sorted resample, and in the sample itself, counted from 0.
    position = q * (tokens_before(n_tokens) - 1)  # [D]
    centre = int(q * (n_tokens - 1))
    # Reach 1.5 times as far as the quantile moves in any resample, plus 64 tokens for small
    # samples.
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
        position: [D] counted from 0, in the resample restricted to these tokens.

    Returns:
        [D]; NaN where the position lies outside these tokens.
    """
    found = np.full(len(weights), np.nan)
    lower = np.floor(position).astype(np.int64)
    upper = np.ceil(position).astype(np.int64)
    for rows in blocks(len(weights), len(values)):
        # Tokens of the resample up to and including each token.  # [B, W]
        seen = weights[rows][:, image_index].cumsum(1, dtype=np.int32)
        at_lower = (seen <= lower[rows, None]).sum(1)
        at_upper = (seen <= upper[rows, None]).sum(1)
        inside = (lower[rows] >= 0) & (at_upper < len(values))
        at_lower, at_upper = at_lower[inside], at_upper[inside]
        share = (position[rows] - lower[rows])[inside]
        interpolated = values[at_lower] + share * (values[at_upper] - values[at_lower])
        found[np.arange(len(weights))[rows][inside]] = interpolated
    return found
