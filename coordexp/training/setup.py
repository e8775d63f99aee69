"""The setup of a run: model, optimizer, data, the saved state if it exists, and the pre-flight."""

from __future__ import annotations

from dataclasses import asdict

import torch
from accelerate import Accelerator
from transformers.utils import logging as hf_logging

from coordexp.config.schema import Config
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Dataset, step_indices
from coordexp.data.prepare import data_path
from coordexp.errors import UserError
from coordexp.losses.terms import loss_values
from coordexp.models.checkpoints import load_for_training, restore_weights, trained_weights
from coordexp.storage.manifest import InputDigests, preflight_tolerance
from coordexp.storage.runs import (
    RunDirectory,
    holds_results,
    set_aside,
    write_config,
)
from coordexp.training.evaluate import forward_only
from coordexp.training.memory import estimate
from coordexp.training.optim import build_optimizer
from coordexp.training.stage1_model import Stage1Model
from coordexp.training.state import load_state, save_state
from coordexp.training.step import Progress, Training, count_tokens, load_window


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
        t.progress = Progress(**state["progress"])
        return t
    t.progress.preflight = preflight(t)
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


def save_progress(t: Training) -> None:
    """Write the state file from which a killed run resumes."""
    progress = {name: getattr(t.progress, name) for name in Progress.__dataclass_fields__}
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


def preflight(t: Training) -> dict[str, float]:
    """Compare training loss and evaluation loss of the images of step 1, dropout off.

    The training path is one accumulation window, cut as in training. Gradients are not computed:
    the check shows errors in the normalisation of the loss only.

    Returns:
        train_loss, eval_loss, relative_difference.

    Raises:
        UserError: the two losses differ by more than `preflight_tolerance`.
    """
    window = load_window(t, step=1)
    denominators = count_tokens(t, window)
    t.model.eval()
    with torch.no_grad():
        losses = [
            t.wrapped(
                batch.to(t.accelerator.device), denominators, t.accelerator.num_processes
            ).loss
            for batch in window
        ]
    t.model.train()
    trained = (
        float(t.accelerator.reduce(torch.stack(losses).double().sum(), "sum"))
        / t.accelerator.num_processes
    )
    indices = step_indices(len(t.train), t.cfg.train.images_per_step, t.cfg.seed, step=1)
    passes = forward_only(
        t.model, t.train, indices, t.cfg.train.eval_micro_batch, t.accelerator.device
    )
    sums = torch.stack([output.sums for _, output in passes]).sum(0)
    evaluated = loss_values(sums, t.model.variant)["loss"]
    difference = abs(trained - evaluated) / abs(evaluated)
    allowed = preflight_tolerance(t.cfg.train.dtype.name)
    if not difference <= allowed:
        raise UserError(
            f"pre-flight: the training path gives loss {trained:.8g}, the evaluation path "
            f"{evaluated:.8g} on the same images "
            f"({difference:.1e} apart, allowed {allowed:.0e}): the loss normalisation is broken"
        )
    return {"train_loss": trained, "eval_loss": evaluated, "relative_difference": difference}
