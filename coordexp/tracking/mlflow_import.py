"""MLflow as a write-only sink: files -> MLflow, and no result is ever read back from it.

    results/mlflow/mlflow.db         SQLite: runs, metrics, registered models
    results/mlflow/artifacts/        copies of small files, by run
    results/mlflow/experiment.json   id and URI, written by `create_database`
    results/mlflow/.lock             held by the one importer

Importing twice adds nothing: a run is found again by a tag, a point by its step, time (taken from the log) and
value, a checkpoint by its sha256. So results/mlflow may be removed at any time; the next import rebuilds it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read while mlflow is imported, and inherited by the server. Its background jobs serve nothing that is used here.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from coordexp.errors import UserError
from coordexp.storage.files import locked, read_json
from coordexp.storage.runs import RESULTS, RunDirectory
from coordexp.storage.typed import write_typed
from coordexp.study.study_runs import read_study_runs
from coordexp.tracking.files import Experiment, ImportedStudy
from coordexp.tracking.metric_series import (
    NOTE_TAG,
    Series,
    run_key,
    series_of_entry,
    series_of_run,
)

ROOT = RESULTS / "mlflow"
EXPERIMENT = MODEL = "coordexp-stage1"
ALIASES = {"primary": "stage2-primary", "secondary": "stage2-secondary"}
STUDY_FILES = (
    "recommendation.json",
    "recommendation.md",
    "comparison.csv",
    "audit.csv",
    "report.html",
    "figures",
)
RUN_TAG, STUDY_TAG, STEP_TAG = "coordexp.run", "coordexp.study.plan", "coordexp.imported_step"
NOTE_CHARACTERS = 8000  # what MLflow takes at most
HOST, PORT = "127.0.0.1", 5000


def create_database() -> Path:
    """Create schema and experiment where they are missing; returns the path of experiment.json.

    The first parallel writers to an empty database crash, so a workflow does this before anything parallel.
    """
    path = ROOT / "experiment.json"
    with sink() as (_, experiment_id):
        write_typed(path, Experiment(experiment_id, f"sqlite:///{ROOT}/mlflow.db", EXPERIMENT))
    return path


def import_run(run: RunDirectory) -> str:
    """Bring MLflow up to date with a run directory, finished or not; returns the id of its MLflow run.

    A run that has logged nothing yet is left out, and its id is "".

    Raises:
        UserError: log, configuration or manifest cannot be read.
    """
    return import_series(series_of_run(run))


def import_series(series: Series) -> str:
    """Bring MLflow up to date with a run's points; returns the id of its MLflow run, "" where there are none yet."""
    if not series.points:
        return ""
    points = [Metric(*point) for point in series.points]
    with sink() as (client, experiment_id):
        found = find_run(client, experiment_id, RUN_TAG, series.key)
        if (
            found and found.info.start_time != points[0].timestamp
        ):  # trained anew since: two curves must not mix
            client.delete_run(found.info.run_id)
            found = None
        if (
            found and found.info.status != "RUNNING"
        ):  # the status is written last, so everything is there
            return found.info.run_id
        found = found or client.create_run(
            experiment_id, points[0].timestamp, {RUN_TAG: series.key}, run_name=series.name
        )
        run_id = found.info.run_id
        imported_step = int(found.data.tags.get(STEP_TAG, 0))
        new = [
            p for p in points if p.step >= imported_step
        ]  # that step's eval row may have come since
        params, tags = (
            [Param(*param) for param in series.params.items()],
            [RunTag(*tag) for tag in series.tags.items()],
        )
        client.log_batch(run_id, new, params, tags)
        client.set_tag(run_id, STEP_TAG, points[-1].step)  # once its points are there
        for path in series.files:
            client.log_artifact(run_id, str(path))
        if series.status:
            client.set_terminated(run_id, series.status, points[-1].timestamp)
    return run_id


def import_study(study_dir: Path) -> ImportedStudy:
    """Import a study: its finished runs, its comparison, and the checkpoints it recommends.

    The aliases `stage2-primary` and `stage2-secondary` move to this study's checkpoints, also when one returns to
    an older study; a role that nobody holds loses its alias. Returns what it writes to mlflow.json.

    Raises:
        UserError: a file of the study, or a recommended checkpoint, is missing or broken.
    """
    study_dir = study_dir.resolve()  # it may be the link `latest`
    card = read_json(study_dir / "recommendation.json")
    every = [series_of_entry(entry) for entry in read_study_runs(study_dir)]
    run_ids = {
        series.key: run_id for series in every if series and (run_id := import_series(series))
    }
    with sink() as (client, experiment_id):
        comparison_run_id = import_comparison(client, experiment_id, study_dir, card)
        models = {
            role: point_alias(client, role, card[role], study_dir.name, run_ids) for role in ALIASES
        }
    result = ImportedStudy(
        experiment_id=experiment_id,
        runs=run_ids,
        comparison_run_id=comparison_run_id,
        models=models,
        ui_link=ui_link(experiment_id),
    )
    write_typed(study_dir / "mlflow.json", result)
    return result


def ui_link(experiment_id: str, port: int = PORT) -> str:
    """The address that opens the charts of all runs side by side."""
    return f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


@contextmanager
def sink() -> Iterator[tuple[MlflowClient, str]]:
    """Client and experiment id, held by one process at a time.

    Raises:
        UserError: the database was moved here, and would still write artifacts where it was.
    """
    with locked(ROOT / ".lock", "MLflow is being written", wait=True):
        database = f"sqlite:///{(ROOT / 'mlflow.db').resolve()}"  # absolute: MLflow keeps an engine per URI
        client = MlflowClient(database, registry_uri=database)
        artifacts = (ROOT / "artifacts").resolve().as_uri()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            note = "Stage-1 runs and their comparisons, imported from `results/`. Nothing is read back from here."
            tags = {"mlflow.experimentKind": "custom_model_development", NOTE_TAG: note}
            experiment = client.get_experiment(
                client.create_experiment(EXPERIMENT, artifacts, tags)
            )
        if experiment.artifact_location != artifacts:
            raise UserError(
                f"{ROOT}: moved, its artifacts went to {experiment.artifact_location}: remove it and import again"
            )
        if experiment.lifecycle_stage == "deleted":  # by hand, in the UI
            client.restore_experiment(experiment.experiment_id)
        yield client, experiment.experiment_id


def find_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    return next(
        iter(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)), None
    )


def import_comparison(
    client: MlflowClient, experiment_id: str, study_dir: Path, card: dict[str, Any]
) -> str:
    """One run that carries the decision: the card as its note, the figures of the roles as its metrics."""
    study, hash8 = study_dir.parent.name, study_dir.name
    tags = {STUDY_TAG: f"{study}/{hash8}", "hash8": hash8}
    run = find_run(client, experiment_id, STUDY_TAG, tags[STUDY_TAG])
    run = run or client.create_run(experiment_id, tags=tags, run_name=f"{study} comparison {hash8}")
    run_id = run.info.run_id
    figures: dict[str, float] = {}
    for role in ALIASES:
        entry = card[role] or {"variant": "none", "metrics": {}}
        tags[role] = entry["variant"]
        figures |= {f"{role}/{name}": value for name, value in entry["metrics"].items()}
    now_ms = int(1000 * time.time())
    changed = [
        Metric(key, value, now_ms, 0)
        for key, value in figures.items()
        if value != run.data.metrics.get(key)
    ]
    if (card_md := study_dir / "recommendation.md").exists():
        tags[NOTE_TAG] = card_md.read_text()[:NOTE_CHARACTERS]
    client.log_batch(run_id, changed, tags=[RunTag(*tag) for tag in tags.items()])
    for path in (study_dir / name for name in STUDY_FILES):
        if path.exists():
            client.log_artifact(run_id, str(path))
    if run.info.status == "RUNNING":
        client.set_terminated(run_id)
    return run_id


def point_alias(
    client: MlflowClient,
    role: str,
    entry: dict[str, Any] | None,
    study: str,
    run_ids: dict[str, str],
) -> int | None:
    """Register the checkpoint that holds a role, once, and point the role's alias at it; returns its version."""
    if not client.search_registered_models(f"name = '{MODEL}'"):
        client.create_registered_model(
            MODEL, description="Stage-1 checkpoints that a study recommended for Stage-2"
        )
    if entry is None or entry["checkpoint"] is None:
        client.delete_registered_model_alias(MODEL, ALIASES[role])
        return None
    checkpoint = Path(entry["checkpoint"])
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: recommended as {role}, but there is no such directory")
    known = client.search_model_versions(f"name = '{MODEL}' and tags.sha256 = '{entry['sha256']}'")
    if known:
        version = known[0].version
    else:
        run_id = run_ids.get(run_key(RunDirectory(checkpoint.parents[1])))
        tags = {name: entry[name] for name in ("variant", "seed", "step", "sha256")}
        version = client.create_model_version(
            MODEL, checkpoint.resolve().as_uri(), run_id, tags
        ).version
    client.set_model_version_tag(MODEL, version, "study", study)
    client.set_registered_model_alias(MODEL, ALIASES[role], version)
    return int(version)
