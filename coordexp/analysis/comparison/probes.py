"""The Stage-2 probe of a study: each candidate's signals, their paired differences, and what they say of the ranking.

Files of a study: probe.json, which `probe_study` gives. Only per-image data carry an interval; aggregates that were
published elsewhere can be shown beside (`aggregates`), and never change a role.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.pairs import Measured, paired_estimates, variant_pairs
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.errors import UserError
from coordexp.metrics import SIGNALS
from coordexp.resampling import image_weights
from coordexp.storage.files import read_json
from coordexp.storage.runs import probe_directory
from coordexp.study.inputs import RunData, by_variant

if TYPE_CHECKING:
    from coordexp.detection.probes import Probed

Probes = Mapping[str, "Probed"]  # by run name


def read_probes(
    runs: Sequence[RunData], step: int | None, settings: dict[str, Any] | None
) -> dict[str, Probed]:
    """The finished probes of these runs at the decision step."""
    if step is None or settings is None:
        return {}
    places = {run.name: probe_directory(run.run, step, settings) for run in runs if run.run}
    there = {name: place for name, place in places.items() if (place / "probe.json").exists()}
    if not there:
        return {}  # and what reads probes (matching, and scipy's optimisers under it) is not imported
    from coordexp.detection.probes import read_probe

    found = {name: read_probe(place) for name, place in there.items()}
    return {name: probed for name, probed in found.items() if probed}


def probe_study(
    runs: Sequence[RunData], probes: Probes, step: int | None, settings: dict[str, Any] | None
) -> dict[str, Any]:
    """What the probes say, ready for probe.json; empty lists where nothing was probed."""
    return {
        "step": step,
        "settings": settings,
        "candidates": [candidate(run, probes[run.name]) for run in runs if run.name in probes],
        "not_probed": [run.name for run in runs if run.name not in probes],
        "means": means(runs, probes),
        "differences": differences(runs, probes),
        "aggregates": None,
    }


def candidate(run: RunData, probed: Probed) -> dict[str, Any]:
    manifest = probed.manifest
    rows = (probed.directory / "probe.jsonl").read_text().splitlines()
    return {
        "variant": run.variant,
        "seed": run.seed,
        "status": manifest["status"],
        "reason": manifest["reason"],
        "directory": str(probed.directory),
        "records": manifest["records"],
        "images": len(probed.images),
        "figures": signals_of(probed),
        "dropped": dict(probed.scores["before"].dropped_by_reason),
        "wall_s": manifest["wall_s"],
        "curve": [json.loads(row) for row in rows],
    }


def signals_of(probed: Probed) -> dict[str, float]:
    """Every signal of one probe; those of the end are missing where the fine-tune diverged."""
    slope = probed.manifest["geo_loss_slope_per_step"]
    return (
        probed.figures() | {"ap": probed.ap} | ({} if slope is None else {"geo_loss_slope": slope})
    )


def means(runs: Sequence[RunData], probes: Probes) -> dict[str, dict[str, float]]:
    """Each variant's signals, averaged over its probed seeds."""
    found: dict[str, dict[str, float]] = {}
    for variant, mine in by_variant(runs).items():
        seeds = [signals_of(probes[run.name]) for run in mine if run.name in probes]
        shared = [name for name in SIGNALS if seeds and all(name in s for s in seeds)]
        if seeds:
            found[variant] = {
                name: math.fsum(s[name] for s in seeds) / len(seeds) for name in shared
            }
    return found


def differences(runs: Sequence[RunData], probes: Probes) -> list[dict[str, Any]]:
    """Every pair's difference (second minus first) of every signal, paired on seeds and images."""
    probed = [run for run in runs if run.name in probes]
    measured = {run.name: measure(probes[run.name]) for run in probed}
    found = []
    for pair in variant_pairs(by_variant(probed)):
        first = [measured[run.name] for run in pair.first_runs]
        second = [measured[run.name] for run in pair.second_runs]
        for name, estimate in paired_estimates(first, second, SIGNALS).items():
            entry = {"first": pair.first, "second": pair.second, "signal": name}
            found.append(entry | asdict(estimate))
    return found


def measure(probed: Probed) -> Measured:
    """The signals of one probe that have per-image contributions."""

    @cache
    def draws() -> dict[str, np.ndarray]:
        return probed.figures(image_weights(len(probed.images)))

    return Measured(probed.images, probed.figures(), cache(probed.influence), draws)


def signal_differences(probe: Mapping[str, Any]) -> list[Difference]:
    """The differences of probe.json as those of the comparison; no margin is set for a signal."""
    found = []
    for entry in probe["differences"]:
        estimate = Estimate(**{name: entry[name] for name in Estimate.__dataclass_fields__})
        found.append(
            Difference(
                entry["first"],
                entry["second"],
                entry["signal"],
                None,
                estimate.difference,
                estimate,
                None,
            )
        )
    return found


def read_aggregates(path: Path) -> dict[str, Any]:
    """Figures published elsewhere, to be shown beside: {"source", "images", "variants": {name: {"final_step", signal: value}}}.

    Raises:
        UserError: the file is not of that form.
    """
    found = read_json(path)
    variants = found.get("variants") if isinstance(found, dict) else None
    numbers = isinstance(variants, dict) and all(
        isinstance(v, dict) and all(type(x) in (int, float) for x in v.values())
        for v in variants.values()
    )
    if not variants or not numbers or not isinstance(found.get("source"), str):
        raise UserError(
            f'{path}: must be {{"source": "…", "variants": {{"pure_ce": {{"f1_50": 0.564, "final_step": 1932}}, …}}}}'
        )
    return found
