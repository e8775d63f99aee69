"""mlflow.json: what the import of a study made in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.typed import read_typed
from coordexp.study.study_files import require_as_written, write_study_file


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

    It may be of an earlier import: the card is written before the next one.

    Raises:
        UserError: the file is damaged or edited.
    """
    path = study_dir / "mlflow.json"
    if not path.exists():
        return None
    found = read_typed(path, TrackedStudy)
    require_as_written(path)
    return found


def write_tracked_study(study_dir: Path, tracked: TrackedStudy) -> None:
    write_study_file(study_dir / "mlflow.json", tracked)
