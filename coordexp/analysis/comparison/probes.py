"""The Stage-2 probes of a study: the metrics of each candidate, and their paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from coordexp.analysis.comparison.blind import BlindProbe, blind_of_records
from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.pairs import (
    Measured,
    paired_estimates,
    value_estimate,
    variant_pairs,
)
from coordexp.analysis.comparison.probe_findings import Candidate, FineTuneEffect, StudyProbe
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.config.digests import plain
from coordexp.metrics import PROBE_METRICS
from coordexp.resampling import image_weights
from coordexp.storage.run_config import Settings
from coordexp.storage.runs import probe_directory
from coordexp.study.comparison import recipe_of
from coordexp.study.inputs import RunData, by_variant

if TYPE_CHECKING:
    from coordexp.detection.probes import Probed

T = TypeVar("T")

Probes = Mapping[str, "Probed"]  # by run name

# The rollout metrics that are measured before and after the fine-tune, by their name before it.
REPEATED = [name for name in PROBE_METRICS if f"{name}_after" in PROBE_METRICS]


def probe_directories(
    runs: Sequence[RunData], step: int | None, settings: Settings | None
) -> dict[str, Path]:
    """Where the probes of these runs at the decision step lie, by run name."""
    if step is None or settings is None:
        return {}
    directories = {}
    for run in runs:
        if run.run is not None:
            directory = probe_directory(run.run, step, settings)
            if (directory / "probe.json").exists():
                directories[run.name] = directory
    return directories


def read_probes(
    runs: Sequence[RunData], step: int | None, settings: Settings | None
) -> dict[str, Probed]:
    """The finished probes of these runs at the decision step, by run name."""
    directories = probe_directories(runs, step, settings)
    if not directories:
        return {}  # before the import below: reading probes imports matching and scipy.optimize
    from coordexp.detection.probes import read_probe

    found = {}
    for name, directory in directories.items():
        probed = read_probe(directory)
        if probed is not None:
            found[name] = probed
    return found


def probed_otherwise(
    runs: Sequence[RunData], step: int | None, settings: Settings | None
) -> dict[str, list[str]]:
    """Runs with probes of this step with other settings only, and what differs in each of these.

    Such as `images=64, steps=60`.
    """
    found: dict[str, list[str]] = {}
    if step is None or settings is None:
        return found
    own = probe_directories(runs, step, settings)
    for run in runs:
        if run.run is None or run.name in own:
            continue
        for path in sorted((run.run.path / "stage2").glob(f"step-{step:06d}-*/probe.json")):
            recipe = recipe_of(path)
            if recipe is None:
                continue
            differing = [f"{k}={v}" for k, v in plain(recipe).items() if settings.get(k) != v]
            if differing:
                found.setdefault(run.name, []).append(", ".join(differing))
    return found


def probe_study(
    runs: Sequence[RunData], probes: Probes, step: int | None, settings: Settings | None
) -> StudyProbe:
    """What the probes say; without candidates where nothing was probed."""
    measured = {run.name: measure(probes[run.name]) for run in runs if run.name in probes}
    return StudyProbe(
        step=step,
        settings=settings,
        candidates=[candidate(run, probes[run.name]) for run in runs if run.name in probes],
        not_probed=[run.name for run in runs if run.name not in probes],
        means=mean_figures(runs, {name: metrics_of(probed) for name, probed in probes.items()}),
        differences=differences(runs, measured),
        contributions=contributions(runs, measured),
        blind=blind_baselines([probes[run.name] for run in runs if run.name in probes]),
        fine_tune_effects=fine_tune_effects(runs, measured),
        probed_otherwise=probed_otherwise(runs, step, settings),
    )


def candidate(run: RunData, probed: Probed) -> Candidate:
    manifest = probed.manifest
    rows = (probed.directory / "probe.jsonl").read_text().splitlines()
    return Candidate(
        variant=run.variant,
        seed=run.seed,
        status=manifest.status,
        reason=manifest.reason,
        directory=str(probed.directory),
        records=manifest.records,
        images=len(probed.images),
        figures=metrics_of(probed),
        dropped=dict(probed.scores["before"].dropped_by_reason),
        wall_s=manifest.wall_s,
        curve=[json.loads(row) for row in rows],
        temperature=manifest.temperature,
        temperature_source=manifest.temperature_source,
    )


def metrics_of(probed: Probed) -> dict[str, float]:
    """Every metric of one probe; if the fine-tune diverged, the metrics after it are missing."""
    values = {**probed.figures(), "ap": probed.ap}
    slope = probed.manifest.geo_loss_slope_per_step
    if slope is not None:
        values["geo_loss_slope"] = slope
    return values


def mean_figures(
    runs: Sequence[RunData], figures: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Each variant's metrics, averaged over its seeds that have some; `figures` is by run name.

    A metric that one of these seeds lacks is left out.
    """
    found: dict[str, dict[str, float]] = {}
    for variant, of_variant in by_variant(runs).items():
        seeds = [figures[run.name] for run in of_variant if run.name in figures]
        if not seeds:
            continue
        found[variant] = {}
        for name in PROBE_METRICS:
            values = [seed[name] for seed in seeds if name in seed]
            if len(values) == len(seeds):
                found[variant][name] = math.fsum(values) / len(values)
    return found


def differences(runs: Sequence[RunData], measured: Mapping[str, Measured]) -> list[Difference]:
    """Every pair's difference (second minus first) of every metric, paired on seeds and images."""
    probed = [run for run in runs if run.name in measured]
    found = []
    for pair in variant_pairs(by_variant(probed)):
        first = [measured[run.name] for run in pair.first_runs]
        second = [measured[run.name] for run in pair.second_runs]
        for name, estimate in paired_estimates(first, second, PROBE_METRICS).items():
            found.append(
                Difference(
                    first=pair.first,
                    second=pair.second,
                    metric=name,
                    margin=None,
                    difference=estimate.difference,
                    interval=estimate,
                    window=None,
                )
            )
    return found


def contributions(runs: Sequence[RunData], measured: Mapping[str, Measured]) -> dict[str, Estimate]:
    """What the right picture contributes to each variant, with its interval over images."""
    found = {}
    for variant, of_variant in by_variant(runs).items():
        seeds = [measured[run.name] for run in of_variant if run.name in measured]
        estimate = value_estimate(seeds, "visual_contribution")
        if estimate is not None:
            found[variant] = estimate
    return found


def blind_baselines(probes: Sequence[Probed]) -> BlindProbe | None:
    """The blind baselines on the images whose pictures were exchanged.

    None where the probes do not share these images, or no pictures were exchanged.
    """
    from coordexp.data.records import read_records

    shared = set()
    for probed in probes:
        if probed.swapped is None:
            return None
        exchanged = tuple(probed.images[probed.swapped.n_coord > 0].tolist())
        rolled_out = tuple(probed.images[probed.swapped.rolled_out].tolist())
        shared.add((probed.manifest.data_sha256.get("val"), exchanged, rolled_out))
    if len(shared) != 1:
        return None
    _, exchanged, rolled_out = shared.pop()
    records = read_records(Path(probes[0].manifest.records))
    return blind_of_records(records, np.array(exchanged), rolled_out)


def fine_tune_effects(
    runs: Sequence[RunData], measured: Mapping[str, Measured]
) -> list[FineTuneEffect]:
    """What the fine-tune changed in the rollouts of each variant; diverged probes are left out."""
    found = []
    for variant, of_variant in by_variant(runs).items():
        probed = [measured[run.name] for run in of_variant if run.name in measured]
        before = [m for m in probed if any(f"{name}_after" in m.values for name in REPEATED)]
        after = [after_fine_tune(m) for m in before]
        for name, change in paired_estimates(before, after, REPEATED).items():
            found.append(
                FineTuneEffect(
                    variant=variant,
                    metric=name,
                    before=math.fsum(m.values[name] for m in before) / len(before),
                    after=math.fsum(m.values[name] for m in after) / len(after),
                    change=change,
                )
            )
    return found


def after_fine_tune(measured: Measured) -> Measured:
    """The metrics after the fine-tune, by the names that they have before it."""

    def renamed(values: Mapping[str, T]) -> dict[str, T]:
        return {name: values[f"{name}_after"] for name in REPEATED if f"{name}_after" in values}

    return Measured(
        measured.images,
        renamed(measured.values),
        lambda: renamed(measured.influence()),
        lambda: renamed(measured.draws()),
    )


def measure(probed: Probed) -> Measured:
    """The metrics of one probe that have per-image contributions."""

    @cache
    def draws() -> dict[str, np.ndarray]:
        return probed.figures(image_weights(len(probed.images)))

    return Measured(probed.images, probed.figures(), cache(probed.influence), draws)
