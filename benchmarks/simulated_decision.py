"""Simulated studies of three variants, and the decision in them, vectorised over studies.

On the first study of each block, p-values and the variants left are checked against the package's.

Shapes: R studies, V variants, P pairs of variants, S seeds, I images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from calibration import BLOCK, REPEATS
from scipy.special import stdtr

from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.statistics import (
    LEVEL,
    crossed_estimate,
    influence_estimate,
    satterthwaite,
    variance_parts,
)
from coordexp.analysis.recommendation.elimination import (
    DECLARED_DF,
    Criterion,
    eliminate,
    separation,
)
from coordexp.metrics import METRICS, lower_is_better

VARIANTS = ("a", "b", "c")
PAIRS = list(combinations(range(len(VARIANTS)), 2))


@dataclass(frozen=True)
class Figure:
    """A figure of merit and its noise.

    declared_sd: the SD between seeds that the rule assumes where it sees fewer than three.
    image_sd: SD over images of the difference of two variants.
    seed_sd: true SD over seeds of one variant's figure.
    """

    name: str
    margin: float
    declared_sd: float
    image_sd: float
    seed_sd: float


@dataclass(frozen=True)
class Noise:
    """Standardised noise of one figure in R studies.

    seeds: [R, V, S] of each seed, SD 1.
    images: [R, V, S, I] of each image, SD 1; a part of it is the same at every seed.
    """

    seeds: np.ndarray
    images: np.ndarray


def noise(rng: np.random.Generator, n_studies: int, n_seeds: int, n_images: int) -> Noise:
    """Heavy tails over images: t with 6 degrees of freedom, of variance 1.5."""
    shape = (n_studies, len(VARIANTS), n_seeds, n_images)
    once = rng.standard_t(6, shape) * math.sqrt((1 - REPEATS) / 1.5)
    again = rng.standard_t(6, (*shape[:2], 1, n_images)) * math.sqrt(REPEATS / 1.5)
    return Noise(rng.normal(size=shape[:3]), once + again)


def correlated(first: Noise, second: Noise, correlation: float) -> Noise:
    """Noise of this correlation with the first."""
    rest = math.sqrt(1 - correlation**2)
    return Noise(
        correlation * first.seeds + rest * second.seeds,
        correlation * first.images + rest * second.images,
    )


@dataclass(frozen=True)
class Sample:
    """One figure in R studies without any truth: what the images measured, and their variance.

    means: [R, V, S]
    influence: [P, S, I] of the first study's pairs.
    v_i, v_si: [R, P] as `variance_parts` gives them.
    """

    figure: Figure
    seeds: np.ndarray
    means: np.ndarray
    influence: np.ndarray
    v_i: np.ndarray
    v_si: np.ndarray


def sample(figure: Figure, drawn: Noise) -> Sample:
    """The figure of each run, as its images show it."""
    values = drawn.images * (figure.image_sd / math.sqrt(2))
    means = values.mean(-1)
    influence = (values - means[..., None]) / values.shape[-1]
    v_i, v_si, first = [], [], []
    for a, b in PAIRS:
        of_pair = influence[:, a] - influence[:, b]  # [R, S, I]
        _, of_images, interaction = variance_parts(means[:, a] - means[:, b], of_pair)
        v_i.append(of_images)
        v_si.append(interaction)
        first.append(of_pair[0])
    stacked = (np.stack(v_i, -1), np.stack(v_si, -1))
    return Sample(figure, drawn.seeds, means, np.stack(first), *stacked)


@dataclass(frozen=True)
class Evidence:
    """One piece of evidence in R studies.

    values: [R, V] larger is better.
    p_values: [R, V, V] two-sided, of the lead of one variant over another, if it equals the margin.
    first: the evidence of the first study, as the package holds it.
    """

    margin: float
    values: np.ndarray
    p_values: np.ndarray
    first: Criterion


def evidence(of: Sample, truth: Sequence[float], seed_sd: float | None = None) -> Evidence:
    """The evidence if this is the truth (larger is better), and this the SD between seeds."""
    sd = of.figure.seed_sd if seed_sd is None else seed_sd
    of_run = np.asarray(truth)[:, None] + sd * of.seeds + of.means  # [R, V, S]
    values = of_run.mean(-1)
    p_values = np.ones((len(values), len(VARIANTS), len(VARIANTS)))
    for pair, (a, b) in enumerate(PAIRS):
        variance, df = variance_of(of, pair, of_run[:, a] - of_run[:, b])
        for one, other in ((a, b), (b, a)):
            beyond = values[:, one] - values[:, other] - of.figure.margin
            p = np.minimum(1.0, 2 * stdtr(df, -beyond / np.sqrt(variance)))
            p_values[:, one, other] = p
    found = Evidence(of.figure.margin, values, p_values, criterion(of, of_run[0]))
    check(found, of.figure)
    return found


def variance_of(of: Sample, pair: int, gaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance and degrees of freedom of the mean gap of a pair  # [R, S] -> 2 x [R]"""
    n_seeds, n_images = of.influence.shape[1:]
    v_i, v_si = of.v_i[:, pair], of.v_si[:, pair]
    if n_seeds >= CROSSED_FROM:
        return satterthwaite(n_seeds, n_images, gaps.var(-1, ddof=1) / n_seeds, v_i, v_si)
    declared = 2 * of.figure.declared_sd**2 / n_seeds
    df = (v_i + declared) ** 2 / (v_i**2 / (n_images - 1) + declared**2 / DECLARED_DF)
    return v_i + declared, df


def criterion(of: Sample, of_run: np.ndarray) -> Criterion:
    """One study's evidence in the package's form  # [V, S]"""
    figure, n_seeds = of.figure, of_run.shape[1]
    estimate = crossed_estimate if n_seeds >= CROSSED_FROM else influence_estimate
    leads = {}
    for pair, (a, b) in enumerate(PAIRS):
        for one, other, sign in ((a, b, 1), (b, a, -1)):
            found = estimate(of_run[one] - of_run[other], sign * of.influence[pair])
            found = replace(found, n_seeds=n_seeds)
            names = (VARIANTS[one], VARIANTS[other])
            leads[names] = Lead(*names, figure.name, found.difference, figure.margin, found)
    turn = -1 if lower_is_better(figure.name) else 1
    values = dict(zip(VARIANTS, (turn * of_run.mean(-1)).tolist(), strict=True))
    tier = "token tables" if figure.name in METRICS else "rollouts"
    return Criterion(tier, figure.name, figure.margin, values, leads, figure.declared_sd)


def check(found: Evidence, figure: Figure) -> None:
    """The p-values of the first study are those of the package."""
    for (one, other), lead in found.first.leads.items():
        p = found.p_values[0, VARIANTS.index(one), VARIANTS.index(other)]
        expected = separation(lead, figure.margin, figure.declared_sd).p_value
        assert np.isclose(p, expected, rtol=1e-9, atol=0), (figure.name, one, other, p, expected)


def survivors(pieces: Sequence[Evidence]) -> np.ndarray:
    """The variants that no evidence eliminates, checked on the first study  # -> [R, V]"""
    n_studies = len(pieces[0].values)
    left = np.ones((n_studies, len(VARIANTS)), dtype=bool)
    rows = np.arange(n_studies)
    for piece in pieces:
        leader = np.where(left, piece.values, -np.inf).argmax(1)
        lead = piece.values[rows, leader][:, None] - piece.values
        rivals = left & (np.arange(len(VARIANTS)) != leader[:, None])
        adjusted = holm_of_rows(piece.p_values[rows, leader], rivals)
        left &= ~(rivals & (lead > piece.margin) & (adjusted < 1 - LEVEL))
    _, expected = eliminate(VARIANTS, [piece.first for piece in pieces])
    assert [v for v, stays in zip(VARIANTS, left[0], strict=True) if stays] == expected
    return left


def holm_of_rows(p_values: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values of each row, over its rivals  # [R, V]"""
    p_values = np.where(rivals, p_values, 1.0)
    order = p_values.argsort(1)
    factor = np.maximum(rivals.sum(1, keepdims=True) - np.arange(len(VARIANTS)), 1)
    ranked = np.minimum(1.0, factor * np.take_along_axis(p_values, order, 1))
    adjusted = np.empty_like(ranked)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ranked, 1), 1)
    return adjusted


def samples(figure: Figure, n_seeds: int, n_images: int, draws: int) -> Iterator[Sample]:
    """Blocks of studies. All truths and seed SDs are added to the same noise."""
    rng = np.random.default_rng((11, n_seeds, n_images))
    for start in range(0, draws, BLOCK):
        yield sample(figure, noise(rng, min(BLOCK, draws - start), n_seeds, n_images))
