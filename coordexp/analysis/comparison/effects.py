"""Intervals of metrics and of their differences, from token tables.

Without token tables a difference has no interval.

Shapes: S seeds, I images, D resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from coordexp.analysis.comparison.bootstrap import bootstrap_draws
from coordexp.analysis.comparison.findings import Band, Difference
from coordexp.analysis.comparison.image_influence import ImageInfluence, image_influence
from coordexp.analysis.comparison.pairs import (
    CROSSED_FROM,
    Measured,
    VariantPair,
    paired_estimates,
    same_images,
    variant_pairs,
)
from coordexp.analysis.comparison.stability import window_summary
from coordexp.analysis.comparison.statistics import Estimate, crossed_estimate, influence_estimate
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, REGISTRY
from coordexp.resampling import image_weights
from coordexp.storage.token_tables import read_tokens
from coordexp.study.inputs import RunData

Tables = Mapping[tuple[str, int], ImageInfluence]  # by run name and step
Curve = dict[int, float]  # step -> value


def read_tables(runs: Sequence[RunData], temperature: str) -> Tables:
    """The influences of each token table at an eval step of a run's log.

    Each table is reduced to per-image influences as soon as it is read.
    """
    metrics = [m for m in REGISTRY.values() if m.per_token]
    tables = {}
    for run in runs:
        for step in run.run.table_steps() if run.run else []:
            if run.run and step in run.log.evals:
                tokens = read_tokens(run.run.table(step), temperature, metrics)
                tables[run.name, step] = image_influence(tokens)
    return tables


def bands(groups: Mapping[str, Sequence[RunData]], tables: Tables) -> list[Band]:
    """95 % interval of each variant's value, at each eval step for which every seed has a table."""
    names = [name for name, m in METRICS.items() if m.per_token]
    found = []
    for variant, runs in groups.items():
        for step in shared_table_steps(runs, tables):
            seeds = [tables[run.name, step] for run in runs]
            if not same_images([table.images for table in seeds]):
                continue
            for name in names:
                interval = value_interval(seeds, name)
                found.append(Band(variant, step, name, interval.low, interval.high))
    return found


def shared_table_steps(runs: Sequence[RunData], tables: Tables) -> list[int]:
    """The steps at which every one of these runs has a token table, in order."""
    of_runs = [{step for name, step in tables if name == run.name} for run in runs]
    return sorted(set.intersection(*of_runs))


def value_interval(seeds: Sequence[ImageInfluence], name: str) -> Estimate:
    """The interval of a metric's mean over seeds.

    With three seeds or more, seeds and images are both random; with fewer, images alone.
    """
    values = np.array([table.values[name] for table in seeds])  # [S]
    influence = np.stack([table.influence[name] for table in seeds])  # [S, I]
    if len(seeds) >= CROSSED_FROM:
        return crossed_estimate(values, influence)
    return influence_estimate(values, influence)


def differences(
    groups: Mapping[str, Sequence[RunData]],
    curves: Mapping[str, Mapping[str, Curve]],
    tables: Tables,
    step: int | None,
    window: Sequence[int],
    rule: RuleConfig,
) -> list[Difference]:
    """Every pair's difference (second minus first) per metric of the rule at the decision step.

    If token tables exist, seeds and images are paired: the difference is taken over the seeds that
    both variants share. Otherwise it is the difference of the variants' mean curves.

    Args:
        curves: each variant's mean curve, by metric and variant.
        step: the decision step.
        window: the steps of the declared window.
    """
    if step is None:
        return []
    measured = {
        run.name: measure(run, tables[run.name, step], step, rule)
        for runs in groups.values()
        for run in runs
        if (run.name, step) in tables
    }
    found = []
    for pair in variant_pairs(groups):
        estimates = pair_estimates(pair, measured, rule.metrics)
        for name in rule.metrics:
            first, second = (curves[name].get(v, {}) for v in (pair.first, pair.second))
            if step not in first or step not in second:
                continue
            interval = estimates.get(name)
            found.append(
                Difference(
                    first=pair.first,
                    second=pair.second,
                    metric=name,
                    margin=rule.margins[name],
                    difference=interval.difference if interval else second[step] - first[step],
                    interval=interval,
                    window=window_summary(first, second, window),
                )
            )
    return found


def pair_estimates(
    pair: VariantPair, measured: Mapping[str, Measured], names: Sequence[str]
) -> dict[str, Estimate]:
    """The differences of a pair with their intervals; empty where a token table is missing."""
    first = [measured[run.name] for run in pair.first_runs if run.name in measured]
    second = [measured[run.name] for run in pair.second_runs if run.name in measured]
    if not len(first) == len(second) == len(pair.first_runs):
        return {}
    return paired_estimates(first, second, names)


def measure(run: RunData, table: ImageInfluence, step: int, rule: RuleConfig) -> Measured:
    """The metrics of one run at the decision step.

    Its token table is read again only if a bootstrap needs the tokens.
    """

    @cache
    def draws() -> dict[str, np.ndarray]:
        assert run.run
        metrics = [METRICS[name] for name in rule.metrics]
        tokens = read_tokens(run.run.table(step), rule.temperature, metrics)
        weights = image_weights(len(tokens.images))
        return {name: bootstrap_draws(tokens, METRICS[name], weights) for name in tokens.values}

    return Measured(table.images, table.values, lambda: table.influence, draws)
