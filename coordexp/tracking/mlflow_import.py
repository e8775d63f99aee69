"""Import runs into MLflow. Nothing reads them back, so results/mlflow may be removed.

    results/mlflow/mlflow.db         SQLite: runs, metrics, registered models
    results/mlflow/artifacts/        copies of small files, by run
    results/mlflow/experiment.json   id and URI, written by `create_database`
    results/mlflow/.lock             held by the one importer
    results/mlflow/<study>.imported  written by the workflow when a study of that name was imported

Importing twice adds nothing. A run is looked up by a tag, a checkpoint by its sha256; a point with
the same step, time (taken from the log) and value is not added again. If the database was removed,
the next import rebuilds it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from coordexp.errors import UserError
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_typed
from coordexp.tracking import IGNORED
from coordexp.tracking.database import DATABASE, is_locked, writable_database
from coordexp.tracking.experiment import EXPERIMENT, ROOT, Experiment
from coordexp.tracking.legal import legal_series
from coordexp.tracking.metric_series import MetricSeries, TrackedDataset, series_of_run
from coordexp.tracking.names import FORM
from coordexp.tracking.view import experiment_tags

RUN_TAG = "coordexp.run"
FORM_TAG = "coordexp.names"  # the form of its metrics' names
STEP_TAG = "coordexp.imported_step"
FAILURE_TAG = "coordexp.import_failed"  # of a run that the next import completes
DIGEST_CHARACTERS = 8  # of a dataset's digest: columns are narrow


def create_database() -> Path:
    """Create database and experiment where they are missing; returns experiment.json's path."""
    path = ROOT / "experiment.json"
    if {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"}.intersection(IGNORED):
        print(f"MLFLOW_TRACKING_URI is not used: runs go to {DATABASE} alone", file=sys.stderr)
    with mlflow_client() as (_, experiment_id):
        write_typed(path, Experiment(experiment_id, f"sqlite:///{DATABASE}", EXPERIMENT))
    return path


def import_run(run: RunDirectory) -> str:
    """Bring MLflow up to date with a run directory, finished or not; returns the MLflow run's id.

    A run that has logged nothing yet is left out, and its id is "".

    Raises:
        UserError: log, configuration or manifest cannot be read.
    """
    return import_series(series_of_run(run))


def import_series(series: MetricSeries) -> str:
    """Bring MLflow up to date with the points of a run.

    Returns the id of the MLflow run, or "" where the series has no points.
    """
    series = legal_series(series)
    if not series.points:
        return ""
    points = [Metric(*point) for point in series.points]
    started_ms, ended_ms = points[0].timestamp, points[-1].timestamp
    with mlflow_client() as (client, experiment_id):
        run = find_run(client, experiment_id, RUN_TAG, series.key)
        if run and (run.info.start_time != started_ms or run.data.tags.get(FORM_TAG) != FORM):
            # The run was trained again since the last import, or an earlier version imported it
            # under other names: do not mix the two curves.
            client.delete_run(run.info.run_id)
            run = None
        if run and run.info.status != "RUNNING" and FAILURE_TAG not in run.data.tags:
            return str(run.info.run_id)  # the status is written last, so the import is complete
        if run is None:
            # Both from its first moment: without them the next import would begin another run.
            tags = {RUN_TAG: series.key, FORM_TAG: FORM}
            run = client.create_run(experiment_id, started_ms, tags, run_name=series.name)
        run_id = str(run.info.run_id)
        with marking_failure(client, run_id):
            # Import the last imported step again: its eval row may have been written since.
            imported_step = last_imported_step(run)
            new = [point for point in points if point.step >= imported_step]
            params = [Param(key, value) for key, value in series.params.items()]
            run_tags = [RunTag(key, value) for key, value in series.tags.items()]
            client.log_batch(run_id, new, params, run_tags)
            # Set the tag after the points: an import that is killed before this repeats them.
            client.set_tag(run_id, STEP_TAG, points[-1].step)
            if series.dataset:
                client.log_inputs(run_id, [dataset_input(series.dataset)])
            for path in series.files:
                client.log_artifact(run_id, str(path))
            if series.status:
                client.set_terminated(run_id, series.status, ended_ms)
            elif run.info.status != "RUNNING":  # an earlier import failed
                client.update_run(run_id, "RUNNING")
            if FAILURE_TAG in run.data.tags:
                client.delete_tag(run_id, FAILURE_TAG)
    return run_id


def dataset_input(dataset: TrackedDataset) -> DatasetInput:
    """The records of a run, as MLflow shows them; it has them once, however often it gets them."""
    profile = {"validation images": dataset.val_images} if dataset.val_images else {}
    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest[:DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": dataset.directory}),
        profile=json.dumps(profile),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training and validation")])


def last_imported_step(run: Run) -> int:
    """The step up to which a run's points are imported; 0 where none is, or the tag was edited."""
    tag = run.data.tags.get(STEP_TAG, "0")
    return int(tag) if tag.isascii() and tag.isdigit() else 0


@contextmanager
def mlflow_client() -> Iterator[tuple[MlflowClient, str]]:
    """MLflow's client and the experiment's id, for one process at a time.

    Raises:
        DatabaseUnavailableError: the database cannot be used, so that no run can be imported.
        UserError: MLflow refused what was to be written, or the database was moved: it would still
            write artifacts to its old place.
    """
    artifacts = (ROOT / "artifacts").resolve().as_uri()
    with writable_database() as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            experiment_id = client.create_experiment(EXPERIMENT, artifacts)
            experiment = client.get_experiment(experiment_id)
        if experiment.artifact_location != artifacts:
            raise UserError(
                f"{ROOT}: moved, its artifacts went to {experiment.artifact_location}: "
                "remove it and import again"
            )
        if experiment.lifecycle_stage == "deleted":  # by hand, in the UI
            client.restore_experiment(experiment.experiment_id)
        for key, value in experiment_tags().items():
            if experiment.tags.get(key) != value:
                client.set_experiment_tag(experiment.experiment_id, key, value)
        yield client, experiment.experiment_id


@contextmanager
def marking_failure(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Import one run; if that fails, its status becomes FAILED and it is imported again later.

    In a locked database it stays as it is: to mark it would wait for the lock once more. Copies
    that MLflow had begun when an earlier import was killed are removed.
    """
    for unfinished in (ROOT / "artifacts" / run_id).rglob(".artifact.uploading.*"):
        unfinished.unlink()
    try:
        yield
    except BaseException as error:
        if not is_locked(error):
            client.set_tag(run_id, FAILURE_TAG, "the next import completes this run")
            client.set_terminated(run_id, "FAILED")
        raise


def find_run(client: MlflowClient, experiment_id: str, tag: str, value: str) -> Run | None:
    """The MLflow run with this tag."""
    query = f"tags.`{tag}` = '{value}'"
    return next(iter(client.search_runs([experiment_id], query, max_results=1)), None)
