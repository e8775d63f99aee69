"""CPU seconds of the pre-flight, and its share of a whole run.

    python benchmarks/preflight_cost.py variant=mixed
    python benchmarks/preflight_cost.py variant=mixed experiment=smoke

Takes the overrides of `coordexp-train` and makes data and base model where they are missing. A run
is its steps, its evaluations (validation set and audit images) and the pre-flight; checkpoints are
left out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator

from coordexp.config.compose import compose
from coordexp.data.prepare import prepare_data
from coordexp.models.base import prepare_base
from coordexp.storage.manifest import InputDigests, Preflight
from coordexp.storage.runs import RunDirectory
from coordexp.training.evaluate import average_losses, evaluate, evenly_spaced
from coordexp.training.preflight.checks import preflight
from coordexp.training.setup import set_up
from coordexp.training.step import Training, load_window, optimizer_step

STEPS = 9


def cpu_s(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def evaluation(t: Training, table: Path) -> None:
    """What `train.evaluate_step` computes."""
    cfg = t.cfg.train
    evaluate(t.model, t.val, cfg.eval_micro_batch, t.accelerator, table)
    images = evenly_spaced(len(t.train), cfg.audit_images)
    average_losses(t.model, t.train, images, cfg.eval_micro_batch, t.accelerator)


def main() -> None:
    torch.set_num_threads(1)
    cfg = compose(sys.argv[1:])
    prepare_data(cfg)
    prepare_base(cfg)
    with tempfile.TemporaryDirectory() as name:
        run, digests = RunDirectory(Path(name) / "run"), InputDigests(data="", base="")
        with mock.patch("coordexp.training.setup.preflight", return_value=Preflight()):
            t = set_up(cfg, run, digests, Accelerator(cpu=True))
        first_s = cpu_s(lambda: preflight(t))
        again_s = cpu_s(lambda: preflight(t))
        steps = []
        for step in range(1, STEPS + 1):
            steps.append(cpu_s(lambda step=step: optimizer_step(t, load_window(t, step), step)))
        eval_s = cpu_s(lambda: evaluation(t, Path(name) / "table.parquet"))
    step_s = statistics.median(steps)
    n_evals = -(-cfg.train.max_steps // cfg.train.eval_steps)
    run_s = cfg.train.max_steps * step_s + n_evals * eval_s + first_s
    print(
        f"pre-flight {first_s:.2f} s (again {again_s:.2f} s), step {step_s:.3f} s, evaluation "
        f"{eval_s:.2f} s; run of {cfg.train.max_steps} steps and {n_evals} evaluations about "
        f"{run_s:.0f} s: the pre-flight is {first_s / step_s:.1f} steps and "
        f"{100 * first_s / run_s:.1f} % of the run"
    )


if __name__ == "__main__":
    main()
