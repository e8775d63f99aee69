"""Compare runs that exist already: the steps of a study in order, without the workflow."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from coordexp.analysis.comparison.probe_findings import (
    read_aggregates,
    read_study_probe,
    write_study_probe,
)
from coordexp.analysis.recommendation.findings import Recommendation, read_recommendation
from coordexp.cli.steps import STUDY_STEPS
from coordexp.config.rule_file import load_rule
from coordexp.errors import UserError
from coordexp.study.comparison import default_rule, plan_comparison
from coordexp.study.preregistration import preregister, read_preregistration
from coordexp.study.sources import parse_sources
from coordexp.study.study_files import DIGESTS


def is_new(out: Path) -> bool:
    """Whether nothing is there, or only what a writer left that ended before its first file."""
    if not out.is_dir():
        return not out.exists()
    return all(path.name == DIGESTS or path.suffix == ".tmp" for path in out.iterdir())


def compare(
    runs: Mapping[str, str | Path] | Sequence[str],
    out: str | Path,
    *,
    rule: str | Path | None = None,
    image_side: int | None = None,
    cell: int | None = None,
    evidence: str | Path | None = None,
    controls: Sequence[str] = (),
    temperatures: Sequence[str] = (),
    eval_sets: Sequence[str] = (),
    rollouts: Mapping[str, str | Path] | Sequence[str] = (),
    ground_truth: str | Path | None = None,
) -> Recommendation:
    """Audit and compare runs that exist already, and apply the decision rule. Trains nothing.

    Args:
        runs: paths by variant name, or a sequence of "NAME=PATH"; a repeated name stands for
            several seeds. A path is a log (docs/logs.md lists what is read), or a run, study,
            checkpoint or output directory.
        out: the study directory to write: new, empty, or from the same comparison.
        rule: a YAML file with a decision rule, or with what differs from the default one
            (`default_rule` says which that is).
        image_side: side of the validation images in pixels, where only logs are given.
        cell: side of the area that one visual token covers, in pixels.
        evidence: a JSON file of published rollout figures, shown beside the comparison.
        controls: names of runs that are measured to explain a lead; they may hold no role.
        temperatures: "NAME=T": the temperature of a log's `coord_diag/*`, where it does not say it.
        eval_sets: "NAME=SET", or "SET" for every log: which of several evaluation sets to read.
        rollouts: files of per-image predictions by name of the run, or a sequence of "NAME=FILE";
            a repeated name stands for its next seed. They decide before the metrics.
        ground_truth: COCO annotations or records, for rollouts that hold no ground truth.

    Returns:
        The decision, as written to out/recommendation.json. Metrics are in the units of
        `coordexp.metrics`.

    Raises:
        UserError: a source cannot be found or read, or `out` holds something else. A new `out` is
            then left empty.
    """
    if isinstance(runs, Mapping):
        runs = [f"{name}={path}" for name, path in runs.items()]
    if isinstance(rollouts, Mapping):
        rollouts = [f"{name}={path}" for name, path in rollouts.items()]
    out = Path(out)
    sources = parse_sources(runs, temperatures, eval_sets)
    decision_rule = default_rule(sources, bool(rollouts))
    if rule:
        decision_rule = load_rule(Path(rule), decision_rule)
    study = plan_comparison(
        sources,
        decision_rule,
        image_side,
        cell,
        controls,
        rollouts,
        Path(ground_truth) if ground_truth else None,
    )
    starts_new = is_new(out)
    if not starts_new and not (out / "preregistration.json").exists():
        raise UserError(f"{out}: exists and is not a study directory: choose another --out")
    preregister(study, out)
    try:
        for name in ("audit", "compare", "collect-probes", "recommend", "report"):
            STUDY_STEPS[name](out)
            if name == "collect-probes" and evidence:
                _add_evidence(out, Path(evidence))
    except UserError:
        if starts_new:  # a partial study would refuse the corrected command
            _empty(out)
        raise
    return read_recommendation(out)


def _add_evidence(study: Path, evidence: Path) -> None:
    published = read_aggregates(evidence)
    names = list(dict.fromkeys(run.variant for run in read_preregistration(study).runs))
    if not set(names) & set(published.variants):
        raise UserError(
            f"{evidence}: no figures of {', '.join(names)}, but of "
            f"{', '.join(published.variants)}: name them as in NAME=PATH"
        )
    probe = read_study_probe(study)
    if probe.aggregates is not None:
        note = f"figures of {probe.aggregates.source} in the logs stand aside for these"
        published = replace(published, notes=[*published.notes, note])
    write_study_probe(study, replace(probe, aggregates=published))


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
