"""The input of an analysis: the runs of a study directory, read from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.digest_store import known_sha256
from coordexp.storage.logs.jsonl import read_log_if_any
from coordexp.storage.logs.log import UNTOLD, Log
from coordexp.storage.manifest import RunManifest, evidence_digests, read_manifest
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.study.preregistration import RegisteredRun, read_preregistration
from coordexp.study.sources import Source, parse_sources, read_source, source_sha256
from coordexp.study.study_runs import StudyRun, read_study_runs, write_study_runs
from coordexp.study.told import OWN


@dataclass(frozen=True)
class RunData:
    """One run: its log and, for a run directory, its manifest and configuration."""

    variant: str
    seed: int
    log: Log
    run: RunDirectory | None = None
    manifest: RunManifest | None = None
    config: RunConfig | None = None
    control: bool = False  # it explains a lead, and may hold no role

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"

    def train_setting(self, key: str) -> Any:
        """A setting of the group `train`; None without a configuration."""
        return self.config.train.get(key) if self.config else None

    @property
    def diverged(self) -> bool:
        return self.manifest is not None and self.manifest.status == "diverged"


def collect(study_dir: Path) -> list[RunData]:
    """The runs that the study's preregistration names; they are written to `runs.json`.

    Raises:
        UserError: a run that the study trains is not finished, or a log has changed since.
    """
    plan = read_preregistration(study_dir)
    write_study_runs(study_dir, [study_run(run) for run in plan.runs])
    return load_runs(study_dir)


def study_run(run: RegisteredRun) -> StudyRun:
    """The entry of runs.json for a registered run.

    Raises:
        UserError: the study trains it, and it is not finished, or its directory holds another.
    """
    entry = StudyRun(
        variant=run.variant,
        seed=run.seed,
        control=run.control,
        directory=run.directory,
        log=run.log,
        kind=run.kind,
        sha256=run.sha256,
        told=run.told,
    )
    if run.directory:
        entry = replace(entry, files=study_digests(RunDirectory(Path(run.directory))))
    manifest = read_manifest(RunDirectory(Path(run.directory))) if run.directory else None
    if manifest is not None:
        if run.hash8 not in (None, manifest.hash8):
            raise UserError(
                f"{run.directory}/run.json: of the run {manifest.hash8}, not of {run.hash8}: put "
                "back what belongs there, or remove the directory to train again"
            )
        return entry.with_manifest(manifest)
    if run.log is None:
        raise UserError(
            f"{run.directory}: not finished: run `snakemake --cores all stage1_ablation`"
        )
    if run.directory:
        config = read_run_config(RunDirectory(Path(run.directory)))
        return replace(entry, prompt=config.prompt or None)
    return entry


def study_digests(run: RunDirectory) -> dict[str, str]:
    """sha256 of the files of a run that an analysis reads, run.json among them."""
    digests = evidence_digests(run)
    if run.manifest.exists():
        digests[run.manifest.name] = known_sha256(run.manifest)
    return digests


def load_runs(study_dir: Path) -> list[RunData]:
    """The runs noted in `runs.json`, with their logs read.

    Raises:
        UserError: a file of a run has changed since the study began, or cannot be read.
    """
    entries = read_study_runs(study_dir)
    for entry in entries:
        require_unchanged(study_dir, entry)
    return [replace(load_study_run(entry), control=entry.control) for entry in entries]


def require_unchanged(study_dir: Path, entry: StudyRun) -> None:
    """Refuse a run directory whose configuration, log, tables or run.json are not the audit's.

    Raises:
        UserError: a file has changed since, is gone or is new.
    """
    if entry.directory is None or entry.files is None:
        return
    run = RunDirectory(Path(entry.directory))
    found = study_digests(run)
    if run.manifest.name not in entry.files:  # of an earlier version, or it finished since
        found.pop(run.manifest.name, None)
    for name in sorted(found.keys() | entry.files.keys()):
        if found.get(name) != entry.files.get(name):
            advice = f"restore it, or remove {study_dir / 'runs.json'} to audit the study again"
            raise UserError(f"{run.path / name}: has changed since the audit: {advice}")


def load_study_run(entry: StudyRun) -> RunData:
    """Load the run of an entry of runs.json.

    Raises:
        UserError: a log has changed since the study began, or a file cannot be read.
    """
    if entry.directory is not None:
        return load_run_directory(entry.variant, entry.seed, RunDirectory(Path(entry.directory)))
    source = source_of(entry)
    if source_sha256(source.path, source.kind) != source.sha256:
        raise UserError(
            f"{source.path}: has changed since the study began: start the same command again"
        )
    return load_source(source)


def load_run(path: str | Path) -> RunData:
    """One run: its log, and of a run directory also its manifest and configuration.

    Args:
        path: a run directory, or a log of this project or another trainer (docs/logs.md).

    Returns:
        The run; `log.train` and `log.evals` hold the values by key of each step. Losses are in
        nats, distances in bins (a bin is 1/999 of the image side). `variant` comes from the
        configuration of a run directory; for a log alone it is "run".

    Raises:
        UserError: nothing there can be read, or it holds more than one run.
    """
    sources = parse_sources([f"run={path}"])
    if len(sources) > 1:
        raise UserError(f"{path}: holds {len(sources)} runs: give the path of one")
    run = load_source(sources[0])
    if run.config is None:
        return run
    return replace(run, variant=run.config.variant_name)


def load_source(source: Source) -> RunData:
    """The run that a NAME=PATH stands for."""
    if source.run is not None:
        return load_run_directory(source.variant, source.seed, source.run)
    return RunData(source.variant, source.seed, read_source(source))


def load_run_directory(variant: str, seed: int, run: RunDirectory) -> RunData:
    """A run directory's log, manifest and configuration."""
    config = read_run_config(run)
    # A run may diverge before its first row: then there is no log.
    log = read_log_if_any(run.log, OWN)
    return RunData(variant, seed, log, run, read_manifest(run), config)


def source_of(entry: StudyRun) -> Source:
    """The log or event files that a study's entry names.

    Raises:
        UserError: the entry names no log.
    """
    if entry.log is None or entry.kind is None or entry.sha256 is None:
        raise UserError(
            f"runs.json: {entry.variant} s{entry.seed} has no directory, nor log, kind and sha256"
        )
    path, told = Path(entry.log), entry.told or UNTOLD
    return Source(entry.variant, entry.seed, path, entry.kind, entry.sha256, None, told=told)


def candidates(runs: Sequence[RunData]) -> list[RunData]:
    """The runs that may be recommended: all but the controls."""
    return [run for run in runs if not run.control]


def by_variant(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs of each variant by seed; variants in the order the study names them."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return {variant: sorted(mine, key=lambda run: run.seed) for variant, mine in groups.items()}
