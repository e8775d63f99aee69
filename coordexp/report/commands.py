"""Command lines that repeat a study, a comparison or a run, made from the preregistration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from coordexp.config.package import launcher
from coordexp.storage.logs.log import BY_USER
from coordexp.study.plan import EVERY_VARIANT
from coordexp.study.preregistration import Preregistration, RegisteredRun

STUDY_WIDE = ("experiment", "study")  # keys of `--config` that hold for the whole study
NAMED_ELSEWHERE = ("variant", "seed")  # overrides that the study sets itself


def study_command(preregistration: Preregistration) -> str:
    """The `snakemake` line that plans runs with the same overrides."""
    study_wide: list[str] = []
    per_variant: dict[str, list[str]] = {}
    for run in preregistration.runs:
        settings, own = split_overrides(run.overrides)
        study_wide = study_wide or settings
        per_variant[run.variant] = own
    if preregistration.seeds > 1:
        study_wide.append(f"seeds={preregistration.seeds}")

    of_all = shared(list(per_variant.values()))
    config = list(study_wide)
    if of_all:
        config.append(f"{EVERY_VARIANT}={config_value(of_all)}")
    for variant, overrides in per_variant.items():
        if own := [override for override in overrides if override not in of_all]:
            config.append(f"{variant}={config_value(own)}")

    command = "snakemake --cores all stage1_ablation"
    return f"{command} --config {shlex.join(config)}" if config else command


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those that are `--config` keys themselves, and those of the variant."""
    study_wide, own = [], []
    for override in overrides:
        key = target(override)
        if key in STUDY_WIDE:
            study_wide.append(override)
        elif key not in NAMED_ELSEWHERE:
            own.append(override)
    return study_wide, own


def shared(overrides: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that every variant has; each names a key once, so their order has no meaning.

    Those of `variant.…` are left out: the planner checks such keys against one variant, so they
    cannot be given for all.
    """
    first = overrides[0] if overrides else []
    return [
        override
        for override in first
        if all(override in of_each for of_each in overrides)
        and not target(override).startswith("variant.")
    ]


def config_value(overrides: Sequence[str]) -> str:
    """The value of a `--config` key: words, or a YAML list if an override contains a blank."""
    if any(len(override.split()) > 1 for override in overrides):
        return json.dumps(overrides, ensure_ascii=False)
    return " ".join(overrides)


def run_commands(preregistration: Preregistration) -> list[str]:
    """For each trained run, the command that trains it by hand; none for runs that were given."""
    return [train_command(run) for run in preregistration.runs if run.overrides]


def train_command(run: RegisteredRun) -> str:
    """The line that trains a run, in as many processes as the study trains it in."""
    processes = run.processes or 1
    command = ["coordexp-train"]
    if processes > 1:
        command = [*launcher(processes).split(), "coordexp.training.train"]
    return shlex.join([*command, *run.overrides])


def compare_command(preregistration: Preregistration, study_dir: Path) -> str:
    """The `coordexp compare` line that makes a study of these logs again."""
    command = ["coordexp", "compare"]
    # The seed of a log is its index among the logs of the same name, so sort by seed.
    for run in sorted(preregistration.runs, key=lambda run: run.seed):
        command.append(f"{run.variant.replace('/', '-')}={run.directory or run.log}")
    command += ["--out", str(study_dir)]
    vision = preregistration.vision
    if vision and vision.side_px:
        command += ["--image-side", str(vision.side_px)]
    if vision and vision.cell_px:
        command += ["--cell", str(vision.cell_px)]
    for control in preregistration.controls:
        command += ["--control", control.replace("/", "-")]
    told = {run.variant.replace("/", "-"): run.told for run in preregistration.runs if run.told}
    for name, of_log in told.items():
        if of_log.temperature_by == BY_USER:
            command += ["--temperature", f"{name}={of_log.temperature:g}"]
        if of_log.eval_set is not None:
            command += ["--eval-set", f"{name}={of_log.eval_set}"]
    for file in sorted(preregistration.rollouts, key=lambda file: file.seed):
        step = "" if file.step is None else f"@{file.step}"
        command += ["--rollouts", f"{file.variant.replace('/', '-')}{step}={file.path}"]
    truths = [file.ground_truth for file in preregistration.rollouts if file.ground_truth]
    if truths:
        command += ["--ground-truth", str(truths[0])]
    return shlex.join(command)


def target(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").split("=")[0]
