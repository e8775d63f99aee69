"""What the Stage-2 probes of a study found: the types of probe.json, its reader and its writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coordexp.analysis.comparison.blind import BlindProbe
from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.config.limits import LAST_STEP
from coordexp.errors import UserError
from coordexp.metrics import impossible_figure
from coordexp.storage.files import DAMAGED
from coordexp.storage.run_config import Settings
from coordexp.storage.typed import read_typed
from coordexp.study.study_files import read_study_file, write_study_file

_AGGREGATES_FORM = (
    'must be {"source": "…", "variants": {"pure_ce": {"f1_50": 0.564, "final_step": 1932}, …}}'
)
# By the first of these that every published variant has, they are ranked. Shares from 0 to 1.
PUBLISHED_METRICS = ("f1_50", "f1_50_agnostic", "ap", "ap_50")


@dataclass(frozen=True)
class Candidate:
    """One probed run.

    reason: why the fine-tune did not come to its end; None where it did.
    images: how many were rolled out.
    figures: the metrics of the probe; those after the fine-tune are missing where it diverged.
    dropped: objects of the first rollouts that broke the grammar, by reason.
    wall_s: seconds by part.
    curve: the losses of the fine-tune, with its step.
    temperature: at which expected coordinates were decoded.
    temperature_source: `token table` (fitted), `setting`, or `no token table` (T = 1).
    """

    variant: str
    seed: int
    status: str
    reason: str | None
    directory: str
    records: str
    images: int
    figures: dict[str, float]
    dropped: dict[str, int]
    wall_s: dict[str, float]
    curve: list[dict[str, int | float]]
    temperature: float | None = None
    temperature_source: str | None = None


@dataclass(frozen=True)
class FineTuneEffect:
    """A rollout metric of one variant before and after the fine-tune, over its complete probes.

    metric: its name before the fine-tune.
    before, after: averaged over the seeds.
    change: after minus before, paired on seeds and images.
    """

    variant: str
    metric: str
    before: float
    after: float
    change: Estimate


@dataclass(frozen=True)
class Aggregates:
    """Rollout figures without per-image data: published elsewhere, or of the logs.

    variants: the figures of each, by the name of the probe's metric, and its `final_step`.
    images: how many were rolled out, where the source says.
    notes: what else confounds them.
    of_logs: the trainers wrote them into the logs that are compared.
    """

    source: str
    variants: dict[str, dict[str, int | float]]
    images: int | None = None
    notes: list[str] = field(default_factory=list)
    of_logs: bool = False


@dataclass(frozen=True)
class HandedOverFile:
    """Rollouts of one run that were handed over, as a file of another evaluator or of this one.

    run: its name, such as `mixed s0`.
    step: of the checkpoint; None where it is not known.
    images: in the file; left_out: those of them that some other file does not have.
    dropped: objects that could not be taken, by reason.
    doubts: what else is odd about the file.
    scores: whether AP could rank the predictions: by scores that differ, or that are all the same.
    """

    run: str
    variant: str
    seed: int
    path: str
    sha256: str
    ground_truth: str | None
    format: str
    step: int | None
    images: int
    left_out: int
    dropped: dict[str, int]
    doubts: list[str]
    scores: Literal["ranked", "constant", "none"]
    knows_parsing: bool
    knows_truncation: bool


@dataclass(frozen=True)
class HandedOver:
    """Rollouts that were handed over; they are compared in place of the probes of the runs.

    images: that every file has; on these alone the variants are compared.
    unused_probes: names of runs that were probed too.
    """

    files: list[HandedOverFile]
    images: int
    unused_probes: list[str]


@dataclass(frozen=True)
class StudyProbe:
    """The content of probe.json; without candidates where nothing was probed.

    settings: the recipe that every candidate was probed with.
    not_probed: names of runs.
    probed_otherwise: of these, the runs that were probed at this step with other settings, and
        which settings differ: they cannot be compared.
    means: the metrics of each variant, averaged over its probed seeds.
    differences: of every pair, paired on seeds and images; no margin is set for these metrics.
    fine_tune_effects: of each variant and each rollout metric that is measured twice.
    aggregates: shown beside; they never change a role.
    contributions: by variant, MAE with another picture minus MAE with the right one, in bins,
        paired over images; missing where no pictures could be exchanged.
    blind: what is reached without a picture on the same images; None if the probes do not share
        them.
    handed_over: where the rollouts are not those of probes; then nothing was fine-tuned.
    """

    step: int | None
    settings: Settings | None
    candidates: list[Candidate]
    not_probed: list[str]
    means: dict[str, dict[str, float]]
    differences: list[Difference]
    aggregates: Aggregates | None = None
    contributions: dict[str, Estimate] = field(default_factory=dict)
    blind: BlindProbe | None = None
    fine_tune_effects: list[FineTuneEffect] = field(default_factory=list)
    handed_over: HandedOver | None = None
    probed_otherwise: dict[str, list[str]] = field(default_factory=dict)


def read_study_probe(study_dir: Path) -> StudyProbe:
    """Raises UserError: probe.json is missing or of another form, or has an impossible figure."""
    path = study_dir / "probe.json"
    probe = read_study_file(path, StudyProbe)
    figures = [(f"means of {variant}", values) for variant, values in probe.means.items()]
    figures += [(f"{c.variant} s{c.seed}", c.figures) for c in probe.candidates]
    for whose, values in figures:
        if problem := impossible_figure(values):
            raise UserError(f"{path}: {whose}: {problem}: {DAMAGED}")
    for variant, values in probe.means.items():
        if "parse_rate" not in values and probe.handed_over is None:
            raise UserError(f"{path}: means of {variant}: no parse_rate: {DAMAGED}")
    return probe


def write_study_probe(study_dir: Path, probe: StudyProbe) -> None:
    write_study_file(study_dir / "probe.json", probe)


def read_aggregates(path: Path) -> Aggregates:
    """Figures published elsewhere, from a JSON file.

    Raises:
        UserError: the file is missing or not of that form, or a figure is impossible.
    """
    found = read_typed(path, Aggregates, advice=_AGGREGATES_FORM)
    if not found.variants:
        raise UserError(f"{path}: no variants: {_AGGREGATES_FORM}")
    if found.images is not None and found.images < 1:
        raise UserError(f"{path}: images is {found.images}: must be at least 1")
    for variant, figures in found.variants.items():
        if problem := impossible_figure(figures):
            raise UserError(f"{path}: {variant}: {problem}")
        step = figures.get("final_step", 0)
        if not (isinstance(step, int) and 0 <= step <= LAST_STEP):
            raise UserError(f"{path}: {variant}: final_step is {step}, no step of a training")
    return found
