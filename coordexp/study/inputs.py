"""What an analysis starts from: the runs of a study directory, as their files say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from coordexp.errors import UserError
from coordexp.storage.files import read_json, write_json
from coordexp.storage.logs import Log, read_log
from coordexp.storage.runs import RunDirectory, read_manifest
from coordexp.study.sources import Source, read_source, source_sha256


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
        UserError: a run that the study trains is not finished, or a log has changed since.
    """
    entries = []
    for plan in read_json(study_dir / "preregistration.json")["runs"]:
        named = {
            key: plan.get(key) for key in ("variant", "seed", "directory", "log", "kind", "sha256")
        }
        manifest = (
            read_manifest(RunDirectory(Path(plan["directory"]))) if plan["directory"] else None
        )
        if manifest is None and plan["log"] is None:
            raise UserError(
                f"{plan['directory']}: not finished: run `snakemake --cores all stage1_ablation`"
            )
        facts = {
            key: value
            for key, value in (manifest or {}).items()
            if key not in ("artifacts", "modules_sha256")
        }
        entries.append(facts | named)
    write_json(study_dir / "runs.json", {"runs": entries})
    return load_runs(study_dir)


def load_runs(study_dir: Path) -> list[RunData]:
    """The runs noted in `runs.json`, with their logs read."""
    return [load_run(entry) for entry in read_json(study_dir / "runs.json")["runs"]]


def load_run(entry: dict[str, Any]) -> RunData:
    if entry["directory"] is None:
        source = Source(
            entry["variant"],
            entry["seed"],
            Path(entry["log"]),
            entry["kind"],
            entry["sha256"],
            None,
        )
        if source_sha256(source.path, source.kind) != source.sha256:
            raise UserError(
                f"{source.path}: has changed since the study began: start the same command again"
            )
        return RunData(entry["variant"], entry["seed"], read_source(source))
    run = RunDirectory(Path(entry["directory"]))
    config: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    log = (
        read_log(run.log) if run.log.exists() else Log(run.log)
    )  # a run may diverge before its first row
    return RunData(entry["variant"], entry["seed"], log, run, read_manifest(run), config)


def by_variant(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs of each variant by seed; variants in the order the study names them."""
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return {variant: sorted(mine, key=lambda run: run.seed) for variant, mine in groups.items()}
