"""`coordexp verify`: read every file below results again, and compare it with what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coordexp.analysis.audit.findings import read_audit
from coordexp.analysis.comparison.findings import read_comparison
from coordexp.analysis.comparison.probe_findings import read_study_probe
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.overview import unregistered
from coordexp.data.prepare import read_data_manifest
from coordexp.detection.probe_manifest import MissingProbe, read_probe_manifest
from coordexp.detection.probes import require_same_checkpoint
from coordexp.errors import UserError, one_line
from coordexp.models.base_manifest import read_base_manifest
from coordexp.storage.files import read_with_checksum, sha256_directory, sha256_file
from coordexp.storage.identity import SOURCES, read_sources
from coordexp.storage.manifest import RunManifest
from coordexp.storage.run_config import read_run_config
from coordexp.storage.runs import RESULTS, RunDirectory, run_directory
from coordexp.storage.typed import read_typed
from coordexp.study.preregistration import FILE, read_preregistration
from coordexp.study.study_files import DIGESTS, read_digests, require_inputs
from coordexp.study.study_runs import read_study_runs
from coordexp.study.tracked import read_tracked_study

STUDY_READERS: dict[str, Callable[[Path], object]] = {
    DIGESTS: read_digests,
    "preregistration.json": read_preregistration,
    "runs.json": read_study_runs,
    "audit.json": read_audit,
    "comparison.json": read_comparison,
    "probe.json": read_study_probe,
    "recommendation.json": read_recommendation,
    "mlflow.json": read_tracked_study,
}


@dataclass(frozen=True)
class Verified:
    """What was found of one directory below results.

    n_files: files and directories that were compared with a digest.
    fault: the first difference; "" if there is none.
    """

    path: Path
    kind: str
    n_files: int
    fault: str = ""


def verify(results: Path) -> Iterator[Verified]:
    """Compare base models, data, runs, probes and studies below `results` with their records.

    Every file is read: the store of digests is not used.
    """
    for kind, pattern, check in (
        ("base model", "base/*/base.json", _base),
        ("data", "data/*/data.json", _data),
        ("run", "runs/*/*/run.json", _run),
        ("unfinished run", "runs/*/*/state/state.pt", _state),
        ("probe", "*/**/stage2/*/probe.json", _probe),
        ("study", "*/*/preregistration.json", _study),
    ):
        for path in sorted(results.glob(pattern)):
            if path.parent.is_symlink():  # results/<study>/latest
                continue
            yield _verified(path, _study_kind(path) if kind == "study" else kind, check)
    for study in unregistered(results):
        yield Verified(study, "study", 1, f"{FILE}: missing")


def _study_kind(path: Path) -> str:
    """What a study still lacks: no file is made from these two, so none can miss them."""
    if not path.with_name("recommendation.json").exists():
        return "unfinished study"
    return "study" if path.with_name("mlflow.json").exists() else "study, not in MLflow"


def _verified(path: Path, kind: str, check: Callable[[Path], Iterator[str]]) -> Verified:
    """Run a check, which yields a fault or "" for each file."""
    n_files = 0
    try:
        for fault in check(path):
            n_files += 1
            if fault:
                return Verified(path.parent, kind, n_files, fault)
    except (UserError, OSError) as error:
        return Verified(path.parent, kind, n_files + 1, one_line(error))
    return Verified(path.parent, kind, n_files)


def _difference(path: Path, recorded: str) -> str:
    if not path.exists():
        return f"{path.name}: missing"
    found = sha256_directory(path) if path.is_dir() else sha256_file(path)
    if found == recorded:
        return ""
    return f"{path.name}: sha256 {found[:12]}, recorded {recorded[:12]}"


def _base(path: Path) -> Iterator[str]:
    yield _difference(path.parent / "model", read_base_manifest(path).sha256)
    yield from _sources(path.parent)


def _sources(directory: Path) -> Iterator[str]:
    if (directory / SOURCES).exists():
        read_sources(directory)
        yield ""


def _data(path: Path) -> Iterator[str]:
    manifest = read_data_manifest(path)
    for split, facts in (("train", manifest.train), ("val", manifest.val)):
        yield _difference(path.parent / f"{split}.jsonl", facts.records_sha256)
        yield _difference(path.parent / "images" / split, facts.images_sha256)
    yield from _sources(path.parent)


def _run(path: Path) -> Iterator[str]:
    run, manifest = RunDirectory(path.parent), read_typed(path, RunManifest)
    for name, recorded in manifest.artifacts.items():
        # A checkpoint may have been removed to save space.
        if (run.path / name).exists() or not name.startswith("checkpoints/"):
            yield _difference(run.path / name, recorded)
    if fault := _misplaced(run):
        yield fault


def _misplaced(run: RunDirectory) -> str:
    """What is wrong if a run's directory was renamed to that of another one."""
    config = read_run_config(run)
    meant = run_directory(config.variant_name, config.seed, run.path.name.rpartition("-")[2])
    if run.path.parts[-2:] == meant.path.parts[-2:]:
        return ""
    return f"config.yaml: of {config.variant_name}, seed {config.seed}: not of this directory"


def _state(path: Path) -> Iterator[str]:
    read_with_checksum(path, "remove it to train this run again from step 0")
    yield ""


def _probe(path: Path) -> Iterator[str]:
    manifest = read_probe_manifest(path)
    yield ""
    if not isinstance(manifest, MissingProbe):
        require_same_checkpoint(path.parent, manifest)
        for name, recorded in manifest.artifacts.items():
            yield _difference(path.parent / name, recorded)


def _study(path: Path) -> Iterator[str]:
    """A file that no later one was made from may be missing: the study is not finished."""
    for name, read in STUDY_READERS.items():
        file = path.with_name(name)
        if file.exists():
            read(path.parent)
            require_inputs(file)
            yield ""
        elif name == DIGESTS:
            yield f"{name}: missing"
    if path.with_name("runs.json").exists():
        yield from _audited_manifests(path)


def _audited_manifests(path: Path) -> Iterator[str]:
    """run.json of each run below results, as it was at the audit."""
    for entry in read_study_runs(path.parent):
        directory = Path(entry.directory or "")
        if not directory.is_relative_to(RESULTS):
            continue
        # As seen from where the study was made.
        directory = path.parents[2] / directory.relative_to(RESULTS)
        if not directory.exists():
            yield f"{directory}: missing, but the study names it"
        recorded = (entry.files or {}).get("run.json")
        if recorded is not None and (directory / "run.json").exists():
            fault = _difference(directory / "run.json", recorded)
            yield f"{directory}/{fault}" if fault else ""
