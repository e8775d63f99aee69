"""One run as MLflow shows it, as plain data: name, points, parameters, tags, files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from coordexp.config.package import VERSION
from coordexp.metrics import METRICS, metric_values
from coordexp.storage.identity import RUN_IDENTITY
from coordexp.storage.logs.dialects import TIME_KEY
from coordexp.storage.logs.jsonl import read_log_if_any
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.logs.number_rows import Row
from coordexp.storage.manifest import RunManifest, read_manifest, require_recorded
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import source_of
from coordexp.study.locate import LOG
from coordexp.study.sources import read_source
from coordexp.study.study_runs import StudyRun
from coordexp.tracking.names import shown_names

NOTE_TAG = "mlflow.note.content"
MLFLOW_STATUS = {"complete": "FINISHED", "diverged": "FAILED"}

Point = tuple[str, float, int, int]  # key, value, time (ms), step


@dataclass(frozen=True)
class TrackedDataset:
    """The records that a run was trained and evaluated on."""

    name: str
    digest: str  # sha256
    directory: str
    val_images: int | None


@dataclass(frozen=True)
class MetricSeries:
    """One run."""

    key: str  # lookup key of its MLflow run
    name: str
    points: list[Point]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    dataset: TrackedDataset | None = None
    status: str | None = None  # FINISHED or FAILED; None while it is running


def run_key(run: RunDirectory) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def series_of_entry(entry: StudyRun) -> MetricSeries | None:
    """The series of a study's entry: of its finished run, else of its log; None without both."""
    if entry.directory:
        run = RunDirectory(Path(entry.directory))
        if run.manifest.exists():
            return series_of_run(run)
    if entry.log:
        return series_of_log(entry)
    return None


def series_of_run(run: RunDirectory) -> MetricSeries:
    """A run directory, finished or not. Without a row in its log, the series has no points.

    Raises:
        UserError: log, configuration or manifest cannot be read, or one has changed since the run
            finished.
    """
    require_recorded(run, run.config, run.log)
    # Read the manifest first: if it exists, the log that is read after it is complete.
    manifest = read_manifest(run)
    log = read_log_if_any(run.log)
    if not (log.train or log.evals or log.rollouts):
        return MetricSeries(run_key(run), "", [])
    config = read_run_config(run)
    files, status = [run.config], None
    if manifest:
        files.append(run.manifest)
        status = MLFLOW_STATUS[manifest.status]
    return MetricSeries(
        key=run_key(run),
        name=f"{config.variant_name} s{config.seed}",
        points=shown_points(log, config.variant_name),
        params=run_params(config),
        tags=run_tags(run, config, log, manifest),
        dataset=run_dataset(manifest) if manifest else None,
        files=tuple(files),
        status=status,
    )


def series_of_log(entry: StudyRun) -> MetricSeries:
    """The series of a log. If the content at its path changes, it becomes another MLflow run.

    Raises:
        UserError: the log cannot be read.
    """
    source = source_of(entry)
    if entry.directory:  # a run directory without a manifest: `entry.log` is the log inside it
        source = replace(source, kind=LOG)
    log = read_source(source)
    name = f"{source.variant} s{source.seed}"
    note = [
        f"- **{source.variant}**, seed {source.seed}: {source.kind} `{source.path}`",
        f"- last evaluation: step {max(log.evals, default=0)}: {last_evaluation(log)}",
    ]
    return MetricSeries(
        key=f"logs/{source.variant}/s{source.seed}-{source.sha256[:8]}",
        name=f"{name} (log)",
        points=shown_points(log, source.variant),
        params={"seed": str(source.seed)},
        tags={
            "variant": source.variant,
            "seed": str(source.seed),
            "status": "log only",
            "sha256": source.sha256,
            "coordexp_version": VERSION,
            "mlflow.source.name": str(source.path),
            "mlflow.source.type": "LOCAL",
            NOTE_TAG: "\n".join(note),
        },
        status="FINISHED",
    )


def shown_points(log: Log, variant: str) -> list[Point]:
    """Every number of a log, under its name in MLflow."""
    points = log_points(log)
    names = shown_names({key for key, *_ in points}, variant)
    return [(names[key], value, time_ms, step) for key, value, time_ms, step in points]


def log_points(log: Log) -> list[Point]:
    """Every number of a log, by step, at the time its row was written."""
    rows = [(step, "", row) for step, row in log.train.items()]
    rows += [(step, EVAL, row) for step, row in log.evals.items()]
    rows += [(step, EVAL, row) for step, row in log.rollouts.items()]
    rows.sort(key=lambda row: row[:2])
    points = []
    for step, prefix, row in rows:
        time_ms = row_time_ms(row, step)
        for key, value in row.items():
            if key != TIME_KEY:
                points.append((prefix + key, value, time_ms, step))
    return points


def row_time_ms(row: Row, step: int) -> int:
    """When a row was written, in ms since 1970.

    A row without a possible time gets its step as the time: MLflow would read 0 as the current
    time.
    """
    time_ms = 1000 * row.get(TIME_KEY, 0.0)
    if math.isfinite(time_ms) and time_ms >= 1:
        return int(time_ms)
    return max(step, 1)


def run_params(config: RunConfig) -> dict[str, str]:
    """What determines a run's result, one parameter per setting (`optim.lr`)."""
    params = {}
    for group in RUN_IDENTITY:
        for key, value in getattr(config, group).items():
            params[f"{group}.{key}"] = str(value)
    params["seed"] = str(config.seed)
    return params


def run_tags(
    run: RunDirectory, config: RunConfig, log: Log, manifest: RunManifest | None
) -> dict[str, str]:
    """The run's identity, its status and a note; with a manifest also the digests of its inputs."""
    status, reason = "running", None
    if manifest:
        status, reason = manifest.status, manifest.reason
    planned, evaluated = config.train["max_steps"], max(log.evals, default=0)
    note = [
        f"- **{config.variant_name}**, seed {config.seed}: {reason or status}",
        f"- last evaluation: step {evaluated} of {planned}: {last_evaluation(log)}",
        f"- model `{config.model['name']}`, data `{config.data['name']}`; files in `{run.path}`",
    ]
    tags = {
        "variant": config.variant_name,
        "seed": str(config.seed),
        "hash8": run.path.name.rpartition("-")[2],
        "status": status,
        "coordexp_version": VERSION,
        "mlflow.source.name": "coordexp-train",
        "mlflow.source.type": "LOCAL",
    }
    if manifest:
        for name, sha256 in asdict(manifest.inputs_sha256).items():
            tags[f"{name}_sha256"] = sha256
    return tags | {NOTE_TAG: "\n".join(note)}


def last_evaluation(log: Log) -> str:
    """The metrics of the last evaluation that are comparable between variants."""
    row = log.evals.get(max(log.evals, default=0), {})
    values = metric_values(row, "fitted")
    shown = []
    for name, value in (metric_values(row, "1") | values).items():
        if name in METRICS:
            shown.append(f"{METRICS[name].label} {value:.4g} {METRICS[name].unit}".rstrip())
    return ", ".join(shown) or "none yet"


def run_dataset(manifest: RunManifest) -> TrackedDataset | None:
    """The records of a finished run; None where its manifest does not name them."""
    if manifest.data is None:
        return None
    return TrackedDataset(
        name=Path(manifest.data).name,
        digest=manifest.inputs_sha256.data,
        directory=manifest.data,
        val_images=manifest.val_images,
    )
