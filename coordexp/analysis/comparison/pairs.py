"""Differences of two variants, paired on seeds and images, for metrics and for probe signals.

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

CROSSED_FROM = 3  # seeds; with fewer the variance between seeds cannot be judged


@dataclass(frozen=True)
class VariantPair:
    """Two variants and their runs of the seeds that both have, in order of the seeds."""

    first: str
    second: str
    first_runs: list[RunData]
    second_runs: list[RunData]


def variant_pairs(groups: Mapping[str, Sequence[RunData]]) -> list[VariantPair]:
    """Every pair of variants, in the order of the study; their runs may share no seed."""
    pairs = []
    for first, second in combinations(groups, 2):
        seeds = {run.seed for run in groups[first]} & {run.seed for run in groups[second]}
        sides = [[run for run in groups[v] if run.seed in seeds] for v in (first, second)]
        pairs.append(VariantPair(first, second, *sides))
    return pairs


@dataclass(frozen=True)
class Measured:
    """Metrics of one run, or signals of one probe, measured image by image.

    images: [I] ids, ascending.
    values: each over all images.
    influence: gives [I] each, how far every image moves the value; called from three seeds on.
    draws: gives [D] each, the value on every resample of the images; called with fewer seeds.
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
    return {name: estimate(first, second, name) for name in shared}


def crossed(first: Sequence[Measured], second: Sequence[Measured], name: str) -> Estimate:
    """Seeds and images both random and crossed."""
    gaps = value_gaps(first, second, name)
    influence = [
        b.influence()[name] - a.influence()[name] for a, b in zip(first, second, strict=True)
    ]
    return crossed_estimate(gaps, np.stack(influence))


def bootstrapped(first: Sequence[Measured], second: Sequence[Measured], name: str) -> Estimate:
    """Images alone are random: what another seed would change is not seen."""
    before = np.stack([side.draws()[name] for side in first])  # [S, D]
    after = np.stack([side.draws()[name] for side in second])
    difference = float(value_gaps(first, second, name).mean())
    return replace(bootstrap_estimate(before, after, difference), n_images=len(first[0].images))


def value_gaps(first: Sequence[Measured], second: Sequence[Measured], name: str) -> np.ndarray:
    """Second minus first, seed by seed  # [S]"""
    return np.array([b.values[name] - a.values[name] for a, b in zip(first, second, strict=True)])


def same_images(images: Sequence[np.ndarray]) -> bool:
    """Whether all of these are the same ids in the same order  # each [I]"""
    return all(np.array_equal(other, images[0]) for other in images)
