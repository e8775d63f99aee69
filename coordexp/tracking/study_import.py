"""Import a study into MLflow: its runs, its comparison and the checkpoints it recommends."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.findings import Recommendation, Role, read_recommendation
from coordexp.study.colours import colours
from coordexp.study.inputs import require_unchanged
from coordexp.study.study_runs import StudyRun, read_study_runs
from coordexp.study.tracked import TrackedStudy, write_tracked_study
from coordexp.tracking.experiment import ui_link
from coordexp.tracking.legal import cut_note
from coordexp.tracking.metric_series import NOTE_TAG, series_of_entry
from coordexp.tracking.mlflow_import import (
    FAILURE_TAG,
    find_run,
    import_series,
    marking_failure,
    mlflow_client,
)
from coordexp.tracking.registration import point_alias

STUDY_FILES = (
    "recommendation.json",
    "recommendation.md",
    "comparison.csv",
    "audit.csv",
    "report.html",
    "figures",
    "tables",
)
STUDY_TAG = "coordexp.study"
CONTROL_TAG = "coordexp.control_of"
COLOUR_TAG = "mlflow.runColor"  # MLflow's pages read it


def import_study(study_dir: Path) -> TrackedStudy:
    """Import a study's runs, its comparison and the checkpoints it recommends; write mlflow.json.

    The aliases `stage2-primary` and `stage2-secondary` move to this study's checkpoints, even if
    the study is older than the last imported one. The alias of a role without a holder is removed.
    A rehearsal leaves them where they are, and so does a study in which no candidate detects.

    Raises:
        UserError: a file of the study, or a recommended checkpoint, is missing or broken.
    """
    study_dir = study_dir.resolve()  # it may be the link `latest`
    found = read_recommendation(study_dir)
    run_ids: dict[str, str] = {}
    tags: dict[str, dict[str, str]] = {}  # by run id
    entries = read_study_runs(study_dir)
    drawn = colours(entry.variant for entry in entries)
    for entry in entries:
        require_unchanged(study_dir, entry)
        series = series_of_entry(entry)
        if series and series.points:
            run_ids[series.key] = run_id = import_series(series)
            tags[run_id] = role_tags(study_dir, entry, drawn[entry.variant])
    models: dict[str, int | None] = {}
    with mlflow_client() as (client, experiment_id):
        for run_id, of_run in tags.items():
            if run_id:  # none was made of a run without points
                client.log_batch(run_id, tags=[RunTag(key, value) for key, value in of_run.items()])
        comparison_run_id = import_comparison(client, experiment_id, study_dir, found)
        for role, holder in roles_of(found).items():
            if found.rehearsal is not None or found.blind is not None:
                models[role] = None
                continue
            models[role] = point_alias(client, role, holder, study_dir.name, run_ids)
    tracked = TrackedStudy(
        experiment_id=experiment_id,
        runs=run_ids,
        comparison_run_id=comparison_run_id,
        models=models,
        ui_link=ui_link(experiment_id),
    )
    write_tracked_study(study_dir, tracked)
    return tracked


def role_tags(study_dir: Path, entry: StudyRun, colour: str) -> dict[str, str]:
    """What a run is in this study; in another one it may have another part.

    Its colour in MLflow's charts is that of the report. A control names the study it is one of.
    """
    tags = {COLOUR_TAG: colour}
    if entry.control:
        tags[CONTROL_TAG] = f"{study_dir.parent.name}/{study_dir.name}"
    return tags


def roles_of(found: Recommendation) -> dict[str, Role | None]:
    return {"primary": found.primary, "secondary": found.secondary}


def import_comparison(
    client: MlflowClient, experiment_id: str, study_dir: Path, found: Recommendation
) -> str:
    """One MLflow run with the decision: its note is the card, its metrics those of the roles."""
    study, hash8 = study_dir.parent.name, study_dir.name
    tags = {STUDY_TAG: f"{study}/{hash8}", "hash8": hash8}
    run = find_run(client, experiment_id, STUDY_TAG, tags[STUDY_TAG])
    if run is None:
        run = client.create_run(experiment_id, tags=tags, run_name=f"{study} comparison {hash8}")
    run_id = str(run.info.run_id)

    now_ms = int(1000 * time.time())
    changed = []
    for role, entry in roles_of(found).items():
        tags[role] = entry.variant if entry else "none"
        for name, value in (entry.metrics if entry else {}).items():
            key = f"{role}/{name}"
            if value != run.data.metrics.get(key):
                changed.append(Metric(key, value, now_ms, 0))
    shown_path = os.path.relpath(study_dir)
    tags |= {"mlflow.source.name": shown_path, "mlflow.source.type": "LOCAL"}
    tags[NOTE_TAG] = cut_note(card(found, Path(shown_path)))
    run_tags = [RunTag(key, value) for key, value in tags.items()]
    with marking_failure(client, run_id):
        client.log_batch(run_id, changed, tags=run_tags)
        for name in STUDY_FILES:
            if (study_dir / name).exists():
                client.log_artifact(run_id, str(study_dir / name))
        if run.info.status != "FINISHED":
            client.set_terminated(run_id)
        if FAILURE_TAG in run.data.tags:
            client.delete_tag(run_id, FAILURE_TAG)
    return run_id
