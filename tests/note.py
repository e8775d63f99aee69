"""The note as logs: its published figures where there are any, and SYNTHETIC rows, labelled so,
everywhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NOTE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "note_2026_01.json").read_text()
)["published"]
KEYS = {
    "expected_bin_mae": "eval_coord_diag/expected_bin_mae",
    "expected_bin_abs_err_p90": "eval_coord_diag/expected_bin_abs_err_p90",
    "coord_token_acc": "eval_coord_token_acc",
    "p_gt_mean": "eval_coord_diag/p_gt_mean",
}
VARIANTS = tuple(NOTE["last_step"])


def published(step: int) -> dict[str, dict[str, float]]:
    return {v: dict(zip(NOTE["metrics"], row, strict=True)) for v, row in NOTE[str(step)].items()}


def write_log(path: Path, variant: str) -> Path:
    """One run's log in ms-swift's manner: steps as strings, a train row before each eval row."""
    rng = np.random.default_rng(VARIANTS.index(variant))
    last = NOTE["last_step"][variant]
    lines = []
    for step in range(NOTE["eval_every"], last + 1, NOTE["eval_every"]):
        at = published(step).get(variant) if str(step) in NOTE else None
        metrics = at or synthetic_metrics(variant, step, rng)
        losses = synthetic_losses(variant, step)
        noisy = {
            key: value * NOTE["median_loss_ratio"][variant] * rng.normal(1, 0.02)
            for key, value in losses.items()
        }
        if "coord_softce_w1/loss" in noisy:
            noisy["loss"] = noisy["base_ce/loss"] + noisy["coord_softce_w1/loss"]
        enabled = float(variant != "pure_ce")
        head = {"global_step/max_steps": f"{step}/{last}", "elapsed_time": f"{step // 4}m"}
        lines.append(
            head
            | noisy
            | {
                "accum/grad_steps": float(NOTE["gradient_accumulation_steps"]),
                "coord_diag/enabled": enabled,
            }
        )
        evaluated = {f"eval_{key}": value for key, value in losses.items()} | {
            "eval_coord_diag/enabled": enabled
        }
        lines.append(head | evaluated | {KEYS[name]: value for name, value in metrics.items()})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def synthetic_metrics(variant: str, step: int, rng: np.random.Generator) -> dict[str, float]:
    """SYNTHETIC: a collapse from hundreds of bins that is over by about step 120, then the
    published level and noise.
    """
    level = published(640)[variant]
    fall = 200 * float(np.exp(-step / 22))
    errors = {"expected_bin_mae": 1.0, "expected_bin_abs_err_p90": 2.0}
    return {
        name: value + fall * errors[name] + rng.normal(0, 0.15) if name in errors else value
        for name, value in level.items()
    }


def synthetic_losses(variant: str, step: int) -> dict[str, float]:
    """SYNTHETIC: the loss families of each variant, falling."""
    base = 0.4 + 3 * float(np.exp(-step / 60))
    if variant == "pure_ce":
        return {"loss": base, "base_ce/loss": base}
    return {"loss": 3 * base, "base_ce/loss": base, "coord_softce_w1/loss": 2 * base}
