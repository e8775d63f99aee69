"""Run directories and studies as a trainer would have written them, with numbers a test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from conftest import composed

from coordexp.config.digests import digest, plain
from coordexp.config.schema import RuleConfig
from coordexp.storage.identity import run_hash
from coordexp.storage.manifest import RunManifest, artifact_digests, read_manifest, write_manifest
from coordexp.storage.run_config import RunConfig
from coordexp.storage.runs import run_directory, write_config
from coordexp.storage.token_tables import write_table
from coordexp.storage.typed import write_typed
from coordexp.study.preregistration import Preregistration

NOTE_RULE = composed("study=note").study.rule
STEPS = (40, 80, 120, 160, 200, 240, 280, 320, 360)
BARS = {"coord_diag/coord_mass_mean": 0.99, "text_token_acc": 0.97}


def eval_row(
    mae: float, p90: float, acc: float, p_gt: float, w1: float, entropy: float, loss: float = 1.0
) -> dict[str, float]:
    """The comparable metrics, the same at every temperature."""
    row = {"loss": loss, "base_ce/loss": loss, "text_ce/loss": 0.1, "coord_token_acc": acc, **BARS}
    for prefix in ("coord_diag", "coord_diag_own_t", "coord_diag_fitted_t"):
        row |= {
            f"{prefix}/expected_bin_mae": mae,
            f"{prefix}/expected_bin_abs_err_p90": p90,
            f"{prefix}/p_gt_mean": p_gt,
            f"{prefix}/w1_to_delta": w1,
            f"{prefix}/entropy_mean": entropy,
        }
    return row


def collapse(step: int, level: float) -> float:
    """A curve that falls from 230 bins to `level` and stays."""
    return level + (230 - level) * float(np.exp(-step / 25))


def write_run(
    variant: str,
    final: dict[str, float],
    seed: int = 0,
    ratio: float = 1.0,
    gas: float = 8.0,
    overrides: tuple[str, ...] = (),
    tables: bool = False,
    **manifest: Any,
):
    """A finished run whose curves end at `final` (an `eval_row`). Returns its directory."""
    cfg = composed(f"variant={variant}", f"seed={seed}", *overrides)
    run = run_directory(variant, seed, run_hash(cfg))
    run.path.mkdir(parents=True, exist_ok=True)
    write_config(run, cfg)
    measured = token_table(run.table(STEPS[-1]), final) if tables else {}
    lines = []
    for step in STEPS:
        row = {
            key: collapse(step, value) if key.endswith(("mae", "p90", "w1_to_delta")) else value
            for key, value in final.items()
        }
        row["coord_diag/enabled"] = float(variant != "pure_ce")
        if variant != "pure_ce":
            row |= {"coord_softce_w1/loss": 2.0, "loss": row["base_ce/loss"] + 2.0}
        row |= measured if step == STEPS[-1] else {}
        train = {
            "loss": row["loss"] * ratio,
            "base_ce/loss": row["base_ce/loss"] * ratio,
            "accum/grad_steps": gas,
            # No two trainings are equal in every figure.
            "grad_norm": 1.0 + seed + int(run_hash(cfg)[:4], 16) / step,
        }
        if variant != "pure_ce":
            train["coord_softce_w1/loss"] = 2.0 * ratio
        lines.append({"global_step/max_steps": f"{step}/{STEPS[-1]}", **train})
        lines.append(
            {
                "global_step/max_steps": f"{step}/{STEPS[-1]}",
                **{f"eval_{k}": v for k, v in row.items()},
            }
        )
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.checkpoint(STEPS[-1]).mkdir(parents=True, exist_ok=True)
    (run.checkpoint(STEPS[-1]) / "model.safetensors").write_bytes(f"{variant}{seed}".encode())
    facts = {
        "variant": variant,
        "seed": seed,
        "hash8": run_hash(cfg),
        "artifacts": artifact_digests(run),
        "checkpoints": [STEPS[-1]],
        "token_tables": run.table_steps(),
    }
    write_manifest(run, run_manifest(**(facts | manifest)))
    return run


AGREEMENT = {
    "loss_difference": 1e-8,
    "norm": 2.5,
    "norm_difference": 1e-8,
    "projection_difference": {"vision": 3e-7, "language": 2e-7},
    "micro_batches": [4, 8],
}
PREFLIGHT = {"relative_difference": 1e-7, "cut": AGREEMENT, "reference": AGREEMENT}


def run_manifest(**changes: Any) -> RunManifest:
    """The manifest of a complete run, with these keys changed."""
    facts: dict[str, Any] = {
        "status": "complete",
        "reason": None,
        "variant": "mixed",
        "seed": 0,
        "hash8": "0123abcd",
        "max_steps": STEPS[-1],
        "finished_at": "2026-01-01T00:00:00+00:00",
        "inputs_sha256": {"data": "d" * 64, "base": "b" * 64},
        "step": STEPS[-1],
        "tokens_seen": 1000,
        "train_wall_s": 100.0,
        "eval_wall_s": 10.0,
        "preflight": PREFLIGHT,
        "modules_sha256": {"train.py": "m" * 64},
        "versions": {"python": "3", "torch": "2"},
        "artifacts": {},
    }
    return msgspec.convert(facts | changes, RunManifest)


def run_config(*overrides: str) -> RunConfig:
    """The configuration of a run with these overrides."""
    return msgspec.convert(plain(composed(*overrides)), RunConfig)


def token_table(path: Path, final: dict[str, float], n_images: int = 60) -> dict[str, float]:
    """Tokens whose mean errors are about the row's MAEs; images are the same for every variant.

    Returns the eval row's values that these tokens give.
    """
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(n_images), 4)
    gt = rng.integers(100, 900, len(image))
    error = rng.exponential(1.0, len(image)) * rng.choice([-1, 1], len(image))
    hit = rng.random(len(image)) < final["coord_token_acc"]
    columns: dict[str, Any] = {
        "image_id": image,
        "object_index": 0,
        "slot": np.tile(["x1", "y1", "x2", "y2"], n_images),
        "box_area_px": 900.0,
        "gt_bin": gt,
        "argmax_bin": gt,
        "hit": hit,
        "coord_mass": final["coord_diag/coord_mass_mean"],
        "fit_half": image % 2 == 0,
    }
    values = {"coord_token_acc": float(hit.mean())}
    for label, prefix in (
        ("t1", "coord_diag"),
        ("own", "coord_diag_own_t"),
        ("fitted", "coord_diag_fitted_t"),
    ):
        errors = error * final[f"{prefix}/expected_bin_mae"]
        leaves = (gt + errors < 0) | (gt + errors > 999)  # no bin is there: to the other side
        errors = np.clip(np.where(leaves, -errors, errors), -gt, 999 - gt)
        p_gt, entropy = final[f"{prefix}/p_gt_mean"], final[f"{prefix}/entropy_mean"]
        columns |= {
            f"expected_bin_{label}": gt + errors,
            f"w1_to_delta_{label}": np.abs(errors),
            f"p_gt_{label}": p_gt,
            f"entropy_{label}": entropy,
            f"nll_{label}": -np.log(p_gt),
            f"crps_{label}": np.abs(errors) / 2,
        }
        judged = np.abs(errors)[image % 2 == 1] if label == "fitted" else np.abs(errors)
        values |= {
            f"{prefix}/expected_bin_mae": float(judged.mean()),
            f"{prefix}/w1_to_delta": float(judged.mean()),
            f"{prefix}/nll": float(-np.log(p_gt)),
            f"{prefix}/crps": float(judged.mean() / 2),
            f"{prefix}/expected_bin_abs_err_p90": float(np.quantile(judged, 0.9)),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pd.DataFrame(columns), path, own_temperature=1.0, fitted_temperature=1.0)
    return values


def write_study(
    runs: list,
    rule_changes: dict[str, Any] | None = None,
    seeds: int = 1,
    rule: RuleConfig = NOTE_RULE,
    controls: Sequence[str] = (),
) -> Path:
    """A preregistered study of these run directories, under the note's rule with changes.

    Runs of the variants in `controls` had results when it was written.
    """
    rule_settings = plain(rule) | (rule_changes or {})
    path = (
        Path("results/stage1_ablation") / digest([str(r.path) for r in runs] + [rule_settings])[:8]
    )
    planned = []
    for run in runs:
        manifest = read_manifest(run)
        assert manifest is not None
        planned.append(
            {
                "variant": manifest.variant,
                "seed": manifest.seed,
                "hash8": manifest.hash8,
                "directory": str(run.path),
                "control": manifest.variant in controls,
                "existing": manifest.variant in controls,
            }
        )
    write_typed(
        path / "preregistration.json",
        registration(
            hash8=path.name,
            seeds=seeds,
            rule=rule_settings,
            probe=plain(composed().probe),
            runs=planned,
        ),
    )
    return path


def registration(**changes: Any) -> Preregistration:
    """A registration of one run, with these keys changed."""
    facts: dict[str, Any] = {
        "study": "stage1_ablation",
        "hash8": "0123abcd",
        "written_at": "2026-01-01T00:00:00+00:00",
        "seeds": 1,
        "rule": {},
        "runs": [{"variant": "best", "seed": 0, "existing": False}],
        "earlier_studies": [],
    }
    facts |= changes
    return msgspec.convert({"rule_sha256": digest(facts["rule"])} | facts, Preregistration)
