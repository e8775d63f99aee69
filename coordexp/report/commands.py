"""The command lines that give the same study, comparison or run again, from the preregistration."""

from __future__ import annotations

import json
import shlex
from itertools import takewhile
from pathlib import Path

from coordexp.study.plan import EVERY_VARIANT, launcher
from coordexp.study.preregistration import Preregistration, RegisteredRun

STUDY_WIDE = ("experiment", "study")
NAMED_ELSEWHERE = ("variant", "seed")


def study_command(preregistration: Preregistration) -> str:
    """The `snakemake` line whose runs have these overrides."""
    per_variant = {run.variant: run.overrides for run in preregistration.runs}
    settings = [o for o in next(iter(per_variant.values()), []) if target(o) in STUDY_WIDE]
    if preregistration.seeds > 1:
        settings.append(f"seeds={preregistration.seeds}")
    own = {
        v: [o for o in given if target(o) not in (*STUDY_WIDE, *NAMED_ELSEWHERE)]
        for v, given in per_variant.items()
    }
    alike = [same[0] for same in takewhile(of_all, zip(*own.values(), strict=False))]
    keys = {EVERY_VARIANT: alike} | {
        variant: overrides[len(alike) :] for variant, overrides in own.items()
    }
    settings += [f"{key}={as_value(overrides)}" for key, overrides in keys.items() if overrides]
    config = ["--config", *(shlex.quote(setting) for setting in settings)] if settings else []
    return " ".join(["snakemake --cores all stage1_ablation", *config])


def of_all(overrides: tuple[str, ...]) -> bool:
    """Whether every variant has this one, and it may be said of all: `variant.…` is held against one variant at a time."""
    return len(set(overrides)) == 1 and not target(overrides[0]).startswith("variant.")


def as_value(overrides: list[str]) -> str:
    """Of a `--config` key: words, or a list where one holds a blank."""
    return (
        json.dumps(overrides, ensure_ascii=False)
        if any(len(o.split()) > 1 for o in overrides)
        else " ".join(overrides)
    )


def run_commands(preregistration: Preregistration) -> list[str]:
    """One line a run that trains it by hand; none for runs that were handed over as logs."""
    return [train_command(run) for run in preregistration.runs if run.overrides]


def train_command(run: RegisteredRun) -> str:
    processes = run.processes or 1
    command = (
        ["coordexp-train"]
        if processes == 1
        else [*launcher(processes).split(), "coordexp.training.train"]
    )
    return shlex.join([*command, *run.overrides])


def compare_command(preregistration: Preregistration, study_dir: Path) -> str:
    """The `coordexp compare` line that makes a study of these logs again, in an empty directory."""
    runs = sorted(
        preregistration.runs, key=lambda run: run.seed
    )  # seeds of logs are their order among equal names
    named = [f"{run.variant.replace('/', '-')}={run.directory or run.log}" for run in runs]
    vision = preregistration.vision
    sizes = [("--image-side", vision.side_px), ("--cell", vision.cell_px)] if vision else []
    options = [word for option, value in sizes if value for word in (option, str(value))]
    return shlex.join(["coordexp", "compare", *named, "--out", str(study_dir), *options])


def target(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").split("=")[0]
