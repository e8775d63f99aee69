"""Loss and gradient of a window, by the training path or by the reference formula."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coordexp.data.batches import Batch, step_indices
from coordexp.losses import reference
from coordexp.models.adapters import autocast_for
from coordexp.training.evaluate import average_losses
from coordexp.training.preflight.projection import Projection, project
from coordexp.training.preflight.windows import STEP, token_counts
from coordexp.training.step import Training, accumulate

# Of one chunk of logits in float32. Softmax and gradient take a few times as much.
LOGITS_BYTES = 128 << 20


@dataclass(frozen=True)
class Pass:
    """Of a window, over all ranks."""

    loss: float
    gradient: Projection
    micro_batches: int  # of this rank


def training_pass(t: Training, window: list[Batch]) -> Pass:
    """As a training step does it, up to the gradient."""
    t.optimizer.zero_grad()
    outputs = accumulate(t, window, STEP).outputs
    loss = torch.stack([output.loss for output in outputs]).double().sum()
    # Each rank's loss has the factor `ranks`, because ranks average their gradients.
    total = float(t.accelerator.reduce(loss, "sum")) / t.accelerator.num_processes
    return Pass(total, project(t.model, t.accelerator), len(window))


def formula_pass(t: Training, images: list[int]) -> Pass:
    """The formula for this rank's images, one at a time; losses and gradients are summed."""
    t.optimizer.zero_grad()
    batches = [t.train.batch([i]) for i in images]
    counts = token_counts(batches).sum(0).to(t.accelerator.device)
    denominators = t.accelerator.reduce(counts, "sum")  # [2]
    loss = torch.stack([formula_backward(t, batch, denominators) for batch in batches]).sum()
    if t.accelerator.num_processes > 1:
        for parameter in t.model.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
    total = float(t.accelerator.reduce(loss, "sum"))
    return Pass(total, project(t.model, t.accelerator), len(batches))


def formula_backward(t: Training, batch: Batch, denominators: Tensor) -> Tensor:
    """Add the gradient of the reference formula to `.grad`; returns the loss  # -> scalar, float64

    The logits are those of the unwrapped model's own head. The formula is a sum over rows: a chunk
    of rows at a time, so that long records and large vocabularies need little memory.
    """
    vlm, batch = t.model.vlm, batch.to(t.accelerator.device)
    loss = torch.zeros((), dtype=torch.float64, device=t.accelerator.device)
    with autocast_for(vlm):
        states = vlm.model(**batch.inputs, use_cache=False).last_hidden_state  # [B, L, d]
    states = states.flatten(0, 1)[batch.rows]  # [R, d]
    leaf = states.detach().requires_grad_()
    chunk_rows = max(1, LOGITS_BYTES // (4 * vlm.config.text_config.vocab_size))
    for rows in torch.arange(len(leaf), device=leaf.device).split(chunk_rows):
        logits = head_logits(vlm.get_output_embeddings(), leaf[rows])  # [n, V]
        asked = (batch.targets[rows], batch.bins[rows], t.model.coord_ids, t.model.variant)
        of_chunk = reference.objective_of_logits(logits, *asked, denominators).loss
        of_chunk.backward()
        loss += of_chunk.detach()
    if leaf.grad is not None:
        states.backward(leaf.grad)
    return loss


def head_logits(head: nn.Module, states: Tensor) -> Tensor:
    """The head's own forward pass, in float32 at least  # [n, d] -> [n, V]"""
    wide = {name: widened(weight) for name, weight in head.named_parameters()}
    return torch.func.functional_call(head, wide, (widened(states),))


def widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def evaluation_loss(t: Training) -> float:
    """The loss of the images of step 1, by the path that `evaluate` uses."""
    cfg = t.cfg.train
    images = step_indices(len(t.train), cfg.images_per_step, t.cfg.seed, STEP)
    return average_losses(t.model, t.train, images, cfg.eval_micro_batch, t.accelerator)["loss"]


@contextmanager
def no_trace(t: Training) -> Iterator[None]:
    """Dropout off; afterwards no gradient, and modes and random numbers as they were."""
    device = t.accelerator.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            with without_dropout(t.model):
                yield
        finally:
            t.optimizer.zero_grad()


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The rest of the model stays in training mode: gradient checkpointing needs it."""
    off = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training
    ]
    # Attention layers have a rate instead of a module.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "attention_dropout")]
    rates = [layer.attention_dropout for layer in layers]
    try:
        for module in off:
            module.eval()
        for layer in layers:
            layer.attention_dropout = 0.0
        yield
    finally:
        for module in off:
            module.train()
        for layer, rate in zip(layers, rates, strict=True):
            layer.attention_dropout = rate
