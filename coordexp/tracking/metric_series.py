"""What is shown of one run in MLflow, as plain data: identity, points, parameters, tags, files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coordexp import __version__
from coordexp.config.digests import RUN_IDENTITY
from coordexp.errors import UserError
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.manifest import RunManifest, read_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import source_of
from coordexp.study.locate import LOG
from coordexp.study.sources import read_source
from coordexp.study.study_runs import StudyRun

NOTED_METRICS = (
    "loss",
    "coord_diag/expected_bin_mae",
    "coord_token_acc",
    "coord_diag/coord_mass_mean",
)
NOTE_TAG = "mlflow.note.content"

Point = tuple[str, float, int, int]  # key, value, time (ms), step


@dataclass(frozen=True)
class MetricSeries:
    """One run. `status` is None while it is running."""

    key: str  # what it is found again by
    name: str
    points: list[Point]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    status: str | None = None  # FINISHED | FAILED


def run_key(run: RunDirectory) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def series_of_entry(entry: StudyRun) -> MetricSeries | None:
    """An entry of a study's runs.json: a finished run, else the log that was handed over, if one was."""
    run = RunDirectory(Path(entry.directory)) if entry.directory else None
    if run and run.manifest.exists():
        return series_of_run(run)
    return series_of_log(entry) if entry.log else None


def series_of_run(run: RunDirectory) -> MetricSeries:
    """A run directory, finished or not.

    Raises:
        UserError: log, configuration or manifest cannot be read.
    """
    manifest = read_manifest(run)  # before the log: a log read after its manifest is complete
    points = log_points(log := read_log(run.log) if run.log.exists() else Log(run.log))
    if not points:
        return MetricSeries(run_key(run), "", [])
    cfg = read_config(run)
    files = (run.config, run.manifest) if manifest else (run.config,)
    status = {"diverged": "FAILED", "complete": "FINISHED"}[manifest.status] if manifest else None
    return MetricSeries(
        run_key(run),
        f"{cfg['variant']['name']} s{cfg['seed']}",
        points,
        run_params(cfg),
        run_tags(run, cfg, log, manifest),
        files,
        status,
    )


def series_of_log(entry: StudyRun) -> MetricSeries:
    """A log that was handed over, an entry of a study's runs.json; another content makes another run."""
    source = source_of(entry)
    if entry.directory:  # a run directory without a manifest: `entry.log` is the log inside it
        source = replace(source, kind=LOG)
    log = read_source(source)
    note = f"""
- **{source.variant}**, seed {source.seed}: {source.kind} `{source.path}`
- last evaluation: step {max(log.evals, default=0)}: {figures(log)}
"""
    tags = {
        "variant": source.variant,
        "seed": str(source.seed),
        "status": "log only",
        "sha256": source.sha256,
        "coordexp_version": __version__,
        NOTE_TAG: note.strip(),
    }
    key, name = (
        f"logs/{source.variant}/s{source.seed}-{source.sha256[:8]}",
        f"{source.variant} s{source.seed} (log)",
    )
    return MetricSeries(
        key, name, log_points(log), {"seed": str(source.seed)}, tags, (), "FINISHED"
    )


def read_config(run: RunDirectory) -> dict[str, Any]:
    if not run.config.exists():
        raise UserError(f"{run.config}: no such file")
    config: Any = OmegaConf.to_container(OmegaConf.load(run.config), resolve=True)
    return config


def log_points(log: Log) -> list[Point]:
    """Every number of a log, by step, at the time its row was written."""
    rows = [(step, "", row) for step, row in log.train.items()] + [
        (step, EVAL, row) for step, row in log.evals.items()
    ]
    points = []
    for step, prefix, row in sorted(rows, key=lambda r: r[:2]):
        time_ms = int(1000 * row.get("time_unix_s", 0)) or max(step, 1)  # MLflow reads 0 as now
        for key, value in row.items():
            if key != "time_unix_s":
                # MLflow stores an infinity as 1.8e308, which flattens every chart; NaN leaves a gap.
                points.append(
                    (prefix + key, value if math.isfinite(value) else math.nan, time_ms, step)
                )
    return points


def run_params(cfg: dict[str, Any]) -> dict[str, str]:
    """What determines a run's result, one parameter a key (`optim.lr`)."""
    flat = {f"{group}.{key}": value for group in RUN_IDENTITY for key, value in cfg[group].items()}
    return {key: str(value) for key, value in (flat | {"seed": cfg["seed"]}).items()}


def run_tags(
    run: RunDirectory, cfg: dict[str, Any], log: Log, manifest: RunManifest | None
) -> dict[str, str]:
    """Identity, state and a note; digests of the inputs once the manifest vouches for them."""
    status = manifest.status if manifest else "running"
    outcome = manifest.reason if manifest and manifest.reason else status
    inputs = asdict(manifest.inputs_sha256) if manifest else {}
    note = f"""
- **{cfg["variant"]["name"]}**, seed {cfg["seed"]}: {outcome}
- last evaluation: step {max(log.evals, default=0)} of {cfg["train"]["max_steps"]}: {figures(log)}
- model `{cfg["model"]["name"]}`, data `{cfg["data"]["name"]}`; files in `{run.path}`
"""
    return {
        "variant": cfg["variant"]["name"],
        "seed": str(cfg["seed"]),
        "hash8": run.path.name.rpartition("-")[2],
        "status": status,
        "coordexp_version": __version__,
        **{f"{name}_sha256": sha256 for name, sha256 in inputs.items()},
        NOTE_TAG: note.strip(),
    }


def figures(log: Log) -> str:
    """The last evaluation in a few words."""
    row = log.evals.get(max(log.evals, default=0), {})
    return ", ".join(f"{key} {row[key]:.4g}" for key in NOTED_METRICS if key in row) or "none yet"
