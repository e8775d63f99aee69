"""Differences of two variants, paired on seeds and images, for metrics and for probe metrics.

Shapes: S seeds that both variants share, I images, D resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from coordexp.analysis.comparison.bootstrap import bootstrap_estimate
from coordexp.analysis.comparison.statistics import Estimate, crossed_estimate
from coordexp.study.inputs import RunData

CROSSED_FROM = 3  # seeds; with fewer the variance between seeds is not estimated


@dataclass(frozen=True)
class VariantPair:
    """Two variants and their runs of the seeds that both have, in order of the seeds."""

    first: str
    second: str
    first_runs: list[RunData]
    second_runs: list[RunData]


def variant_pairs(groups: Mapping[str, Sequence[RunData]]) -> list[VariantPair]:
    """Every pair of variants, in the order of the study, even if they share no seed."""
    pairs = []
    for first, second in combinations(groups, 2):
        seeds = {run.seed for run in groups[first]} & {run.seed for run in groups[second]}
        sides = [[run for run in groups[v] if run.seed in seeds] for v in (first, second)]
        pairs.append(VariantPair(first, second, *sides))
    return pairs


@dataclass(frozen=True)
class Measured:
    """Metrics of one run, or of one probe, with the contribution of each image.

    images: [I] ids, ascending.
    values: by metric, over all images.
    influence: returns [I] by metric, the influence of each image; called with three seeds or more.
    draws: returns [D] by metric, the value on each resample; called with fewer than three seeds.
    """

    images: np.ndarray
    values: Mapping[str, float]
    influence: Callable[[], Mapping[str, np.ndarray]]
    draws: Callable[[], Mapping[str, np.ndarray]]


def paired_estimates(
    first: Sequence[Measured], second: Sequence[Measured], names: Iterable[str]
) -> dict[str, Estimate]:
    """Second minus first on every name that all sides have.

    Three seeds or more: a t interval over seeds and images. Fewer: a bootstrap over images.

    Args:
        first, second: [S] the two variants, seed by seed.

    Returns:
        {name: estimate}; empty where no seed is shared, or the images differ or are fewer than two.
    """
    sides = [*first, *second]
    if not sides or not same_images([side.images for side in sides]) or len(sides[0].images) < 2:
        return {}
    shared = [name for name in names if all(name in side.values for side in sides)]
    estimate = crossed if len(first) >= CROSSED_FROM else bootstrapped
    return {name: replace(estimate(first, second, name), n_seeds=len(first)) for name in shared}


def value_estimate(seeds: Sequence[Measured], name: str) -> Estimate | None:
    """The mean over seeds of one variant's value, against 0, as `paired_estimates` takes it.

    None where a seed lacks the value, or the images differ or are fewer than two.
    """
    complete = bool(seeds) and all(name in seed.values for seed in seeds)
    if not complete or not same_images([seed.images for seed in seeds]):
        return None
    n_images = len(seeds[0].images)
    if n_images < 2:
        return None
    values = np.array([seed.values[name] for seed in seeds])  # [S]
    if len(seeds) >= CROSSED_FROM:
        return crossed_estimate(values, np.stack([seed.influence()[name] for seed in seeds]))
    draws = np.stack([seed.draws()[name] for seed in seeds])  # [S, D]
    estimate = bootstrap_estimate(np.zeros_like(draws), draws, float(values.mean()))
    return replace(estimate, n_images=n_images)


def crossed(first: Sequence[Measured], second: Sequence[Measured], name: str) -> Estimate:
    """The difference on one metric, with seeds and images as crossed random factors."""
    gaps = value_gaps(first, second, name)
    influence = [
        b.influence()[name] - a.influence()[name] for a, b in zip(first, second, strict=True)
    ]
    return crossed_estimate(gaps, np.stack(influence))


def bootstrapped(first: Sequence[Measured], second: Sequence[Measured], name: str) -> Estimate:
    """The difference on one metric, with images alone as a random factor.

    The interval does not include the variance between seeds.
    """
    before = np.stack([side.draws()[name] for side in first])  # [S, D]
    after = np.stack([side.draws()[name] for side in second])
    difference = float(value_gaps(first, second, name).mean())
    return replace(bootstrap_estimate(before, after, difference), n_images=len(first[0].images))


def value_gaps(first: Sequence[Measured], second: Sequence[Measured], name: str) -> np.ndarray:
    """Second minus first of each seed  # [S]"""
    return np.array([b.values[name] - a.values[name] for a, b in zip(first, second, strict=True)])


def same_images(images: Sequence[np.ndarray]) -> bool:
    """Whether all arrays hold the same ids in the same order  # each [I]"""
    return all(np.array_equal(other, images[0]) for other in images)
