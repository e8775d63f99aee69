"""A study's files as audit, comparison and recommendation write them, by hand: what a report is made from.

The numbers are invented, the keys are the contract; nothing here runs the analysis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from studies import run_manifest

from coordexp.storage.files import read_json, sha256_file, write_json
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory

STEPS = tuple(range(40, 721, 40))
MARGINS = {
    "expected_bin_mae": 0.5,
    "expected_bin_abs_err_p90": 1.5,
    "w1_to_delta": 0.7,
    "coord_token_acc": 0.02,
    "p_gt_mean": 0.01,
}
METRICS = tuple(MARGINS)
LOWER = METRICS[:3]
LEVELS = {  # about the note's table at its last common step, and three more variants
    "softce_w1_gate": (24.12, 55.48, 40.0, 0.1714, 0.0858),
    "pure_ce": (23.63, 55.06, 39.0, 0.2177, 0.1665),
    "mixed": (24.26, 56.48, 41.0, 0.2000, 0.1036),
    "old/pure_ce": (25.9, 58.2, 43.0, 0.1500, 0.0700),
    "ce_split": (24.0, 55.9, 39.7, 0.1900, 0.1300),
    "very_long_name_of_a_sixth_variant": (24.9, 57.0, 41.5, 0.1800, 0.0900),
}
MAIN = ("loss", "base_ce/loss", "coord_softce_w1/loss")
TERMS = ("text_ce/loss", *(f"coord_softce_w1/{term}" for term in ("soft_ce", "w1", "gate", "ce")))
BOOTSTRAP, CROSSED = "paired bootstrap over images", "crossed seeds x images"

NO_PROBE = {
    "step": None, "settings": None, "candidates": [], "not_probed": [], "means": {}, "differences": [], "aggregates": None,
}  # fmt: skip


def value(variant: str, seed: int, step: int, metric: str) -> float:
    """A curve that collapses to its level, and ripples there."""
    level = LEVELS[variant][METRICS.index(metric)]
    level *= 1 + 0.004 * math.sin(step / 60 + 2 * seed + list(LEVELS).index(variant))
    return (
        level + (230 - level) * math.exp(-step / 30)
        if metric in LOWER
        else level * (1 - math.exp(-step / 150))
    )


def study_files(
    variants: Sequence[str] = ("softce_w1_gate", "pure_ce", "mixed"),
    seeds: int = 1,
    tables: bool = True,
    bare: bool = False,
    steps: dict[str, Sequence[int]] | None = None,
) -> Path:
    """Write a study's files under results/ and return its directory. `bare`: of logs that were handed over."""
    study = Path("results/stage1_ablation/0123abcd")
    own = {variant: tuple((steps or {}).get(variant, STEPS)) for variant in variants}
    runs = [run_entry(v, seed, own[v], bare) for v in variants for seed in range(seeds)]
    comparison = comparison_of(own, seeds, tables and not bare, bare)
    write_json(study / "runs.json", {"runs": runs})
    write_json(study / "audit.json", audit_of(runs, own))
    write_json(study / "comparison.json", comparison)
    write_json(study / "probe.json", NO_PROBE)
    write_json(study / "recommendation.json", recommendation_of(comparison, seeds, bare))
    kept = ("variant", "seed", "hash8", "directory", "log", "kind", "sha256")
    plans = [
        {key: run.get(key) for key in kept}
        | {"existing": bare, "registered": False, "overrides": []}
        for run in runs
    ]
    for plan in plans if not bare else []:
        plan["overrides"] = [f"variant={plan['variant']}", f"seed={plan['seed']}"]
    write_json(study / "preregistration.json", {
        "study": "stage1_ablation", "hash8": "0123abcd", "written_at": "2026-01-01T00:00:00+00:00", "seeds": seeds, "runs": plans,
        "rule": {"metrics": list(METRICS), "margins": MARGINS}, "rule_sha256": "a" * 64, "vision": None, "earlier_studies": [],
    })  # fmt: skip
    return study


def change(study: Path, name: str, edit: Callable[[Any], Any]) -> Path:
    """Edit one of the study's files in place."""
    content = read_json(study / f"{name}.json")
    edit(content)
    write_json(study / f"{name}.json", content)
    return study


def run_entry(variant: str, seed: int, steps: Sequence[int], bare: bool) -> dict[str, Any]:
    """An entry of runs.json, and the log it names."""
    log = Path(
        f"logs/{variant.replace('/', '-')}-{seed}.jsonl"
        if bare
        else f"results/runs/{variant}/s{seed}-0123abcd/logging.jsonl"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    losses = {
        s: 1 + 20 * math.exp(-s / 80) + 0.02 * seed + 0.1 * list(LEVELS).index(variant)
        for s in steps
    }
    rows = [
        {"global_step/max_steps": f"{s}/{steps[-1]}", "loss": loss, "eval_loss": 1.01 * loss}
        for s, loss in losses.items()
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if bare:
        return {
            "variant": variant,
            "seed": seed,
            "directory": None,
            "log": str(log),
            "kind": "log",
            "sha256": sha256_file(log),
        }
    (log.parent / "config.yaml").write_text("train: {}\n")
    write_manifest(RunDirectory(log.parent), run_manifest(variant=variant, seed=seed))
    return {
        "variant": variant, "seed": seed, "directory": str(log.parent), "log": None, "kind": None, "sha256": None,
        "status": "complete", "reason": None, "hash8": "0123abcd", "step": steps[-1], "max_steps": steps[-1],
        "tokens_seen": 834_434, "train_wall_s": 278.4, "eval_wall_s": 32.2, "finished_at": "2026-01-02T01:00:00+00:00",
        "preflight": {"relative_difference": 2.5e-9}, "versions": {"python": "3.11", "torch": "2.13"},
    }  # fmt: skip


def audit_of(runs: Sequence[dict[str, Any]], steps: dict[str, Sequence[int]]) -> dict[str, Any]:
    """Every run passes; the first eval steps lie before the collapse ends."""
    entries = []
    for run in runs:
        families = MAIN[:2] if "pure_ce" in run["variant"] else (*MAIN, *TERMS)
        checks = [
            {
                "name": "has evaluations",
                "passed": True,
                "detail": f"{len(steps[run['variant']])} eval rows",
            }
        ]
        if run["directory"]:
            checks += [
                {"name": "same data", "passed": True, "detail": "d" * 12},
                {"name": "tokens seen", "passed": None, "detail": "834,434"},
            ]
        entries.append({
            "variant": run["variant"], "seed": run["seed"], "grad_accumulation_steps": 8.0, "verdict": "consistent",
            "passed": True, "why": "ratio loss 1.000", "warnings": [], "not_checked": [], "checks": checks, "overfit_ratio": None,
            "families": {family: ratios_of(steps[run["variant"]], i) for i, family in enumerate(families)},
        })  # fmt: skip
    return {
        "runs": entries,
        "differences": [],
        "passed": [f"{run['variant']} s{run['seed']}" for run in runs],
    }


def ratios_of(steps: Sequence[int], shift: int) -> dict[str, Any]:
    pairs = [
        {
            "step": s,
            "train_step": s,
            "ratio": 1 + 0.03 * math.sin(s + shift) + 0.3 * math.exp(-s / 40),
        }
        for s in steps
    ]
    counted = sorted(pair["ratio"] for pair in pairs[3:])
    summary = (
        {"median": counted[len(counted) // 2], "min": counted[0], "max": counted[-1]}
        if counted
        else {}
    )
    return {"pairs": [p | {"subset_ratio": None} for p in pairs], "from_step": steps[min(3, len(steps) - 1)], "n": len(counted),
            "median": None, "min": None, "max": None} | summary  # fmt: skip


def comparison_of(
    own: dict[str, Sequence[int]], seeds: int, tables: bool, bare: bool
) -> dict[str, Any]:
    variants, common = list(own), sorted(set.intersection(*(set(steps) for steps in own.values())))
    last, window = common[-1], [step for step in common if step > common[-1] / 2]
    later = sorted({step for steps in own.values() for step in steps if step > last})
    rows = [snapshot_row(variant, seeds, last) for variant in variants]
    pairs = [(a, b) for i, a in enumerate(variants) for b in variants[i + 1 :]]
    return {
        "temperature": "1", "common_steps": common, "decision_step": last, "window": {"share": 0.5, "steps": window},
        "snapshots": [{"step": s, "rows": [snapshot_row(v, seeds, s) for v in variants if s in own[v]]} for s in [last, *later]],
        "temperatures": {
            t: [] if bare and t != "1" else [{**row, "used": [1.0 if t == "1" else 0.7] * seeds} for row in rows]
            for t in ("1", "own", "fitted")
        },
        "winners": {t: {} if bare and t != "1" else best_of(rows) for t in ("1", "own", "fitted")},
        "curves": [
            {"variant": v, "seed": seed, "step": s, "values": {m: value(v, seed, s, m) for m in METRICS}}
            for v in variants for seed in range(seeds) for s in own[v]
        ],
        "bands": [
            {"variant": v, "step": s, "metric": m, "low": 0.97 * value(v, 0, s, m), "high": 1.03 * value(v, 0, s, m)}
            for v in variants for s in own[v] for m in METRICS if tables
        ],
        "stability": {m: stability_of(variants, common, window, m) for m in METRICS if len(variants) > 1},
        "plateau": [plateau_row(v, s, m) for v in variants for s in range(seeds) for m in METRICS if len(common) > 8],
        "drift": [{"metric": m, "between": 0.6, "within": 0.4, "differ": m in LOWER} for m in METRICS if len(variants) > 1],
        "differences": [difference(a, b, m, last, window, seeds if tables else 0) for a, b in pairs for m in METRICS],
        "slices": {v: slices_of(v) for v in variants if tables},
        "resolution_limit": None if bare else {
            "best_mae_bins": 23.63, "side_px": [480, 640, 640], "best_mae_px": [11.3, 15.1, 15.1], "cell_px": 32,
            "best_mae_cells": 0.47, "p90_bins": 55.06, "p90_px": 35.2, "sentence": "0.47 of a cell", "test": "a larger image",
        },
    }  # fmt: skip


def snapshot_row(variant: str, seeds: int, step: int) -> dict[str, Any]:
    means = {
        m: sum(value(variant, seed, step, m) for seed in range(seeds)) / seeds for m in METRICS
    }
    beside = {
        "text_ce": 0.09,
        "text_token_acc": 0.97,
        "coord_mass": 0.99,
        "entropy": 5.4 - LEVELS[variant][4],
    }
    return {"variant": variant, "seeds": list(range(seeds)), "values": means | beside}


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        m: (min if m in LOWER else max)(rows, key=lambda row: row["values"][m])["variant"]
        for m in METRICS
    }


def stability_of(
    variants: Sequence[str], common: Sequence[int], window: Sequence[int], m: str
) -> dict[str, Any]:
    """An exact tie at the first step, and where the third block of the window is left out."""
    winners = [
        {"step": s, "winner": best_of([snapshot_row(v, 1, s) for v in variants])[m]} for s in common
    ]
    last = winners[-1]["winner"]
    winners[0]["winner"] = None
    inside = [cell["winner"] for cell in winners if cell["step"] in window]
    return {"winners": winners, "last_winner": last, "settled_from": window[0], "leave_one_block_out": [last, last, None, last],
            "share": inside.count(last) / len(inside)}  # fmt: skip


def plateau_row(variant: str, seed: int, m: str) -> dict[str, Any]:
    level, falls = LEVELS[variant][METRICS.index(m)], m in LOWER
    return {"run": f"{variant} s{seed}", "variant": variant, "seed": seed, "metric": m, "collapse_ends": 160, "from_step": 520,
            "level": level, "spread": 0.01 * level, "slope_percent_per_100_steps": -2.6 if falls else 0.4,
            "flat": not falls}  # fmt: skip


def difference(
    first: str, second: str, m: str, step: int, window: Sequence[int], seeds: int
) -> dict[str, Any]:
    """Second minus first; an interval where there are seeds with token tables."""
    gaps = sorted(value(second, 0, s, m) - value(first, 0, s, m) for s in window)
    gap, half = (
        value(second, 0, step, m) - value(first, 0, step, m),
        MARGINS[m] * (0.5 + len(second) % 3),
    )
    crossed = seeds >= 3
    interval = {
        "difference": gap, "low": gap - half, "high": gap + half, "se": half / 2, "df": 2.4 if crossed else None,
        "share_above_0": 0.5 + 0.5 * math.tanh(gap / half), "p_value": 0.03 if crossed else None, "n_images": 256,
        "method": CROSSED if crossed else BOOTSTRAP, "seed_var": 0.02 if crossed else None, "image_var": 0.05,
        "interaction_var": 0.01 if crossed else None,
    }  # fmt: skip
    share = sum(g > 0 for g in gaps) / len(gaps)
    return {
        "first": first, "second": second, "metric": m, "difference": gap, "margin": MARGINS[m],
        "interval": interval if seeds else None,
        "window": {"n": len(gaps), "median": gaps[len(gaps) // 2], "min": gaps[0], "max": gaps[-1], "share_above_0": share},
    }  # fmt: skip


def slices_of(variant: str) -> dict[str, Any]:
    level = LEVELS[variant][0]
    slots = {slot: level * (0.9 + 0.05 * i) for i, slot in enumerate(("x1", "y1", "x2", "y2"))}
    sizes = {"small": 1.3 * level, "medium": level, "large": 0.8 * level}
    return {
        "by_slot": slots,
        "by_box_size": sizes,
        "n_by_slot": dict.fromkeys(slots, 764),
        "n_by_box_size": dict.fromkeys(sizes, 1000),
    }


def recommendation_of(comparison: dict[str, Any], seeds: int, bare: bool) -> dict[str, Any]:
    """Roles in the order of MAE."""
    rows, step = (
        {row["variant"]: row for row in comparison["snapshots"][0]["rows"]},
        comparison["decision_step"],
    )
    order = sorted(rows, key=lambda v: rows[v]["values"]["expected_bin_mae"])

    def entry(variant: str, reason: str) -> dict[str, Any]:
        path = f"results/runs/{variant}/s0-0123abcd/checkpoints/step-{step:06d}"
        metrics = rows[variant]["values"]
        return {"variant": variant, "seed": 0, "step": step, "checkpoint": None if bare else path,
                "sha256": None if bare else "c" * 64, "metrics": metrics, "reasons": [reason]}  # fmt: skip

    p_holm = 0.04 if seeds >= 3 else None
    claim = {
        "metric": METRICS[0],
        "lead": 0.6,
        "low": 0.2,
        "high": 1.0,
        "p_holm": p_holm,
        "verdict": "better",
    }
    return {
        "schema_version": 2, "study": {"name": "stage1_ablation", "hash8": "0123abcd", "seeds": seeds}, "decision_step": step,
        "confidence": {
            "stage1_ranking": {"grade": "provisional" if comparison["bands"] else "descriptive", "reason": "its reason"},
            "stage2_fitness": {"grade": "descriptive", "reason": "no Stage-2 probe has been run"},
        },
        "primary": entry(order[0], "best on 5 of 5 decided metrics"),
        "secondary": entry(order[1], "smoother than the primary: a hypothesis") if order[1:] else None,
        "optional": [entry(variant, "against the primary: MAE +0.63 bins (worse)") for variant in order[2:]],
        "tied": [], "ineligible": [], "alerts": [], "evidence": [], "caveats": [],
        "confirmatory": [{"variant": variant, **claim} for variant in order[1:] if comparison["bands"]],
        "audit": {"passed": [], "verdicts": {}},
        "stage2": None,
        "would_overturn": ["a Stage-2 probe in which another variant descends better"],
        "would_take": [] if bare else ["5 seeds a variant for a MAE interval of ± 0.50 bins"],
        "rule": {"text": "Decision step last_common, T = 1.", "sha256": "a" * 64},
    }  # fmt: skip
