"""How large the differences are: intervals from token tables where there are any, bare differences where not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coordexp.analysis.comparison.findings import Band, Difference, Slices
from coordexp.analysis.comparison.image_influence import ImageInfluence, image_influence
from coordexp.analysis.comparison.stability import window_summary
from coordexp.analysis.comparison.statistics import (
    Estimate,
    bootstrap_draws,
    bootstrap_estimate,
    crossed_estimate,
    image_weights,
    influence_estimate,
)
from coordexp.metrics import METRICS, REGISTRY
from coordexp.storage.token_tables import read_tokens
from coordexp.study.inputs import RunData

CROSSED_FROM = 3  # seeds; with fewer there is no variance between seeds to speak of
AREA_EDGES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, math.inf),
}  # px, as COCO

Tables = Mapping[tuple[str, int], ImageInfluence]  # by run name and step


def read_tables(runs: Sequence[RunData], temperature: str) -> Tables:
    """What every token table of these runs says, a table at a time."""
    metrics = [m for m in REGISTRY.values() if m.per_token]
    return {
        (run.name, step): image_influence(read_tokens(run.run.table(step), temperature, metrics))
        for run in runs
        if run.run
        for step in run.run.table_steps()
        if step in run.log.evals
    }


def bands(groups: dict[str, list[RunData]], tables: Tables) -> list[Band]:
    """95 % interval of each variant's value at each eval step of which every seed has the token table."""
    found = []
    for variant, runs in groups.items():
        steps = sorted(
            set.intersection(*({step for name, step in tables if name == run.name} for run in runs))
        )
        for step in steps:
            sides = [tables[run.name, step] for run in runs]
            if same_images(sides):
                for name in (name for name, m in METRICS.items() if m.per_token):
                    low, high = band(
                        np.array([t.values[name] for t in sides]),
                        np.stack([t.influence[name] for t in sides]),
                    )
                    found.append(Band(variant, step, name, low, high))
    return found


def band(values: np.ndarray, influence: np.ndarray) -> tuple[float, float]:
    """Interval of a metric's mean over seeds: seeds x images from three seeds on, else images alone  # [S], [S, I]"""
    estimate = (crossed_estimate if len(values) >= CROSSED_FROM else influence_estimate)(
        values, influence
    )
    return estimate.low, estimate.high


def same_images(sides: Sequence[ImageInfluence]) -> bool:
    return all(np.array_equal(side.images, sides[0].images) for side in sides)


def differences(
    groups: dict[str, list[RunData]], curves: Mapping[str, dict[str, dict[int, float]]], tables: Tables, step: int | None,
    window: Sequence[int], rule: dict[str, Any],
) -> list[Difference]:  # fmt: skip
    """Every pair's difference (second minus first) per metric of the rule at the decision step.

    `curves` are the variants' mean curves by metric. Where token tables are there, pairs are compared on the seeds
    they share, so that images and seeds are paired, and the difference is that of these seeds.
    """
    if step is None:
        return []
    variants, found = list(groups), []
    few_seeds = any(len({run.seed for run in runs}) < CROSSED_FROM for runs in groups.values())
    draws = decision_draws(groups, tables, step, rule) if few_seeds else {}
    for i, first in enumerate(variants):
        for second in variants[i + 1 :]:
            sides = shared_seeds(groups[first], groups[second])
            for name in rule["metrics"]:
                mine = [curves[name].get(variant, {}) for variant in (first, second)]
                if not all(step in curve for curve in mine):
                    continue
                estimate = paired_estimate(sides, tables, step, name, draws)
                found.append(
                    Difference(
                        first=first,
                        second=second,
                        metric=name,
                        margin=rule["margins"][name],
                        difference=(
                            estimate.difference if estimate else mine[1][step] - mine[0][step]
                        ),
                        interval=estimate,
                        window=window_summary(mine[0], mine[1], window),
                    )
                )
    return found


def shared_seeds(first: Sequence[RunData], second: Sequence[RunData]) -> list[list[RunData]]:
    seeds = {run.seed for run in first} & {run.seed for run in second}
    return [[run for run in side if run.seed in seeds] for side in (first, second)]


def paired_estimate(
    sides: list[list[RunData]],
    tables: Tables,
    step: int,
    name: str,
    draws: dict[tuple[str, str], np.ndarray],
) -> Estimate | None:
    """The difference with its interval; None where a token table is missing or the images differ."""
    runs = [run for side in sides for run in side]
    if not sides[0] or any((run.name, step) not in tables for run in runs):
        return None
    first, second = ([tables[run.name, step] for run in side] for side in sides)
    if not same_images([*first, *second]) or name not in first[0].values:
        return None
    apart = np.array(
        [b.values[name] - a.values[name] for a, b in zip(first, second, strict=True)]
    )  # [S]
    if len(apart) >= CROSSED_FROM:
        return crossed_estimate(
            apart,
            np.stack(
                [b.influence[name] - a.influence[name] for a, b in zip(first, second, strict=True)]
            ),
        )
    before, after = (np.stack([draws[run.name, name] for run in side]) for side in sides)  # [S, D]
    estimate = bootstrap_estimate(before, after, float(apart.mean()))
    return replace(estimate, n_images=len(first[0].images))


def decision_draws(
    groups: dict[str, list[RunData]], tables: Tables, step: int, rule: dict[str, Any]
) -> dict[tuple[str, str], np.ndarray]:
    """The bootstrap draws of each run and metric at the decision step: [D], the same resamples of images for every run."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for run in (run for runs in groups.values() for run in runs if (run.name, step) in tables):
        assert run.run
        tokens = read_tokens(
            run.run.table(step), rule["temperature"], [METRICS[name] for name in rule["metrics"]]
        )
        weights = image_weights(len(tokens.images))
        found |= {
            (run.name, name): bootstrap_draws(tokens, METRICS[name], weights)
            for name in tokens.values
        }
    return found


def slices(
    groups: dict[str, list[RunData]], step: int | None, temperature: str
) -> dict[str, Slices]:
    """MAE by slot and by box size, in bins, over the tokens of all seeds. Empty without token tables."""
    found: dict[str, Slices] = {}
    mae = METRICS["expected_bin_mae"]
    for variant, runs in groups.items():
        paths = [run.run.table(step) for run in runs if run.run and step is not None]
        if len(paths) < len(runs) or not all(path.exists() for path in paths):
            continue
        tables = [read_tokens(path, temperature, [mae], slices=True) for path in paths]
        errors, slot, area = (
            np.concatenate(parts)
            for parts in zip(
                *((t.values[mae.name], t.slot, t.box_area_px) for t in tables), strict=True
            )
        )
        by_slot = {str(name): slot == name for name in dict.fromkeys(slot.tolist())}
        by_size = {name: (area >= low) & (area < high) for name, (low, high) in AREA_EDGES.items()}
        found[variant] = Slices(
            by_slot=mean_of(errors, by_slot),
            n_by_slot=count_of(by_slot),
            by_box_size=mean_of(errors, by_size),
            n_by_box_size=count_of(by_size),
        )
    return found


def mean_of(values: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of the values under each mask that holds any  # [C], {name: [C]}"""
    return {name: float(values[mask].mean()) for name, mask in masks.items() if mask.any()}


def count_of(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items() if mask.any()}
