"""experiment.json and mlflow.json: what this project notes of an MLflow database.

They are read by the server and by the report, so this file does not import mlflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.typed import read_typed


@dataclass(frozen=True)
class Experiment:
    """experiment.json: where the runs are found in MLflow."""

    experiment_id: str
    tracking_uri: str
    name: str


@dataclass(frozen=True)
class ImportedStudy:
    """mlflow.json: what a study's import made in MLflow."""

    experiment_id: str
    runs: dict[str, str]  # id by run key
    comparison_run_id: str
    models: dict[str, int | None]  # version of the registered model, by role
    ui_link: str


def read_experiment(path: Path) -> Experiment:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, Experiment)


def read_imported(path: Path) -> ImportedStudy:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, ImportedStudy)
