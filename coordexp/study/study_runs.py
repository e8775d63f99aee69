"""runs.json: the runs of a study, as they were when its analysis began."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from coordexp.storage.logs.log import Told
from coordexp.storage.manifest import ImageSides, InputDigests, Preflight, RunManifest, Status
from coordexp.study.locate import SourceKind
from coordexp.study.study_files import read_study_file, write_study_file


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run of a study: where it lies, and what its manifest says (null without a manifest)."""

    variant: str
    seed: int
    control: bool = False  # it explains a lead, and may hold no role
    directory: str | None = None  # of a run directory
    log: str | None = None  # of a run that was handed over
    kind: SourceKind | None = None  # of what was handed over
    sha256: str | None = None  # of what was handed over
    told: Told | None = None  # of a log that was handed over; null where nothing was told
    files: dict[str, str] | None = None  # sha256 of configuration, log, tables and run.json
    prompt: dict[str, str | None] | None = None  # of a checkpoint trained elsewhere: prompt.json

    # From the manifest, see RunManifest.
    status: Status | None = None
    reason: str | None = None
    hash8: str | None = None
    max_steps: int | None = None
    finished_at: str | None = None
    inputs_sha256: InputDigests | None = None
    step: int | None = None
    tokens_seen: int | None = None
    supervised_seen: int | None = None
    train_wall_s: float | None = None
    train_cpu_s: float | None = None
    eval_wall_s: float | None = None
    preflight: Preflight | None = None
    processes: int | None = None
    device: str | None = None
    cell_px: int | None = None
    val_images: int | None = None
    val_images_rendered: int | None = None
    val_images_tiles: int | None = None
    val_sides_px: ImageSides | None = None
    data_notes: list[str] | None = None
    checkpoints: list[int] | None = None
    token_tables: list[int] | None = None
    versions: dict[str, str] | None = None

    def with_manifest(self, manifest: RunManifest) -> StudyRun:
        """The run with the facts of its manifest. Variant and seed stay as the study names them."""
        return replace(
            self,
            status=manifest.status,
            reason=manifest.reason,
            hash8=manifest.hash8,
            max_steps=manifest.max_steps,
            finished_at=manifest.finished_at,
            inputs_sha256=manifest.inputs_sha256,
            step=manifest.step,
            tokens_seen=manifest.tokens_seen,
            supervised_seen=manifest.supervised_seen,
            train_wall_s=manifest.train_wall_s,
            train_cpu_s=manifest.train_cpu_s,
            eval_wall_s=manifest.eval_wall_s,
            preflight=manifest.preflight,
            processes=manifest.processes,
            device=manifest.device,
            cell_px=manifest.cell_px,
            val_images=manifest.val_images,
            val_images_rendered=manifest.val_images_rendered,
            val_images_tiles=manifest.val_images_tiles,
            val_sides_px=manifest.val_sides_px,
            data_notes=manifest.data_notes,
            checkpoints=manifest.checkpoints,
            token_tables=manifest.token_tables,
            versions=manifest.versions,
        )


@dataclass(frozen=True)
class StudyRuns:
    """runs.json."""

    runs: list[StudyRun]


def read_study_runs(study_dir: Path) -> list[StudyRun]:
    """The runs that a study's runs.json names.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_study_file(study_dir / "runs.json", StudyRuns).runs


def write_study_runs(study_dir: Path, runs: list[StudyRun]) -> None:
    write_study_file(study_dir / "runs.json", StudyRuns(runs))
