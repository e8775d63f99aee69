"""What was measured of a checkpoint: for the table of its model card and for its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.analysis.comparison.findings import Comparison, read_comparison
from coordexp.analysis.comparison.probe_findings import read_study_probe
from coordexp.metrics import PROBE_METRICS, REGISTRY, metric_values
from coordexp.publish.chosen import Chosen
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.manifest import require_recorded

AFTER = "_after"  # of the names of what a probe measures after its fine-tune: of other weights
# The temperature of the coordinates' softmax.
AT = {
    "1": ", temperature 1",
    "own": ", the training's own temperature",
    "fitted": ", judged half, temperature fitted to the other half",
}


@dataclass(frozen=True)
class Result:
    """One figure. `of` says on what it was measured, and of which weights."""

    name: str
    label: str
    value: float
    of: str

    @property
    def shown(self) -> str:
        return f"{self.value:.4g}"


def results_of(chosen: Chosen) -> list[Result]:
    """The metrics that a study compares by, and its rollouts; of a run its own evaluation."""
    if chosen.study is None or chosen.found is None or chosen.role is None:
        return evaluated(chosen)
    seeds = chosen.found.study.seeds
    of = judged_on(read_comparison(chosen.study)) + f", mean of {seeds} seeds" * (seeds > 1)
    found = [Result(name, label(name), v, of) for name, v in chosen.role.metrics.items()]
    return found + rolled_out(chosen.study, chosen)


def judged_on(comparison: Comparison) -> str:
    """The images that a study's metrics are of, and the temperature."""
    if comparison.unfitted:
        return f"validation, {comparison.unfitted}"
    return f"validation{AT[comparison.temperature]}"


def evaluated(chosen: Chosen) -> list[Result]:
    """Of the run's log at the checkpoint's step, at temperature 1.

    Raises:
        UserError: the log is not what run.json records of it.
    """
    log = chosen.run.log
    if not log.exists():  # a run may be handed over without its log
        return []
    require_recorded(chosen.run, log)
    rows = read_log(log).evals
    values = metric_values(rows.get(chosen.step, {}), "1")
    return [
        Result(name, label(name), value, f"validation{AT['1']}") for name, value in values.items()
    ]


def rolled_out(study: Path, chosen: Chosen) -> list[Result]:
    """Of the checkpoint's greedy answers, where it was probed."""
    if not (study / "probe.json").exists():
        return []
    role, found = chosen.role, []
    for candidate in read_study_probe(study).candidates:
        if role is None or (candidate.variant, candidate.seed) != (role.variant, role.seed):
            continue
        of = f"greedy answers for {candidate.images} validation pictures"
        for name, metric in PROBE_METRICS.items():
            if name in candidate.figures and metric.decides and is_of_checkpoint(name):
                found.append(Result(name, metric.label, candidate.figures[name], of))
    return found


def is_of_checkpoint(name: str) -> bool:
    """Whether a figure is of the checkpoint itself, not of its fine-tune."""
    return not name.endswith(AFTER) and not name.startswith("geo_loss")


def label(name: str) -> str:
    metric = REGISTRY[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label
