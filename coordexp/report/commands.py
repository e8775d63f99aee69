"""The command lines that give the same study, comparison or run again, from the preregistration."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

STUDY_WIDE = ("experiment", "study")
NAMED_ELSEWHERE = ("variant", "seed")


def study_command(preregistration: dict[str, Any]) -> str:
    """The `snakemake` line whose runs have these overrides."""
    per_variant = {run["variant"]: run.get("overrides", []) for run in preregistration["runs"]}
    settings = [o for o in next(iter(per_variant.values()), []) if target(o) in STUDY_WIDE]
    if preregistration["seeds"] > 1:
        settings.append(f"seeds={preregistration['seeds']}")
    for variant, overrides in per_variant.items():
        own = [o for o in overrides if target(o) not in (*STUDY_WIDE, *NAMED_ELSEWHERE)]
        if own:
            settings.append(
                f"{variant}={' '.join(own) if not any(' ' in o for o in own) else json.dumps(own, ensure_ascii=False)}"
            )
    config = ["--config", *(shlex.quote(setting) for setting in settings)] if settings else []
    return " ".join(["snakemake --cores all stage1_ablation", *config])


def run_commands(preregistration: dict[str, Any]) -> list[str]:
    """One `coordexp-train` line a run; none for runs that were handed over as logs."""
    return [shlex.join(["coordexp-train", *run["overrides"]]) for run in preregistration["runs"] if run.get("overrides")]


def compare_command(preregistration: dict[str, Any], study_dir: Path) -> str:
    """The `coordexp compare` line that makes a study of these logs again, in an empty directory."""
    runs = sorted(preregistration["runs"], key=lambda run: run["seed"])  # seeds of logs are their order among equal names
    named = [f"{run['variant'].replace('/', '-')}={run['directory'] or run['log']}" for run in runs]
    vision = preregistration["vision"] or {}
    sizes = [("--image-side", vision.get("side_px")), ("--cell", vision.get("cell_px"))]
    options = [word for option, value in sizes if value for word in (option, str(value))]
    return shlex.join(["coordexp", "compare", *named, "--out", str(study_dir), *options])


def target(override: str) -> str:
    """The key that an override sets."""
    return override.lstrip("+~").split("=")[0]
