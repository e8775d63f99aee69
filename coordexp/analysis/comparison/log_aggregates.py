"""Rollout figures that the trainers wrote into the logs: aggregates, beside the comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordexp.analysis.comparison.probe_findings import PUBLISHED_METRICS, Aggregates
from coordexp.storage.logs.rollout_figures import rollout_figures
from coordexp.study.inputs import RunData, by_variant

SOURCE = "the trainers' own evaluation"
NOTE = "what the trainers evaluate (images, decoding, matching) is not known"


def log_aggregates(runs: Sequence[RunData], step: int | None) -> Aggregates | None:
    """The figures of each variant at the decision step; None with fewer than two variants.

    A run without figures at that step gives its last ones; `final_step` says the step. A figure is
    averaged over the seeds of a variant, if all of them have it.
    """
    variants: dict[str, dict[str, int | float]] = {}
    for variant, of_variant in by_variant(runs).items():
        rows = [figures_by_step(run) for run in of_variant]
        if not all(rows):
            continue
        steps = [step if step is not None and step in of_run else max(of_run) for of_run in rows]
        at_step = [of_run[at] for of_run, at in zip(rows, steps, strict=True)]
        found: dict[str, int | float] = {
            name: math.fsum(row[name] for row in at_step) / len(at_step)
            for name in PUBLISHED_METRICS
            if all(name in row for row in at_step)
        }
        if found:
            variants[variant] = {**found, "final_step": max(steps)}
    if len(variants) < 2:
        return None
    return Aggregates(SOURCE, variants, notes=[NOTE], of_logs=True)


def figures_by_step(run: RunData) -> dict[int, dict[str, float]]:
    """The figures of a run's rollouts at each step that has some."""
    found = {step: rollout_figures(row) for step, row in run.log.rollouts.items()}
    return {step: row for step, row in found.items() if row}
