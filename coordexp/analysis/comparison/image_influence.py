"""The influence of each image on the metrics of one token table; intervals are computed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from coordexp.metrics import REGISTRY
from coordexp.storage.token_tables import TokenColumns


@dataclass(frozen=True)
class ImageInfluence:
    """The metrics of one table, and the influence of each image on them.

    In a resample that contains image i w_i times,
    metric ≈ values[metric] + Σ_i (w_i - 1) influence[metric][i].
    """

    images: np.ndarray  # [I] image ids, ascending
    values: dict[str, float]  # metric -> over all tokens
    influence: dict[str, np.ndarray]  # metric -> [I], sums to about 0


def image_influence(tokens: TokenColumns) -> ImageInfluence:
    """Each metric over all tokens, as a mean or an exact quantile, and each image's influence.

    The mean is a ratio of sums over images: image i, with n_i of the N tokens and sum s_i, has the
    influence (s_i - n_i mean) / N (Cochran, Sampling Techniques, 6.3).
    """
    counts = np.bincount(tokens.image_index, minlength=len(tokens.images))  # [I]
    values, influence = {}, {}
    for name, per_token in tokens.values.items():
        q = REGISTRY[name].quantile
        if q is None:
            sums = np.bincount(tokens.image_index, per_token, len(tokens.images))  # [I]
            values[name] = float(sums.sum() / counts.sum())
            influence[name] = (sums - counts * values[name]) / counts.sum()
        else:
            values[name], influence[name] = quantile_influence(
                per_token, tokens.image_index, counts, q
            )
    return ImageInfluence(tokens.images, values, influence)


def quantile_influence(
    per_token: np.ndarray, image_index: np.ndarray, counts: np.ndarray, q: float
) -> tuple[float, np.ndarray]:
    """The quantile Q at level q over all tokens, and the influence of each image on it.

    Q interpolates linearly, as the trainer logs it. Image i, with n_i of the N tokens, has the
    influence (q n_i - #{its tokens ≤ Q}) / (f N). The density f at Q is a difference quotient of
    the empirical quantile function over q ± h, with the bandwidth h of Hall & Sheather (1988); see
    Koenker, Quantile Regression, 3.4.2.

    Args:
        per_token: [C] values.
        image_index: [C] the image of each token, counted from 0.
        counts: [I] tokens of each image.

    Returns:
        Q, and the influences [I].
    """
    n = len(per_token)
    # Hall & Sheather's bandwidth h for tests at level 0.05 (hence the normal quantile 0.975). It
    # assumes the normal density phi at its q-quantile z.
    z = ndtri(q)
    phi = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    h = n ** (-1 / 3) * ndtri(0.975) ** (2 / 3) * (1.5 * phi**2 / (2 * z**2 + 1)) ** (1 / 3)
    low, high = max(q - h, 0.0), min(q + h, 1.0)
    at_low, at_q, at_high = np.quantile(per_token, [low, q, high])

    below = np.bincount(image_index[per_token <= at_q], minlength=len(counts))  # [I]
    # 1 / f is the slope of the quantile function, (at_high - at_low) / (high - low).
    influence = (q * counts - below) / n * (at_high - at_low) / (high - low)
    return float(at_q), influence
