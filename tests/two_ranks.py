"""One optimizer step through the trainer's own functions; the gradient is returned, not applied.

test_objective.py takes it in one process, and in two forks of its own: gloo ranks.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import TINY_OVERRIDES, VARIANTS, Scenes, Tiny, composed
from planted import FAULTS

from coordexp.data.batches import Batch
from coordexp.errors import UserError
from coordexp.storage.runs import RunDirectory
from coordexp.training.evaluate import evaluate
from coordexp.training.optim import build_optimizer
from coordexp.training.preflight.checks import preflight
from coordexp.training.step import Progress, Training, load_window, optimizer_step, train_row


def training(tiny: Tiny, scenes: Scenes, variant: str, *overrides: str) -> Training:
    """A Training as of `setup.set_up`, with the tiny model and without clipping."""
    cfg = composed(f"variant={variant}", *TINY_OVERRIDES, "optim.clip_norm=1e9", *overrides)
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(cpu=True)
    model = tiny.stage1(variant, *overrides)
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(tiny.vlm, cfg.optim))
    sets = [scenes.dataset(split, tiny.processor) for split in ("train", "val")]
    return Training(
        cfg,
        RunDirectory(scenes.root),
        {},
        accelerator,
        model,
        wrapped,
        optimizer,
        tiny.processor,
        *sets,
        Progress(),
    )


def gradient(t: Training, window: list[Batch]) -> torch.Tensor:
    """The gradient that `optimizer_step` would give to AdamW, all parameters in one vector."""
    kept = []

    def keep(*_):
        kept.append(torch.cat([p.grad.flatten() for p in t.model.parameters()]))

    with mock.patch("coordexp.training.step.step_optimizer", keep):
        optimizer_step(t, window, step=1)
    return kept[0]


def one_step(t: Training) -> dict[str, Any]:
    """Gradient, train row and facts of step 1 of this configuration."""
    found = gradient(t, load_window(t, step=1))
    facts = {"tokens_seen": t.progress.tokens_seen, "supervised_seen": t.progress.supervised_seen}
    return {"gradient": found, "row": train_row(t), "facts": facts}


def run_rank(rank: int, port: int, tiny: Tiny, scenes: Scenes, out: Path) -> None:
    """One of two ranks, in a process of its own; rank 0 writes the results of every variant."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)  # what the fork inherits is of one rank
    results: dict[str, Any] = {}
    for variant in VARIANTS:
        t = training(tiny, scenes, variant, "train.micro_batch=2")
        assert t.accelerator.num_processes == 2
        results[variant] = one_step(t)
        results[variant]["eval_row"] = evaluate(
            t.model, t.val, 4, t.accelerator, out.with_name(f"{variant}.parquet")
        )
    results["preflight"] = preflights(tiny, scenes)
    results["trained"] = [trained(tiny, scenes, before) for before in (preflight, lambda _: None)]
    if t.accelerator.is_main_process:
        torch.save(results, out)
    t.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def preflights(tiny: Tiny, scenes: Scenes) -> dict[tuple[str, str], list[Any]]:
    """What each rank's pre-flight finds: {(dtype, fault or ""): [differences or message]}."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        for fault, plant in {"": nullcontext, **FAULTS}.items():
            vlm = copy.deepcopy(tiny.vlm).to(getattr(torch, dtype))
            cast = replace(tiny, vlm=vlm)
            given = (f"train.dtype={dtype}", "train.micro_batch=2")
            t = training(cast, scenes, "mixed", *given)
            try:
                with plant():
                    outcome: Any = asdict(preflight(t))
            except UserError as error:
                outcome = str(error)
            ranks: list[Any] = [None, None]
            torch.distributed.all_gather_object(ranks, outcome)
            found[dtype, fault] = ranks
    return found


def trained(tiny: Tiny, scenes: Scenes, before: Callable[[Training], Any]) -> list[torch.Tensor]:
    """The weights after two steps, if this is called before them."""
    vlm = copy.deepcopy(tiny.vlm).float()
    given = ("train.dtype=float32", "train.micro_batch=2")
    t = training(replace(tiny, vlm=vlm), scenes, "mixed", *given)
    before(t)
    for step in (1, 2):
        optimizer_step(t, load_window(t, step), step)
    return [parameter.detach() for parameter in vlm.parameters()]
