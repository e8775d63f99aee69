"""Can the logs be believed? Train/eval ratios of every loss family, and what the manifests say of each run.

Each eval row is paired with the nearest preceding train row (note, section "Quantitative check"). A ratio near 1
in a log does not prove the gradients; the pre-flight recorded in the manifest does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from coordexp.analysis.inputs import RunData
from coordexp.analysis.plateau import collapse_end
from coordexp.files import write_json, write_text

FAMILIES = ("loss", "base_ce/loss", "coord_softce_w1/loss")
CONSISTENT = (0.9, 1.1)  # of a family's median ratio
FACTOR_TOLERANCE = 0.25  # how near, relatively, to 1/GAS or GAS a median must be to be named so
DRIFT = 0.15  # between the medians of the first and the last third


def audit(runs: Sequence[RunData]) -> dict[str, Any]:
    """The audit of a study: an entry a run, and the differences between runs outside `variant`."""
    entries = [audit_run(run, runs) for run in runs]
    passed = [f"{e['variant']} s{e['seed']}" for e in entries if e["passed"]]
    return {"runs": entries, "differences": config_differences(runs), "passed": passed}


def audit_run(run: RunData, runs: Sequence[RunData]) -> dict[str, Any]:
    gas = next((row["accum/grad_steps"] for row in run.log.train.values() if "accum/grad_steps" in row), None)
    start = collapse_end(run.log)
    families = {family: ratios(run, family, start) for family in FAMILIES if applicable(run, family)}
    verdict, why = judge(families, gas)
    checks = [*log_checks(run), *(manifest_checks(run, runs) if run.manifest else [])]
    failed = [check for check in checks if check["passed"] is False]
    return {
        "variant": run.variant,
        "seed": run.seed,
        "grad_accumulation_steps": gas,
        "families": families,
        "verdict": verdict,
        "why": why,
        "checks": checks,
        "warnings": run.log.warnings,
        "passed": verdict in ("consistent", "not identifiable") and not failed,
    }


def applicable(run: RunData, family: str) -> bool:
    """Coordinate terms are not applicable (never missing) where the log says they are switched off."""
    if family != "coord_softce_w1/loss":
        return True
    enabled = [row.get("coord_diag/enabled") for row in run.log.evals.values()]
    return not (enabled and all(value == 0.0 for value in enabled))


def ratios(run: RunData, family: str, start: int) -> dict[str, Any]:
    """Train over eval at each eval step, each with the nearest preceding train row; summarised from `start` on."""
    pairs = []
    train_steps = sorted(run.log.train)
    for step in sorted(run.log.evals):
        before = [s for s in train_steps if s <= step]
        train = run.log.train[before[-1]].get(family) if before else None
        evaluated = run.log.evals[step].get(family)
        if train is not None and evaluated and math.isfinite(train / evaluated):
            pairs.append({"step": step, "train_step": before[-1], "ratio": train / evaluated})
    values = [pair["ratio"] for pair in pairs if pair["step"] >= start]
    if not values:
        return {"pairs": pairs, "from_step": start, "n": 0, "median": None, "min": None, "max": None}
    return {
        "pairs": pairs,
        "from_step": start,
        "n": len(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def judge(families: dict[str, dict[str, Any]], gas: float | None) -> tuple[str, str]:
    """The verdict on a run's ratios, and its reason."""
    for family, found in families.items():
        if found["median"] is None:
            return "missing", f"{family}: no eval row has a train row before it with this key"
    medians = {family: found["median"] for family, found in families.items()}
    for family, median in medians.items():
        if gas and gas > 1:
            for label, factor in (("≈ 1/GAS", 1 / gas), ("≈ GAS", gas)):
                if abs(median / factor - 1) <= FACTOR_TOLERANCE:
                    return label, f"{family}: median train/eval ratio {median:.3f}, and GAS is {gas:g}"
        low, high = CONSISTENT
        if not low <= median <= high:
            return "inconsistent", f"{family}: median train/eval ratio {median:.3f} lies outside {low} … {high}"
        values = [pair["ratio"] for pair in families[family]["pairs"] if pair["step"] >= families[family]["from_step"]]
        third = len(values) // 3
        if third >= 2:
            first, last = statistics.median(values[:third]), statistics.median(values[-third:])
            if abs(last - first) > DRIFT:
                return "drift", f"{family}: the ratio moves from {first:.3f} to {last:.3f}"
    ranges = "; ".join(f"{family} {m:.3f}" for family, m in medians.items())
    if gas is None or gas <= 1:
        return "not identifiable", f"median ratios {ranges}: without accumulation a scaling fault cannot show"
    return "consistent", f"median ratios {ranges}"


def log_checks(run: RunData) -> list[dict[str, Any]]:
    rows = [*run.log.train.items(), *run.log.evals.items()]
    broken = [f"{key} at step {step}" for step, row in rows for key, value in row.items() if not math.isfinite(value)]
    return [
        check("has evaluations", bool(run.log.evals), f"{len(run.log.evals)} eval rows"),
        check("finite", not broken, broken[0] + " is not finite" if broken else f"{len(rows)} rows"),
    ]


def manifest_checks(run: RunData, runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Identity checks that logs alone cannot give, against the other runs of the study."""
    assert run.manifest is not None
    mine, all_of_them = run.manifest, [r.manifest for r in runs if r.manifest]
    difference = mine["preflight"].get("relative_difference")

    def same(name: str, pick: Callable[[dict[str, Any]], Any], detail: str) -> dict[str, Any]:
        return check(name, _is_common(pick(mine), [pick(m) for m in all_of_them]), detail)

    data, base = mine["inputs_sha256"]["data"], mine["inputs_sha256"]["base"]
    agreement = "no pre-flight was recorded" if difference is None else f"the two paths agree to {difference:.1e}"
    return [
        check("complete", mine["status"] == "complete", mine["reason"] or f"step {mine['step']} of {mine['max_steps']}"),
        check("pre-flight", difference is not None, agreement),
        same("same data", lambda m: m["inputs_sha256"]["data"], data[:12]),
        same("same base model", lambda m: m["inputs_sha256"]["base"], base[:12]),
        same("same training code", lambda m: m["modules_sha256"], f"{len(mine['modules_sha256'])} modules"),
        same("same versions", lambda m: m["versions"], f"torch {mine['versions']['torch']}"),
        {**same("tokens seen", lambda m: m["tokens_seen"], f"{mine['tokens_seen']:,}"), "passed": None},  # to know, no bar
    ]


def _is_common(value: Any, all_values: Sequence[Any]) -> bool:
    """Whether a value is the one that most runs share (any of them, where none leads)."""
    counts = [sum(1 for other in all_values if other == one) for one in all_values]
    return sum(1 for other in all_values if other == value) == max(counts)


def check(name: str, passed: bool, detail: str) -> dict[str, Any]:
    """A check of a run; `passed` None is something to know that neither passes nor fails."""
    return {"name": name, "passed": passed, "detail": detail}


def config_differences(runs: Sequence[RunData]) -> list[str]:
    """Settings outside `variant` that are not the same in every run; they confound the comparison."""
    flat = {run.name: _flatten({g: run.config[g] for g in ("model", "data", "optim", "train")}) for run in runs if run.config}
    keys = sorted({key for settings in flat.values() for key in settings})
    differences = []
    for key in keys:
        values = {name: settings.get(key) for name, settings in flat.items()}
        if len({repr(v) for v in values.values()}) > 1:
            differences.append(f"{key}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    return differences


def _flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def write_audit(study_dir: Path, found: dict[str, Any]) -> None:
    """audit.json, and audit.csv with a row a run and family."""
    rows = [
        {"variant": e["variant"], "seed": e["seed"], "family": family, "verdict": e["verdict"], "passed": e["passed"],
         **{key: f[key] for key in ("from_step", "n", "median", "min", "max")}}
        for e in found["runs"]
        for family, f in e["families"].items()
    ]  # fmt: skip
    write_json(study_dir / "audit.json", found)
    write_text(study_dir / "audit.csv", pd.DataFrame(rows).to_csv(index=False))
