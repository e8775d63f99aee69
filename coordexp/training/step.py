"""One optimizer step of Stage-1: its images, token counts, micro-batches, clip and AdamW; and the
train row of several.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from coordexp.config.schema import Config
from coordexp.data.batches import Batch, Dataset, step_indices
from coordexp.losses.terms import SUMS, loss_values, watched_values
from coordexp.models.attention import takes_packs
from coordexp.models.processor import ImageProcessor
from coordexp.storage.manifest import InputDigests, module_digests
from coordexp.storage.runs import RunDirectory
from coordexp.training.optim import learning_rate_factor, step_optimizer
from coordexp.training.stage1_model import Stage1Model


class DivergedError(Exception):
    """A loss or a gradient is not finite; raised before the optimizer step is taken."""


@dataclass
class Progress:
    """What the trainer remembers beside weights and optimizer.

    `window_*` cover the steps since the last train row.
    """

    step: int = 0
    tokens_seen: int = 0
    supervised_seen: int = 0
    train_wall_s: float = 0.0
    eval_wall_s: float = 0.0
    preflight: dict[str, float] = field(default_factory=dict)
    window_sums: Tensor = field(default_factory=lambda: torch.zeros(len(SUMS), dtype=torch.float64))
    # In bins, of every coordinate token at T = 1. Kept by a single rank alone.
    window_abs_errs: list[float] = field(default_factory=list)
    window_tokens: int = 0
    window_wall_s: float = 0.0

    def reset_window(self) -> None:
        self.window_sums = torch.zeros_like(self.window_sums)
        self.window_abs_errs, self.window_tokens, self.window_wall_s = [], 0, 0.0


@dataclass
class Training:
    """Everything one run needs, put together once by `setup.set_up`."""

    cfg: Config
    run: RunDirectory
    digests: InputDigests
    accelerator: Accelerator
    model: Stage1Model
    wrapped: torch.nn.Module  # the same, as the accelerator wraps it for several ranks
    optimizer: torch.optim.Optimizer
    processor: ImageProcessor
    train: Dataset
    val: Dataset
    progress: Progress
    # Digests of the modules as they were imported, not as they are when the run ends.
    modules: dict[str, str] = field(default_factory=module_digests)


def load_window(t: Training, step: int) -> list[Batch]:
    """This process's micro-batches of optimizer step `step`, cut by tokens or by images; then
    neighbours are alike in length.
    """
    cfg, ranks, rank = t.cfg.train, t.accelerator.num_processes, t.accelerator.process_index
    indices = step_indices(len(t.train), cfg.images_per_step, t.cfg.seed, step).tolist()
    if cfg.micro_batch_tokens:
        return t.train.micro_batches(
            indices, ranks, rank, cfg.micro_batch_tokens, takes_packs(t.model.vlm)
        )
    mine = sorted(indices[rank::ranks], key=t.train.length)
    return [
        t.train.batch(mine[i : i + cfg.micro_batch]) for i in range(0, len(mine), cfg.micro_batch)
    ]


def count_tokens(t: Training, window: list[Batch]) -> Tensor:
    """Text and coordinate tokens of the whole optimizer step, over every rank  # [2]"""
    counts = torch.tensor(
        [[batch.n_text, batch.n_coord] for batch in window], dtype=torch.float32
    ).sum(0)
    return t.accelerator.reduce(counts.to(t.accelerator.device), "sum")


def optimizer_step(t: Training, window: list[Batch], step: int) -> dict[str, float]:
    """One AdamW step over an accumulation window; returns its learning rate and gradient norm
    before clipping.

    Raises:
        DivergedError: the loss or the gradient is not finite. No weight has changed then.
    """
    p, ranks = t.progress, t.accelerator.num_processes
    denominators = count_tokens(t, window)
    losses, errors, sums = (
        [],
        [],
        torch.zeros(len(SUMS), dtype=torch.float64, device=t.accelerator.device),
    )
    for i, batch in enumerate(window):
        seed_randomness(t, step, i)
        is_last = i == len(window) - 1
        with nullcontext() if is_last else t.accelerator.no_sync(t.wrapped):
            output = t.wrapped(batch.to(t.accelerator.device), denominators, ranks)
            t.accelerator.backward(output.loss)
        losses.append(output.loss.detach())
        errors.append(output.columns["abs_err"])
        sums += output.sums
    grad_norm = float(t.accelerator.clip_grad_norm_(t.model.parameters(), t.cfg.optim.clip_norm))
    n_tokens = torch.tensor([sum(batch.n_tokens for batch in window)], device=t.accelerator.device)
    mine = torch.cat([torch.stack(losses).sum()[None].double(), n_tokens.double(), sums])
    # Summed over the ranks, so that one state file holds the whole window. Each rank's loss carries
    # the factor `ranks` (DDP averages gradients), which is taken out again here.
    of_all_ranks = t.accelerator.reduce(mine, "sum").cpu()
    loss, tokens = float(of_all_ranks[0]) / ranks, int(of_all_ranks[1])
    if ranks == 1:
        p.window_abs_errs += torch.cat(errors).tolist()
    p.window_sums += of_all_ranks[2:]
    p.window_tokens += tokens
    if not (np.isfinite(loss) and np.isfinite(grad_norm)):
        raise DivergedError(
            f"diverged at step {step} (loss {loss}, gradient norm {grad_norm}): the step was not "
            "taken"
        )
    optim = t.cfg.optim
    factor = learning_rate_factor(
        step, t.cfg.train.max_steps, optim.warmup_fraction, optim.floor_fraction
    )
    step_optimizer(t.optimizer, t.model.vlm, t.model.coord_ids, optim, factor)
    t.optimizer.zero_grad()
    p.tokens_seen += tokens
    p.supervised_seen += int(denominators.sum())
    return {
        "learning_rate": optim.lr * factor,
        "grad_norm": grad_norm,
        "accum/grad_steps": float(len(window)),
    }


def seed_randomness(t: Training, step: int, micro_batch: int) -> None:
    """Dropout and the like are a function of (seed, step, micro-batch, rank), never of what ran
    before.
    """
    entropy = [t.cfg.seed, step, micro_batch, t.accelerator.process_index]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def train_row(t: Training) -> dict[str, float]:
    """The window since the last row, token-weighted over every rank: the same quantities as an eval
    row.
    """
    p = t.progress
    # Several ranks do not gather their errors, so a window that they took part in has no p90.
    is_complete = len(p.window_abs_errs) == int(p.window_sums[SUMS.index("n_coord")])
    p90 = float(np.quantile(p.window_abs_errs, 0.9)) if is_complete and p.window_abs_errs else None
    return {
        **loss_values(p.window_sums, t.model.variant),
        **watched_values(p.window_sums, p90, t.model.variant),
        "tokens_per_s": p.window_tokens / max(p.window_wall_s, 1e-9),
        "time_unix_s": time.time(),
    }
