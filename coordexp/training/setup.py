"""The setup of a run: model, optimizer, data, and the saved state or else the pre-flight."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import msgspec
import torch
from accelerate import Accelerator
from transformers.utils import logging as hf_logging

from coordexp.config.schema import Config
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Dataset
from coordexp.models.checkpoints import load_for_training, restore_weights, trained_weights
from coordexp.storage.identity import data_path
from coordexp.storage.manifest import InputDigests, Preflight
from coordexp.storage.runs import (
    RunDirectory,
    holds_results,
    set_aside,
    write_config,
)
from coordexp.training.memory import estimate
from coordexp.training.optim import build_optimizer
from coordexp.training.preflight.checks import preflight
from coordexp.training.stage1_model import Stage1Model
from coordexp.training.state import load_state, save_state
from coordexp.training.step import Progress, Training, load_window


def set_up(
    cfg: Config, run: RunDirectory, digests: InputDigests, accelerator: Accelerator
) -> Training:
    """Model, optimizer, data and progress, from the state file or else from the base model.

    A state file counts only if it was written for the same data and base model. A new run does the
    pre-flight before its first step.
    """
    hf_logging.disable_progress_bar()
    torch.set_num_threads(cfg.runtime.threads)
    vlm, processor = load_for_training(cfg, accelerator.device)
    model = Stage1Model(vlm, cfg.variant, coord_token_ids(processor.tokenizer))
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(vlm, cfg.optim))
    train_set, val_set = (
        Dataset(data_path(cfg) / f"{split}.jsonl", processor) for split in ("train", "val")
    )
    t = Training(
        cfg,
        run,
        digests,
        accelerator,
        model,
        wrapped,
        optimizer,
        processor,
        train_set,
        val_set,
        Progress(),
    )
    if accelerator.is_main_process:
        report_memory(t)
    state = load_state(run.state) if run.state.exists() else None
    accelerator.wait_for_everyone()
    if state is not None and state["digests"] != asdict(digests):
        state = None
    # Without a fitting state this is a new run. Existing results belong to other data, to another
    # base model, or to a run whose state was removed: move them aside.
    if state is None and accelerator.is_main_process and holds_results(run):
        set_aside(run)
    if state is not None:
        restore_weights(model.vlm, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        restore_progress(t, state["progress"])
        return t
    started = time.perf_counter()
    t.progress.preflight = preflight(t)
    t.progress.preflight_wall_s = time.perf_counter() - started
    if accelerator.is_main_process:
        write_config(run, cfg)
        save_progress(t)
    return t


def report_memory(t: Training) -> None:
    """Print the estimated memory of a step, and whether a record exceeds the token budget."""
    budget = t.cfg.train.micro_batch_tokens
    longest = t.train.longest() if budget else 0
    if longest > budget:
        print(
            f"a record of {longest} tokens is longer than train.micro_batch_tokens={budget}: such "
            "a one goes alone",
            flush=True,
        )
    largest = max(load_window(t, step=1), key=lambda batch: batch.inputs["input_ids"].numel()).to(
        t.accelerator.device
    )
    print(
        estimate(t.model.vlm, largest, t.accelerator.num_processes, max(budget, longest)).told(),
        flush=True,
    )


def restore_progress(t: Training, saved: dict[str, Any]) -> None:
    """The progress that `save_progress` wrote."""
    saved["preflight"] = msgspec.convert(saved["preflight"], Preflight)
    t.progress = Progress(**saved)


def save_progress(t: Training) -> None:
    """Write the state file from which a killed run resumes."""
    progress = {name: getattr(t.progress, name) for name in Progress.__dataclass_fields__}
    progress["preflight"] = asdict(t.progress.preflight)
    weights, optimizer = trained_weights(t.model.vlm), t.optimizer.state_dict()
    save_state(
        t.run.state,
        {
            "digests": asdict(t.digests),
            "progress": progress,
            "weights": weights,
            "optimizer": optimizer,
        },
    )
