"""What an optimizer step of the default study costs beside its bare arithmetic, on one thread.

    python benchmarks/step.py [OVERRIDE …]

A whole step: read and encode a window of images, count its tokens, forward and backward of each
micro-batch, diagnostics, clip, AdamW. The bare one: forward, backward and AdamW over the same
micro-batches. Interleaved, in CPU seconds of the whole process (reading runs beside the step, but
on cores that other variants would use). Pictures and tokens are read anew in the first epoch and
kept for those after it, so each window is read twice. Data and base model are made where they are
missing.
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

from coordexp.config.compose import compose
from coordexp.data.batches import Batch
from coordexp.data.prepare import prepare_data
from coordexp.models.base import prepare_base
from coordexp.storage.manifest import InputDigests
from coordexp.storage.runs import RunDirectory
from coordexp.training.setup import set_up
from coordexp.training.step import Training, count_tokens, load_window, optimizer_step

VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
STEPS = 30


def cpu_s(work: Callable, *arguments: object) -> tuple[float, Any]:
    started = time.process_time()
    result = work(*arguments)
    return time.process_time() - started, result


def bare_step(t: Training, window: list[Batch]) -> None:
    denominators = count_tokens(t, window)
    for batch in window:
        t.model(batch, denominators).loss.backward()
    t.optimizer.step()
    t.optimizer.zero_grad()


def measure(variant: str, overrides: list[str], run: Path) -> list[str]:
    cfg = compose([f"variant={variant}", "runtime.device=cpu", *overrides])
    prepare_data(cfg)
    prepare_base(cfg)
    t = set_up(cfg, RunDirectory(run), InputDigests(data="", base=""), Accelerator(cpu=True))
    spent: dict[str, list[float]] = {"first read": [], "read again": [], "step": [], "bare": []}
    for step in range(1, STEPS + 1):
        for name in ("first read", "read again"):
            took, window = cpu_s(load_window, t, step)
            spent[name].append(took)
        for name in ("step", "bare")[:: 1 if step % 2 else -1]:
            work = (optimizer_step, t, window, step) if name == "step" else (bare_step, t, window)
            spent[name].append(cpu_s(*work)[0])
    first, again, step_s, bare = (statistics.median(seconds[3:]) for seconds in spent.values())
    ratios = [(first + step_s) / bare, (again + step_s) / bare, step_s / bare]
    return [variant, *(f"{ratio:.3f}" for ratio in ratios), f"{1000 * bare:.0f}"]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = [measure(variant, sys.argv[1:], Path(name) / variant) for variant in VARIANTS]
    print(
        table(
            "variant | whole / bare, first epoch | whole / bare, later epochs | "
            "without reading / bare | bare, CPU ms",
            rows,
        )
    )


if __name__ == "__main__":
    main()
