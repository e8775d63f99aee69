"""The real study's training step on a GPU: speed, utilisation, memory, and the loss.

    python benchmarks/real_model.py --release /tmp/release experiment=lvis_4b
    model.path=/tmp/release \\
        data.annotations=lvis_val.json data.missing=draw train.max_steps=20
        train.images_per_step=32

Takes the overrides of `coordexp-train`, prepares data and base where they are missing, and steps
each variant as the trainer does, pre-flight first, without evaluations and checkpoints. `--release`
first writes a random model with the published sizes of Qwen3-VL-4B there, if nothing is there.
`--profile` lists the kernels of one micro-batch.

Floating-point operations are counted by torch on one forward of the first micro-batch. A step needs
them twice (forward, and the gradient of activations; those of frozen weights are not formed), and
each supervised row a product with the head and its gradient. What is computed again under
checkpointing does not count as use (MFU), but keeps the card as busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from calibration import table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from coordexp.config.compose import compose
from coordexp.data.batches import Batch
from coordexp.data.prepare import prepare_data
from coordexp.models.adapters import head_weights
from coordexp.models.base import prepare_base
from coordexp.models.checkpoints import device_for, restore_weights, trained_weights
from coordexp.storage.identity import data_path
from coordexp.storage.runs import RunDirectory
from coordexp.training.optim import build_optimizer
from coordexp.training.preflight.checks import preflight
from coordexp.training.setup import set_up
from coordexp.training.step import (
    Progress,
    Training,
    count_tokens,
    load_window,
    optimizer_step,
    train_row,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from release import PUBLISHED_4B, write_release

VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
WARM_UP_STEPS = 3


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    synchronise()
    started = time.perf_counter()
    result = work()
    synchronise()
    return time.perf_counter() - started, result


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """FLOP a second of a large square product on random numbers."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = [seconds(lambda: a @ b)[0] for _ in range(13)][3:]
    return 2 * n**3 / statistics.median(times)


def flops_per_token(t: Training, batch: Batch) -> float:
    """Of one forward of the model without its head, averaged over a micro-batch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        t.model.vlm.model(**batch.to(t.accelerator.device).inputs, use_cache=False)
    return counter.get_total_flops() / batch.n_tokens


def needed_flops(t: Training, window: list[Batch], per_token: float) -> float:
    """Of one step: no gradient of a frozen weight, nothing twice."""
    vocabulary, width = head_weights(t.model.vlm)[0].shape
    tokens, rows = (
        sum(numbers) for numbers in zip(*((b.n_tokens, len(b.rows)) for b in window), strict=True)
    )
    return 2 * per_token * tokens + 4 * rows * vocabulary * width


def start_over(t: Training, variant: str, weights: dict[str, Tensor]) -> None:
    """The model in memory as a new run of this variant: first weights, optimizer, pre-flight.

    The accelerator would keep every optimizer that it has prepared, and with it the moments of
    variants that are done.
    """
    cfg = compose([f"variant={variant}"])
    t.cfg = dataclasses.replace(t.cfg, variant=cfg.variant)
    t.model.variant = cfg.variant
    restore_weights(t.model.vlm, weights)
    t.optimizer = build_optimizer(t.model.vlm, t.cfg.optim)
    t.progress = Progress(preflight=preflight(t))


def measure(t: Training, variant: str) -> dict[str, Any]:
    """Every step of a short run; says each as it is taken."""
    steps, device = [], t.accelerator.device
    per_token = flops_per_token(t, load_window(t, 1)[0])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(1, t.cfg.train.max_steps + 1):
        window = load_window(t, step)
        took, _ = seconds(lambda window=window, step=step: optimizer_step(t, window, step))
        loss = train_row(t)["loss"]
        t.progress.reset_window()
        tokens, laid_out = (
            sum(b.n_tokens for b in window),
            sum(b.inputs["input_ids"].numel() for b in window),
        )
        needed = needed_flops(t, window, per_token)
        steps.append(
            {
                "s": took,
                "loss": loss,
                "tokens": tokens,
                "laid_out": laid_out,
                "flops": needed,
                "cut": len(window),
            }
        )
        print(
            f"{variant} {step}: loss {loss:.3f}, {tokens:,} tokens in {len(window)}, {took:.2f} s",
            flush=True,
        )
    after = steps[min(WARM_UP_STEPS, len(steps) - 1) :]
    total = {key: sum(one[key] for one in after) for key in after[0]}
    return {
        "losses": [one["loss"] for one in steps],
        "step_s": statistics.median(one["s"] for one in after),
        "tokens_per_s": total["tokens"] / total["s"],
        "flops_per_s": total["flops"] / total["s"],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9
        if device.type == "cuda"
        else float("nan"),
        "cut": f"{total['cut'] / len(after):.1f} of {total['tokens'] / total['cut']:,.0f} tokens",
        "padding": total["laid_out"] / total["tokens"] - 1,
        "preflight": t.progress.preflight.relative_difference,
    }


def show_kernels(t: Training, batch: Batch, n: int = 25) -> None:
    denominators = count_tokens(t, [batch])
    kinds = [
        ProfilerActivity.CPU,
        *([ProfilerActivity.CUDA] if t.accelerator.device.type == "cuda" else []),
    ]
    with profile(activities=kinds) as profiler:
        t.accelerator.backward(t.model(batch.to(t.accelerator.device), denominators).loss)
        synchronise()
    t.optimizer.zero_grad()
    print(
        profiler.key_averages().table(
            sort_by="self_device_time_total", row_limit=n, max_name_column_width=60
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", type=Path, help="write a random Qwen3-VL-4B there first")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument(
        "--budget-gb", type=float, help="of GPU memory: more than that is out of memory"
    )
    parser.add_argument("--profile", action="store_true")
    args, overrides = parser.parse_known_args()
    if args.budget_gb and not torch.cuda.is_available():
        parser.error("--budget-gb: torch sees no GPU on this machine")
    if args.release and not args.release.exists():
        print(
            "a random 4B release: "
            f"{seconds(lambda: write_release(args.release, PUBLISHED_4B))[0]:.0f} s",
            flush=True,
        )
    variants = args.variants.split(",")
    cfg = compose([f"variant={variants[0]}", *overrides])
    if args.budget_gb:
        torch.cuda.set_per_process_memory_fraction(
            args.budget_gb * 1e9 / torch.cuda.get_device_properties(0).total_memory
        )
    if not (data_path(cfg) / "data.json").exists():
        print(f"data: {seconds(lambda: prepare_data(cfg))[0]:.0f} s", flush=True)
    print(f"base: {seconds(lambda: prepare_base(cfg))[0]:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        t = set_up(
            cfg,
            RunDirectory(Path(name) / "run"),
            {},
            Accelerator(cpu=device_for(cfg.runtime) == "cpu"),
        )
    device, dtype = t.accelerator.device, getattr(torch, cfg.train.dtype.name)
    rate = matrix_rate(device, dtype, 8192 if device.type == "cuda" else 512)
    print(f"large matrix products in {cfg.train.dtype.name}: {rate / 1e12:.3g} TFLOP/s", flush=True)
    weights = {name: weight.clone() for name, weight in trained_weights(t.model.vlm).items()}
    rows = []
    for variant in variants:
        start_over(t, variant, weights)
        rows.append(row_of(variant, measure(t, variant), rate))
    if args.profile:
        show_kernels(t, load_window(t, 1)[0])
    columns = (
        "variant | loss, first and last step | tokens/s | step | MFU | peak, GB | "
        "micro-batches | padding | pre-flight"
    )
    print(table(columns, rows))


def row_of(variant: str, f: dict[str, Any], rate: float) -> list[str]:
    use = f"{100 * f['flops_per_s'] / rate:.0f} % ({f['flops_per_s'] / 1e12:.3g} TFLOP/s)"
    ends = f"{f['losses'][0]:.3f} → {f['losses'][-1]:.3f}"
    measured = [f"{f['tokens_per_s']:,.0f}", f"{f['step_s']:.2f} s", use, f"{f['peak_gb']:.1f}"]
    return [
        variant,
        ends,
        *measured,
        f["cut"],
        f"{100 * f['padding']:.1f} %",
        f"{f['preflight']:.0e}",
    ]


if __name__ == "__main__":
    main()
