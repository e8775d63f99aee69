"""mlflow.json: what the import of a study made in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.typed import read_typed, write_typed


@dataclass(frozen=True)
class TrackedStudy:
    """mlflow.json."""

    experiment_id: str
    runs: dict[str, str]  # id of the MLflow run, by run key
    comparison_run_id: str
    models: dict[str, int | None]  # version of the registered model, by role
    ui_link: str


def read_tracked_study(study_dir: Path) -> TrackedStudy | None:
    """What mlflow.json says, or None while the study has not been imported.

    Raises:
        UserError: the file is damaged.
    """
    path = study_dir / "mlflow.json"
    return read_typed(path, TrackedStudy) if path.exists() else None


def write_tracked_study(study_dir: Path, tracked: TrackedStudy) -> None:
    write_typed(study_dir / "mlflow.json", tracked)
