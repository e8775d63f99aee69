"""Runs that are imported into MLflow, and what its database then holds."""

from __future__ import annotations

import multiprocessing
import sqlite3

from conftest import composed
from mlflow import MlflowClient
from studies import run_manifest

from coordexp.storage.files import write_text
from coordexp.storage.logs.writer import LogWriter
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory, run_directory, write_config
from coordexp.tracking import mlflow_import as tracking

# A fork of this process has MLflow imported.
FORK = multiprocessing.get_context("fork")
TRAIN = {"loss": 3.0, "coord_diag/expected_bin_mae": 200.0}
EVAL = {"loss": 2.5, "coord_diag/expected_bin_mae": 190.0, "coord_token_acc": 0.25}
STARTED_S = 1_700_000_000.5


def make_run(
    variant: str = "mixed",
    seed: int = 0,
    steps: tuple[int, ...] = (2, 4),
    started_s: float = STARTED_S,
) -> RunDirectory:
    """A run that is being trained: configuration and log, an eval row at its last step."""
    run = run_directory(variant, seed, "0badcafe")
    write_config(run, composed(f"variant={variant}", f"seed={seed}"))
    for step in steps:
        log(run, "train", step, TRAIN, started_s)
    log(run, "eval", steps[-1], EVAL, started_s + 0.25)
    return run


def log(
    run: RunDirectory, kind: str, step: int, values: dict[str, float], started_s: float = STARTED_S
) -> None:
    LogWriter(run.log, max_steps=8).append(kind, step, values | {"time_unix_s": started_s + step})


def finish(run: RunDirectory, status: str = "complete", reason: str | None = None) -> RunDirectory:
    for step in (4, 8):
        write_text(run.checkpoint(step) / "config.json", f"{run.path} {step}")
    write_manifest(run, run_manifest(status=status, reason=reason))
    return run


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{(tracking.ROOT / 'mlflow.db').resolve()}")


def query(sql: str) -> list[tuple]:
    return sqlite3.connect(tracking.ROOT / "mlflow.db").execute(sql).fetchall()


def counts() -> dict[str, int]:
    return {
        table: query(f"select count(*) from {table}")[0][0]
        for table in ("runs", "metrics", "params", "tags", "model_versions")
    }
