"""False alarms of the pre-flight: random clean configurations, and how far their gradients differ.

    python benchmarks/preflight.py --configurations 150
    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/preflight.py \\
        --configurations 50 --seed 1

Each configuration has a random tiny model, variant, cut (by images or by tokens, padded or packed),
dtype, adapters, gradient checkpointing and data. Some have trained a few steps before. `--faults`
plants a fault into each configuration instead, and counts those that are found.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from calibration import table

from coordexp.config.compose import compose
from coordexp.config.schema import Config
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Dataset
from coordexp.data.prepare import prepare_data
from coordexp.errors import UserError
from coordexp.models.adapters import add_adapters
from coordexp.models.base import build_tiny
from coordexp.storage.identity import data_path
from coordexp.storage.manifest import GradientAgreement, InputDigests
from coordexp.storage.runs import RunDirectory
from coordexp.training.optim import build_optimizer
from coordexp.training.preflight.checks import preflight
from coordexp.training.stage1_model import Stage1Model
from coordexp.training.step import Progress, Training, load_window, optimizer_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conftest import TINY_OVERRIDES
from planted import FAULTS

DATA = (
    ("data.image_size=64", "data.min_objects=1", "data.max_objects=1"),
    ("data.image_size=64", "data.min_objects=1", "data.max_objects=3"),
    ("data.image_size=96", "data.min_objects=1", "data.max_objects=4"),
    ("data.image_size=128", "data.min_objects=2", "data.max_objects=3"),
)


def random_overrides(draw: random.Random, ranks: int) -> tuple[str, ...]:
    """A configuration that the trainer would take."""
    width, heads = draw.choice([(32, 2), (48, 2), (64, 4), (96, 4), (128, 4)])
    images = draw.choice([2, 3, 4, 6, 8]) * ranks
    divisors = [n for n in range(1, images // ranks + 1) if (images // ranks) % n == 0]
    adapter = draw.choice([0, 0, 2, 8])
    chosen = {
        "variant": draw.choice(["softce_w1_gate", "pure_ce", "mixed", "ce_split"]),
        "seed": draw.randrange(1000),
        "model.init_seed": draw.randrange(1000),
        "model.text_layers": draw.choice([1, 1, 2, 4]),
        "model.text_hidden_size": width,
        "model.text_heads": heads,
        "model.text_intermediate_size": width + draw.choice([16, 32]),
        "model.vision_layers": draw.choice([2, 3]),
        "train.images_per_step": images,
        "train.micro_batch": draw.choice(divisors),
        "train.micro_batch_tokens": draw.choice([0, 0, 100, 250, 600]),
        "train.dtype": draw.choice(["float32", "bfloat16"]),
        "train.gradient_checkpointing": str(draw.random() < 0.3).lower(),
        "optim.adapter.rank": adapter,
        "optim.adapter.dora": str(bool(adapter) and draw.random() < 0.4).lower(),
        "optim.adapter.dropout": draw.choice([0.0, 0.2]) if adapter else 0.0,
        "optim.clip_norm": 1.0,
    }
    given = (f"{key}={value}" for key, value in chosen.items())
    return (*TINY_OVERRIDES, *draw.choice(DATA), "data.train_images=20", *given)


def training(cfg: Config, root: Path) -> Training:
    """As `setup.set_up`, with a base model that is built in memory."""
    vlm, processor = build_tiny(cfg.model)
    vlm = vlm.to(getattr(torch, cfg.train.dtype.name)).train()
    ids = coord_token_ids(processor.tokenizer)
    if cfg.optim.adapter.rank:
        add_adapters(vlm, cfg.optim.adapter, ids, cfg.seed)
    if cfg.train.gradient_checkpointing:
        vlm.activation_checkpointing_enable({"use_reentrant": False})
    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    model = Stage1Model(vlm, cfg.variant, ids)
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(vlm, cfg.optim))
    dataset = Dataset(root / data_path(cfg) / "train.jsonl", processor)
    digests = InputDigests(data="", base="")
    run, progress = RunDirectory(root), Progress()
    return Training(
        cfg,
        run,
        digests,
        accelerator,
        model,
        wrapped,
        optimizer,
        processor,
        dataset,
        dataset,
        progress,
    )


def prepare(root: Path) -> Path:
    """Make the data of every configuration below `root`."""
    with chdir(root):
        for data in DATA:
            prepare_data(compose([*TINY_OVERRIDES, *data, "data.train_images=20"]))
    return root


def differences(kind: str, found: GradientAgreement) -> dict[str, float]:
    return {
        f"{kind} loss": found.loss_difference,
        f"{kind} norm": found.norm_difference,
        f"{kind} projection": max(found.projection_difference.values()),
    }


def one(draw: random.Random, root: Path, fault: str) -> tuple[str, dict[str, float], str]:
    """dtype, differences and the message of one configuration."""
    ranks = Accelerator(cpu=True).num_processes
    overrides = random_overrides(draw, ranks)
    steps, packed = draw.choice([0, 0, 1, 4]), draw.random() < 0.5
    cfg = compose(overrides)
    t = training(cfg, root)
    with mock.patch("coordexp.training.step.takes_packs", return_value=packed):
        for step in range(1, steps + 1):
            optimizer_step(t, load_window(t, step), step)
        try:
            with FAULTS[fault]() if fault else nullcontext():
                done = preflight(t)
        except UserError as error:
            return cfg.train.dtype.name, {}, f"{' '.join(overrides)} packed={packed}: {error}"
    assert done.cut is not None
    assert done.reference is not None
    found = {"evaluation loss": float(done.relative_difference or 0.0)}
    found |= differences("cut", done.cut) | differences("reference", done.reference)
    return cfg.train.dtype.name, found, ""


def report(found: dict[str, list[dict[str, float]]]) -> str:
    """The largest and the median difference, by dtype."""
    rows = []
    for dtype, differing in sorted(found.items()):
        for name in differing[0]:
            values = sorted(one[name] for one in differing)
            median = values[len(values) // 2]
            rows.append([dtype, name, str(len(values)), f"{median:.1e}", f"{values[-1]:.1e}"])
    return table("dtype | difference | configurations | median | largest", rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    is_main = Accelerator(cpu=True).is_main_process
    found: dict[str, list[Any]] = defaultdict(list)
    alarms, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        root = prepare(Path(name))
        for i in range(args.configurations):
            fault = list(FAULTS)[i % len(FAULTS)] if args.faults else ""
            dtype, differing, message = one(random.Random(f"{args.seed} {i}"), root, fault)
            alarms += bool(message)
            if differing:
                found[dtype].append(differing)
            if is_main and bool(message) != args.faults:
                print(f"{i}: {fault}: {message or differing}", flush=True)
    if is_main:
        print(f"{args.configurations} configurations, {alarms} stopped, ", end="")
        print(f"{time.perf_counter() - started:.0f} s\n")
        print(report(found))


if __name__ == "__main__":
    main()
