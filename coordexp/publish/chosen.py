"""Which checkpoint is exported: the one that a study recommends, or one of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.analysis.recommendation.card import headline
from coordexp.analysis.recommendation.findings import Recommendation, Role, read_recommendation
from coordexp.errors import UserError
from coordexp.storage.manifest import RunManifest, read_manifest, require_recorded
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory


@dataclass(frozen=True)
class Chosen:
    """A checkpoint, and what is known of it.

    sha256: that run.json or the study records; None of a checkpoint that was evaluated alone.
    manifest: None of a checkpoint that was trained elsewhere.
    study, found, role: None where a run was named.
    """

    run: RunDirectory
    step: int
    sha256: str | None
    config: RunConfig
    manifest: RunManifest | None
    study: Path | None = None
    found: Recommendation | None = None
    role: Role | None = None

    @property
    def checkpoint(self) -> Path:
        return self.run.checkpoint(self.step)

    @property
    def key(self) -> str:
        """`mixed/s0-ee68c380`"""
        return "/".join(self.run.path.parts[-2:])

    @property
    def study_key(self) -> str | None:
        """`stage1_ablation/8eb208c6`; None where a run was named."""
        return f"{self.found.study.name}/{self.found.study.hash8}" if self.found else None


def recommended(study: Path) -> Chosen:
    """The primary checkpoint of a study.

    Raises:
        UserError: the study is not decided, recommends no checkpoint, or the checkpoint is gone.
    """
    if not (study / "recommendation.json").exists():
        raise UserError(f"{study}: holds no recommendation yet: finish the study, or name a run")
    found = read_recommendation(study)
    role = found.primary
    if role is None:
        raise UserError(f"{study}: {headline(found)}: name the run to export")
    if role.checkpoint is None:
        raise UserError(
            f"{study}: of {role.variant}, which it recommends, there is no checkpoint here: "
            "name a run that holds one"
        )
    run = RunDirectory(Path(role.checkpoint).parents[1])
    return chosen(run, role.step, role.sha256, study, found, role)


def of_run(run: RunDirectory, step: int | None) -> Chosen:
    """A checkpoint of a run; without a step the last one.

    Raises:
        UserError: the run has not finished, or holds no such checkpoint.
    """
    held = run.checkpoint_steps()
    if step is None and held:
        step = held[-1]
    if step is None or step not in held:
        told = ", ".join(map(str, held)) or "none"
        wanted = "" if step is None else f" of step {step}"
        raise UserError(f"{run.path}: holds no checkpoint{wanted} (its steps: {told})")
    return chosen(run, step)


def chosen(
    run: RunDirectory,
    step: int,
    sha256: str | None = None,
    study: Path | None = None,
    found: Recommendation | None = None,
    role: Role | None = None,
) -> Chosen:
    checkpoint = run.checkpoint(step)
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such directory: restore it, or train the run again")
    require_recorded(run, run.config)
    config, manifest = read_run_config(run), read_manifest(run)
    if manifest is None and config.data:  # one trained elsewhere has no settings
        raise UserError(f"{run.path}: its training has not finished: start it again")
    if manifest is not None:
        sha256 = sha256 or manifest.artifacts.get(str(checkpoint.relative_to(run.path)))
        if sha256 is None:
            raise UserError(f"{checkpoint}: run.json does not record it: train the run again")
    return Chosen(run, step, sha256, config, manifest, study, found, role)
