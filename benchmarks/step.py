"""What an optimizer step of the default study costs beside its bare arithmetic, on one thread.

    python benchmarks/step.py [OVERRIDE …]

A whole step: read and encode a window of images, count its tokens, forward and backward of each micro-batch, diagnostics, clip,
AdamW. The bare one: forward, backward and AdamW over the same micro-batches. Interleaved, in CPU seconds of the whole process
(reading runs beside the step, but on cores that other variants would use). Data and base model are made where they are missing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from calibration import table

from coordexp import train
from coordexp.config import compose
from coordexp.data.batches import Batch
from coordexp.data.prepare import prepare_data
from coordexp.model import prepare_base
from coordexp.runs import RunDirectory

VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
STEPS = 30


def cpu_s(work: Callable, *arguments: object) -> tuple[float, Any]:
    started = time.process_time()
    result = work(*arguments)
    return time.process_time() - started, result


def bare_step(t: train.Training, window: list[Batch]) -> None:
    denominators = train.count_tokens(t, window)
    for batch in window:
        t.model(batch, denominators).loss.backward()
    t.optimizer.step()
    t.optimizer.zero_grad()


def measure(variant: str, overrides: list[str], run: Path) -> list[str]:
    cfg = compose([f"variant={variant}", "runtime.device=cpu", *overrides])
    prepare_data(cfg)
    prepare_base(cfg)
    t = train.set_up(cfg, RunDirectory(run), {}, Accelerator(cpu=True))
    spent: dict[str, list[float]] = {"load": [], "step": [], "bare": []}
    for step in range(1, STEPS + 1):
        took, window = cpu_s(train.load_window, t, step)
        spent["load"].append(took)
        for name in ("step", "bare")[:: 1 if step % 2 else -1]:
            work = (train.optimizer_step, t, window, step) if name == "step" else (bare_step, t, window)
            spent[name].append(cpu_s(*work)[0])
    load, step_s, bare = (statistics.median(spent[name][3:]) for name in ("load", "step", "bare"))
    return [variant, f"{(load + step_s) / bare:.3f}", f"{step_s / bare:.3f}", f"{load / bare:.3f}", f"{1000 * bare:.0f}"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = [measure(variant, sys.argv[1:], Path(name) / variant) for variant in VARIANTS]
    print(table("variant | whole / bare | step alone / bare | reading / bare | bare step, CPU ms", rows))


if __name__ == "__main__":
    main()
