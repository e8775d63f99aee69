"""preregistration.json: runs and rule of a study, written before training and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from coordexp.config.digests import digest, flatten, plain
from coordexp.config.schema import RuleConfig
from coordexp.errors import UserError
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import Told
from coordexp.storage.manifest import utc_now
from coordexp.storage.run_config import Settings
from coordexp.storage.runs import RESULTS
from coordexp.study.locate import SourceKind
from coordexp.study.rollout_files import RolloutFile
from coordexp.study.sources import Source
from coordexp.study.study import COMPARE_LOGS, PlannedRun, Study, Vision
from coordexp.study.study_files import read_study_file, write_study_file

FILE = "preregistration.json"


@dataclass(frozen=True, kw_only=True)
class RegisteredRollouts:
    """Rollouts of a run that were handed over, see RolloutFile."""

    path: str
    sha256: str
    step: int | None
    ground_truth: str | None
    ground_truth_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class RegisteredRun:
    """A run of a study: one that the study trains, or one that was handed over."""

    variant: str
    seed: int
    control: bool = False  # it explains a lead, and may hold no role
    hash8: str | None = None  # of a run that the study trains
    directory: str | None = None  # of the run, where it is a run directory
    log: str | None = None  # of a run that was handed over
    kind: SourceKind | None = None  # of what was handed over
    sha256: str | None = None  # of what was handed over
    told: Told | None = None  # of a log that was handed over; null where nothing was told
    overrides: list[str] = field(default_factory=list)  # that train it
    processes: int | None = None  # that train it
    existing: bool  # it had results when the registration was written
    registered: bool = False  # an earlier registration had named it before it had results
    rollouts: RegisteredRollouts | None = None  # that were handed over with it

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"


@dataclass(frozen=True)
class EarlierStudy:
    """An earlier registration of a study of the same name, or of some of the same runs."""

    study: str
    hash8: str
    written_at: str
    seeds: int
    rule_sha256: str
    changed: list[str]  # what it had registered otherwise; empty where no run is shared


@dataclass(frozen=True, kw_only=True)
class Preregistration:
    """preregistration.json."""

    study: str
    hash8: str
    written_at: str  # ISO 8601, UTC
    seeds: int  # per variant
    rule: Settings  # as it was written, also by another version of this project
    rule_sha256: str  # of the rule as it was written
    vision: Vision | None = None  # where no manifest knows it
    probe: Settings | None = None  # settings of the Stage-2 probe
    runs: list[RegisteredRun]
    earlier_studies: list[EarlierStudy] = field(default_factory=list)

    @property
    def decision_rule(self) -> RuleConfig:
        """The rule by its type.

        Raises:
            UserError: it lacks a setting, or holds a value of another type.
        """
        try:
            return msgspec.convert(self.rule, RuleConfig)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{FILE} of {self.study}/{self.hash8}: rule: {error}: damaged, "
                "or written by another version"
            ) from error

    @property
    def controls(self) -> list[str]:
        """The variants that are controls."""
        return list(dict.fromkeys(run.variant for run in self.runs if run.control))

    @property
    def directories(self) -> set[str]:
        """The run directories among the candidates."""
        return {run.directory for run in self.runs if run.directory and not run.control}

    @property
    def rollouts(self) -> list[RolloutFile]:
        """The rollouts that were handed over, in the order of the runs."""
        found = []
        for run in self.runs:
            if (given := run.rollouts) is not None:
                truth = Path(given.ground_truth) if given.ground_truth else None
                file = RolloutFile(
                    run.variant,
                    run.seed,
                    Path(given.path),
                    given.sha256,
                    given.step,
                    truth,
                    given.ground_truth_sha256,
                )
                found.append(file)
        return found


def read_preregistration(study_dir: Path) -> Preregistration:
    """The registration of the study in this directory.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_study_file(study_dir / FILE, Preregistration)


def preregister(study: Study, study_dir: Path | None = None) -> Path:
    """Write runs and rule to the study's directory (or to `study_dir`). Returns the file's path.

    Raises:
        UserError: another study was registered there.
    """
    directory = study_dir or study.path
    path = directory / FILE
    if path.exists():
        existing = read_preregistration(directory)
        if existing.hash8 != study.hash8:
            advice = "choose another directory, or remove that one"
            raise UserError(f"{directory}: holds another study ({existing.hash8}): {advice}")
        return path

    earlier = [e for e in earlier_registrations() if e.hash8 != study.hash8]
    rule_sha256 = digest(plain(study.rule))
    of_run = {(file.variant, file.seed): registered_rollouts(file) for file in study.rollouts}
    runs = []
    for run in [*map(planned, study.runs), *map(handed_over, study.sources)]:
        registered = any(registers(e, run, rule_sha256) for e in earlier)
        control = run.variant in study.controls
        rollouts = of_run.get((run.variant, run.seed))
        runs.append(replace(run, registered=registered, control=control, rollouts=rollouts))
    registration = Preregistration(
        study=study.name,
        hash8=study.hash8,
        written_at=utc_now(),
        seeds=study.seeds,
        rule=plain(study.rule),
        rule_sha256=rule_sha256,
        vision=study.vision,
        probe=plain(study.probe) if study.probe else None,
        runs=runs,
    )
    registration = replace(registration, earlier_studies=related(registration, earlier))
    write_study_file(path, registration)
    return path


def planned(run: PlannedRun) -> RegisteredRun:
    log = run.directory.log
    return RegisteredRun(
        variant=run.variant,
        seed=run.seed,
        hash8=run.hash8,
        directory=str(run.directory.path),
        overrides=list(run.overrides),
        processes=run.processes,
        existing=log.exists() and bool(read_log(log).evals),
    )


def handed_over(source: Source) -> RegisteredRun:
    return RegisteredRun(
        variant=source.variant,
        seed=source.seed,
        directory=str(source.run.path) if source.run else None,
        log=str(source.log_path),
        kind=source.kind,
        sha256=source.sha256,
        told=source.told_of_log,
        existing=True,
    )


def registered_rollouts(file: RolloutFile) -> RegisteredRollouts:
    return RegisteredRollouts(
        path=str(file.path),
        sha256=file.sha256,
        step=file.step,
        ground_truth=str(file.ground_truth) if file.ground_truth else None,
        ground_truth_sha256=file.ground_truth_sha256,
    )


def earlier_registrations() -> list[Preregistration]:
    """Every registration of a study that trains, oldest first.

    Raises:
        UserError: one of the files is damaged.
    """
    found = []
    for path in RESULTS.glob(f"*/*/{FILE}"):
        # Skip the link `latest`: its study is also found under its own name.
        if not path.parent.is_symlink():
            found.append(read_preregistration(path.parent))
    trained = [e for e in found if e.study != COMPARE_LOGS]
    return sorted(trained, key=lambda e: (e.written_at, e.hash8))


def registers(earlier: Preregistration, run: RegisteredRun, rule_sha256: str) -> bool:
    """Whether an earlier study named this run, under the same rule, before the run had results."""
    if run.directory is None or earlier.rule_sha256 != rule_sha256:
        return False
    return any(r.directory == run.directory and not r.existing for r in earlier.runs)


def related(mine: Preregistration, earlier: Sequence[Preregistration]) -> list[EarlierStudy]:
    """The earlier registrations that have the same study name, or share a run."""
    found = []
    for e in earlier:
        shares_runs = bool(e.directories & mine.directories)
        if shares_runs or e.study == mine.study:
            changed = changes(e, mine) if shares_runs else []
            found.append(
                EarlierStudy(e.study, e.hash8, e.written_at, e.seeds, e.rule_sha256, changed)
            )
    return found


def changes(earlier: Preregistration, mine: Preregistration) -> list[str]:
    """The settings of the rule, and the number of seeds, that differ between two registrations."""
    before, now = flatten(earlier.rule), flatten(mine.rule)
    found = []
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            found.append(f"{key} {before.get(key)} (now {now.get(key)})")
    if earlier.seeds != mine.seeds:
        found.append(f"{earlier.seeds} seeds a variant (now {mine.seeds})")
    return found
