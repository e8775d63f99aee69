"""The comparison: exact common steps, snapshots, plateau, and paired differences, on comparable metrics only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from coordexp.analysis.inputs import RunData, by_variant, mean_at
from coordexp.analysis.plateau import plateau
from coordexp.analysis.statistics import paired_bootstrap, token_frame
from coordexp.coords import LAST_BIN
from coordexp.files import write_json, write_text
from coordexp.metrics import BESIDE, METRICS, log_key, metric, metric_values
from coordexp.schema import UserError

AREA_EDGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}  # px, as COCO


def compare(runs: Sequence[RunData], rule: dict[str, Any]) -> dict[str, Any]:
    """The comparison of a study under its rule.

    Raises:
        UserError: no step is common to all runs that finished, or the decision step is not one of them.
    """
    finished = [run for run in runs if not run.diverged and run.log.evals]
    steps = common_steps(finished)
    decision_step = decide_step(steps, rule["decision_step"])
    groups = by_variant(finished)
    shown = [decision_step, *sorted({s for run in finished for s in run.log.evals if s > steps[-1]})] if decision_step else []
    return {
        "temperature": rule["temperature"],
        "common_steps": steps,
        "decision_step": decision_step,
        "snapshots": [snapshot(groups, step, rule["temperature"]) for step in shown],
        "winners": winners(groups, decision_step, rule["metrics"]),
        "curves": curves(groups, rule["temperature"]),
        "plateau": {run.name: plateau(run.log, log_key("expected_bin_mae", rule["temperature"])) for run in finished},
        "differences": differences(groups, decision_step, rule),
        "slices": slices(groups, decision_step, rule["temperature"]),
        "floor": floor(groups, decision_step, rule["temperature"]),
    }


def common_steps(runs: Sequence[RunData]) -> list[int]:
    """The exact intersection of eval steps; nothing is interpolated."""
    if not runs:
        return []
    shared = set.intersection(*(set(run.log.evals) for run in runs))
    if not shared:
        raise UserError("the runs share no eval step: give them the same train.eval_steps")
    return sorted(shared)


def decide_step(steps: list[int], setting: str) -> int | None:
    if not steps:
        return None
    if setting == "last_common":
        return steps[-1]
    if not setting.isdigit() or int(setting) not in steps:
        raise UserError(f"study.rule.decision_step={setting}: must be last_common or one of the common eval steps {steps}")
    return int(setting)


def values_at(runs: Sequence[RunData], step: int, temperature: str) -> dict[str, float]:
    """The comparable metrics of a variant at a step, averaged over its seeds."""
    found = {name: mean_at(runs, step, log_key(name, temperature)) for name in (*METRICS, *BESIDE)}
    return {name: value for name, value in found.items() if value is not None}


def snapshot(groups: dict[str, list[RunData]], step: int, temperature: str) -> dict[str, Any]:
    rows = []
    for variant, runs in groups.items():
        if values := values_at(runs, step, temperature):
            rows.append({"variant": variant, "seeds": [r.seed for r in runs], **values})
    return {"step": step, "rows": rows}


def winners(groups: dict[str, list[RunData]], step: int | None, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Who is best at each temperature, metric by metric; None where it is exactly equal."""
    if step is None:
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for temperature in ("1", "own", "fitted"):
        values = {variant: values_at(runs, step, temperature) for variant, runs in groups.items()}
        shared = [name for name in names if all(name in v for v in values.values())]
        found[temperature] = {name: metric(name).best({v: row[name] for v, row in values.items()}) for name in shared}
    return found


def curves(groups: dict[str, list[RunData]], temperature: str) -> list[dict[str, Any]]:
    """A row a variant, seed and eval step: what the figures and the CSV show."""
    return [
        {"variant": variant, "seed": run.seed, "step": step, **metric_values(row, temperature)}
        for variant, runs in groups.items()
        for run in runs
        for step, row in sorted(run.log.evals.items())
    ]


def differences(groups: dict[str, list[RunData]], step: int | None, rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pair's difference per metric at the decision step, with an interval where token tables are there.

    Pairs are compared on the seeds they share, so that images and seeds are paired.
    """
    if step is None:
        return []
    found = []
    variants = list(groups)
    for i, first in enumerate(variants):
        for second in variants[i + 1 :]:
            seeds = sorted({r.seed for r in groups[first]} & {r.seed for r in groups[second]})
            sides = [[r for r in groups[v] if r.seed in seeds] for v in (first, second)]
            frames = [_frames(side, step, rule["temperature"]) for side in sides]
            values = [values_at(side, step, rule["temperature"]) for side in sides]
            for name in rule["metrics"]:
                if name in values[0] and name in values[1]:
                    entry = {"first": first, "second": second, "metric": name, "difference": values[1][name] - values[0][name]}
                    interval = paired_bootstrap(frames[0], frames[1], name) if all(frames) else None
                    found.append({**entry, "margin": rule["margins"].get(name), "interval": interval})
    return found


def _frames(runs: Sequence[RunData], step: int, temperature: str) -> list[pd.DataFrame]:
    """Token frames of runs, or none unless every run has the table."""
    paths = [run.run.table(step) for run in runs if run.run]
    if len(paths) < len(runs) or not all(path.exists() for path in paths):
        return []
    return [token_frame(path, temperature) for path in paths]


def slices(groups: dict[str, list[RunData]], step: int | None, temperature: str) -> dict[str, Any]:
    """MAE by slot and by box size, in bins, averaged over seeds. Empty without token tables."""
    found: dict[str, Any] = {}
    for variant, runs in groups.items():
        frames = _frames(runs, step, temperature) if step is not None else []
        if not frames:
            continue
        tokens = pd.concat(frames)
        sizes = {
            name: tokens.loc[(tokens["box_area_px"] >= low) & (tokens["box_area_px"] < high), "abs_err"].mean()
            for name, (low, high) in AREA_EDGES.items()
        }
        found[variant] = {
            "by_slot": {slot: float(value) for slot, value in tokens.groupby("slot", sort=False)["abs_err"].mean().items()},
            "by_box_size": {name: float(value) for name, value in sizes.items() if pd.notna(value)},
        }
    return found


def floor(groups: dict[str, list[RunData]], step: int | None, temperature: str) -> dict[str, Any] | None:
    """The best MAE in bins, pixels and patches: px = bins / 999 (side - 1). A hypothesis, and named one."""
    configs = [run.config for runs in groups.values() for run in runs if run.config]
    if step is None or not configs or "image_size" not in configs[0]["data"]:
        return None
    side, cell = configs[0]["data"]["image_size"], 2 * configs[0]["model"].get("patch_size", 16)
    maes = [mae for runs in groups.values() if (mae := values_at(runs, step, temperature).get("expected_bin_mae")) is not None]
    if not maes:
        return None
    best_px = min(maes) / LAST_BIN * (side - 1)
    return {
        "image_side_px": side,
        "cell_px": cell,
        "best_mae_bins": min(maes),
        "best_mae_px": best_px,
        "best_mae_cells": best_px / cell,
    }


def write_comparison(study_dir: Path, found: dict[str, Any]) -> None:
    """comparison.json, and comparison.csv with the curves."""
    write_json(study_dir / "comparison.json", found)
    write_text(study_dir / "comparison.csv", pd.DataFrame(found["curves"]).to_csv(index=False))
