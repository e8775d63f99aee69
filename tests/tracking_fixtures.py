"""An empty project with an MLflow database, for the tests of its import and server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from coordexp.tracking import mlflow_import as tracking


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema without an experiment: it takes seconds to make, so it is made once."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """An empty project, in a directory whose name a URI must quote; we stand in it."""
    path = tmp_path / "project %41 #1"
    (path / tracking.ROOT).mkdir(parents=True)
    monkeypatch.chdir(path)
    shutil.copy(empty_database, tracking.ROOT / "mlflow.db")
    return path
