"""Bootstrap resamples of images: how often each image is drawn, and sums under these weights.

Shapes: I images, D resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

DRAWS = 2000
WEIGHTS_SEED = 20260126
CELLS = 4_000_000  # cells of a matrix in memory at a time: 32 MB in float64


@lru_cache(maxsize=1)
def image_weights(n_images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each resample contains each image.

    The weights are multinomial with a fixed seed, so they are the same for every table of
    `n_images` images. This pairs the images over all variants.

    Returns:
        [D, I] uint16, read-only. Each row sums to I.
    """
    rng = np.random.default_rng((WEIGHTS_SEED, n_images))
    weights = np.empty((draws, n_images), dtype=np.uint16)
    for draw in weights:
        draw[:] = np.bincount(rng.integers(0, n_images, n_images), minlength=n_images)
    weights.flags.writeable = False
    return weights


def weighted_sums(weights: np.ndarray, per_image: np.ndarray) -> np.ndarray:
    """weights @ per_image in float64, computed in blocks of resamples to bound the memory.

    Args:
        weights: [D, I] of any integer type.
        per_image: [I, …] values that are summed over images.

    Returns:
        [D, …]
    """
    sums = [weights[rows].astype(np.float64) @ per_image for rows in blocks(*weights.shape)]
    return np.concatenate(sums)


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows of a matrix, each of about CELLS cells at most."""
    step = max(1, CELLS // max(1, width))
    return (slice(first, first + step) for first in range(0, n_rows, step))
