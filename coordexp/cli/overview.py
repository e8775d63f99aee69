"""What lies below results: studies, runs, data and base models, and which of them refers to which.

A study refers to the runs that its preregistration names, a run to its data and its base model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from coordexp.data.prepare import read_data_manifest
from coordexp.errors import UserError
from coordexp.models.base_manifest import read_base_manifest
from coordexp.storage.manifest import RunManifest, read_manifest, require_recorded
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory, holds_results
from coordexp.study.preregistration import FILE, Preregistration, read_preregistration

ASIDE = ".aside-"
LATER_FILES = ("runs.json", "audit.json", "comparison.json", "recommendation.json")  # of a study


def key_of(run: Path) -> str:
    """`<variant>/s<seed>-<hash8>`, or `evaluated/<name>-<hash8>`: the same wherever results lie."""
    return "/".join(run.absolute().parts[-2:])


@dataclass(frozen=True)
class StudyEntry:
    path: Path
    registration: Preregistration

    @property
    def runs(self) -> set[str]:
        """The run directories that it names."""
        return {key_of(Path(run.directory)) for run in self.registration.runs if run.directory}


@dataclass(frozen=True)
class RunEntry:
    """A run: trained by a study, by hand, or evaluated from outside.

    manifest: None while it is not finished.
    config: None where the trainer was killed before it wrote one.
    """

    run: RunDirectory
    manifest: RunManifest | None
    config: RunConfig | None

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def key(self) -> str:
        return key_of(self.path)


@dataclass(frozen=True)
class InputEntry:
    """Data or a base model.

    sha256: of the base model, as the manifests of runs record it; "" of data.
    """

    path: Path
    sha256: str = ""


@dataclass(frozen=True)
class Overview:
    studies: list[StudyEntry]
    runs: list[RunEntry]
    data: list[InputEntry]
    bases: list[InputEntry]
    aside: list[Path] = field(default_factory=list)

    def studies_of(self, run: RunEntry) -> list[StudyEntry]:
        return [study for study in self.studies if run.key in study.runs]

    def runs_of_data(self, data: InputEntry) -> list[RunEntry]:
        return [run for run in self.runs if _uses_data(run, data.path)]

    def runs_of_base(self, base: InputEntry) -> list[RunEntry]:
        return [run for run in self.runs if _uses_base(run, base)]


def overview(results: Path) -> Overview:
    """Read the manifests below `results`.

    Raises:
        UserError: one of them is damaged, or a study has lost its preregistration.
    """
    for study in unregistered(results):
        raise UserError(
            f"{study / FILE}: missing, so nobody can tell which runs {study} needs: restore it, "
            "or remove that directory and run the study again"
        )
    registrations = [p for p in results.glob(f"*/*/{FILE}") if not p.parent.is_symlink()]
    studies = [StudyEntry(path.parent, read_preregistration(path.parent)) for path in registrations]
    studies.sort(key=lambda study: study.registration.written_at, reverse=True)
    directories = [*results.glob("runs/*/*/"), *results.glob("evaluated/*/")]
    return Overview(
        studies,
        runs=_runs(path for path in directories if ASIDE not in path.name),
        data=[_data(path) for path in sorted(results.glob("data/*/data.json"))],
        bases=[_base(path) for path in sorted(results.glob("base/*/base.json"))],
        aside=sorted(path for path in directories if ASIDE in path.name),
    )


def unregistered(results: Path) -> list[Path]:
    """Directories of studies that have lost preregistration.json: it names the runs they need."""
    later = [p.parent for name in LATER_FILES for p in results.glob(f"*/*/{name}")]
    return sorted({d for d in later if not d.is_symlink() and not (d / FILE).exists()})


def _runs(directories: Iterable[Path]) -> list[RunEntry]:
    found = []
    for path in sorted(directories):
        run = RunDirectory(path)
        if holds_results(run) or run.state.exists():
            # It names the data and the base model: an edited one would leave them unused.
            require_recorded(run, run.config)
            config = read_run_config(run) if run.config.exists() else None
            found.append(RunEntry(run, read_manifest(run), config))
    return found


def _data(path: Path) -> InputEntry:
    read_data_manifest(path)
    return InputEntry(path.parent)


def _base(path: Path) -> InputEntry:
    return InputEntry(path.parent, read_base_manifest(path).sha256)


def _uses_data(entry: RunEntry, data: Path) -> bool:
    """Whether a run was trained on these records, or may have been, if it is not finished."""
    if entry.manifest and entry.manifest.data:
        return Path(entry.manifest.data).name == data.name
    return _may_use(entry, "data", data)


def _uses_base(entry: RunEntry, base: InputEntry) -> bool:
    if entry.manifest:
        return entry.manifest.inputs_sha256.base == base.sha256
    return _may_use(entry, "model", base.path)


def _may_use(entry: RunEntry, group: str, directory: Path) -> bool:
    """Whether the configuration names this kind of data or model; <name>-<hash8> is its directory.

    The digest of its contents is not recorded before a run ends.
    """
    if entry.config is None:
        return True
    settings = entry.config.data if group == "data" else entry.config.model
    return directory.name.startswith(f"{settings.get('name')}-")
