"""Paths and address of the MLflow database, and experiment.json, which names its experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.runs import RESULTS
from coordexp.storage.typed import read_typed

ROOT = RESULTS / "mlflow"
EXPERIMENT = "coordexp-stage1"
HOST, PORT = "127.0.0.1", 5000
VIEW = "comparable"  # columns and charts of the page that links open (view.py)


@dataclass(frozen=True)
class Experiment:
    """experiment.json."""

    experiment_id: str
    tracking_uri: str
    name: str


def read_experiment(path: Path) -> Experiment:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, Experiment)


def ui_link(experiment_id: str, port: int = PORT) -> str:
    """The URL of the page that shows the comparable metrics of all runs side by side."""
    page = f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs"
    return f"{page}?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
