"""What an analysis starts from: the runs of a study directory, as their files say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coordexp.files import read_json, write_json
from coordexp.logs import Log, read_log
from coordexp.runs import RunDirectory, read_manifest
from coordexp.schema import UserError


@dataclass(frozen=True)
class RunData:
    """One run: its log, and, where it is a run directory, its manifest and configuration."""

    variant: str
    seed: int
    log: Log
    run: RunDirectory | None = None
    manifest: dict[str, Any] | None = None
    config: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"

    @property
    def diverged(self) -> bool:
        return bool(self.manifest and self.manifest["status"] == "diverged")


def collect(study_dir: Path) -> list[RunData]:
    """The runs that the study's preregistration names, noted in `runs.json`.

    Raises:
        UserError: a run is not finished.
    """
    planned = read_json(study_dir / "preregistration.json")["runs"]
    entries = []
    for plan in planned:
        run = RunDirectory(Path(plan["directory"]))
        manifest = read_manifest(run)
        if manifest is None:
            raise UserError(f"{run.path}: not finished: run `snakemake --cores all stage1_ablation`")
        facts = {key: value for key, value in manifest.items() if key not in ("artifacts", "modules_sha256")}
        entries.append({"directory": plan["directory"], **facts})
    write_json(study_dir / "runs.json", {"runs": entries})
    return load_runs(study_dir)


def load_runs(study_dir: Path) -> list[RunData]:
    """The runs noted in `runs.json`, with their logs read."""
    loaded = []
    for entry in read_json(study_dir / "runs.json")["runs"]:
        run = RunDirectory(Path(entry["directory"]))
        config = OmegaConf.to_container(OmegaConf.load(run.config))
        log = read_log(run.log) if run.log.exists() else Log(run.log)  # a run may diverge before its first row
        loaded.append(RunData(entry["variant"], entry["seed"], log, run, read_manifest(run), config))  # type: ignore[arg-type]
    return loaded


def by_variant(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs of each variant, in the order the study names them."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups


def mean_at(runs: Sequence[RunData], step: int, key: str) -> float | None:
    """An eval value at a step, averaged over the seeds that have it. A value that is not finite is none."""
    found = [run.log.evals.get(step, {}).get(key, math.nan) for run in runs]
    values = [value for value in found if math.isfinite(value)]
    return sum(values) / len(values) if values else None
