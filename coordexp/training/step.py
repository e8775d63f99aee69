"""One optimizer step of Stage-1: images, token counts, micro-batches, gradient clipping and AdamW.

Also the train row, which covers the steps since the previous one.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from coordexp.config.schema import Config
from coordexp.data.batches import Batch, Dataset, step_indices
from coordexp.losses.terms import SUMS, Output, loss_values, watched_values
from coordexp.models.attention import takes_packs
from coordexp.models.processor import ImageProcessor
from coordexp.storage.manifest import InputDigests, Preflight, module_digests
from coordexp.storage.runs import RunDirectory
from coordexp.training.optim import learning_rate_factor, step_optimizer
from coordexp.training.stage1_model import Stage1Model


class DivergedError(Exception):
    """A training loss, a gradient norm or an evaluation loss is not finite.

    A training step raises it before any weight changes.
    """


@dataclass
class Progress:
    """The trainer's state in addition to weights and optimizer.

    `window_*` cover the steps since the last train row.
    """

    step: int = 0
    tokens_seen: int = 0
    supervised_seen: int = 0
    train_wall_s: float = 0.0
    train_cpu_s: float = 0.0  # of this process
    eval_wall_s: float = 0.0
    preflight: Preflight = field(default_factory=Preflight)
    preflight_wall_s: float = 0.0
    window_sums: Tensor = field(default_factory=lambda: torch.zeros(len(SUMS), dtype=torch.float64))
    # Absolute errors of every coordinate token at T = 1, in bins. Only kept with a single rank.
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
    wrapped: torch.nn.Module  # `model` as the accelerator has wrapped it for several ranks
    optimizer: torch.optim.Optimizer
    processor: ImageProcessor
    train: Dataset
    val: Dataset
    progress: Progress
    # Digests of the source files at the start of the run: they may change before it ends.
    modules: dict[str, str] = field(default_factory=module_digests)


def load_window(t: Training, step: int) -> list[Batch]:
    """This process's micro-batches of optimizer step `step`."""
    return [join(t, images) for images in window_images(t, step, t.accelerator.process_index)]


def window_images(t: Training, step: int, rank: int) -> list[list[int]]:
    """The images of optimizer step `step` that a rank trains on, by micro-batch.

    They are cut by tokens if `train.micro_batch_tokens` is not 0. Otherwise each has `micro_batch`
    images of similar length, to keep padding small.
    """
    cfg, ranks = t.cfg.train, t.accelerator.num_processes
    indices = step_indices(len(t.train), cfg.images_per_step, t.cfg.seed, step).tolist()
    if cfg.micro_batch_tokens:
        return t.train.cut(indices, ranks, rank, cfg.micro_batch_tokens, takes_packs(t.model.vlm))
    mine = sorted(indices[rank::ranks], key=t.train.length)
    return [mine[i : i + cfg.micro_batch] for i in range(0, len(mine), cfg.micro_batch)]


def join(t: Training, images: list[int]) -> Batch:
    """A micro-batch of these images: a pack if the run cuts by tokens and can pack, else padded."""
    packed = t.cfg.train.micro_batch_tokens and takes_packs(t.model.vlm)
    return t.train.pack(images) if packed else t.train.batch(images)


def count_tokens(t: Training, window: list[Batch]) -> Tensor:
    """Text and coordinate tokens of the whole optimizer step, over every rank  # [2]"""
    counts = torch.tensor(
        [[batch.n_text, batch.n_coord] for batch in window], dtype=torch.float32
    ).sum(0)
    return t.accelerator.reduce(counts.to(t.accelerator.device), "sum")


@dataclass
class Accumulated:
    """What forward and backward of a window return besides the gradient."""

    outputs: list[Output]  # of each micro-batch of this rank; losses are detached
    denominators: Tensor  # [2] as of `count_tokens`


def accumulate(t: Training, window: list[Batch], step: int) -> Accumulated:
    """Forward and backward of every micro-batch; the gradient is added to `.grad`.

    Ranks average their gradients in the backward pass of the last micro-batch. `step` seeds the
    randomness of each micro-batch.
    """
    denominators = count_tokens(t, window)
    outputs = []
    for i, batch in enumerate(window):
        seed_randomness(t, step, i)
        is_last = i == len(window) - 1
        with nullcontext() if is_last else t.accelerator.no_sync(t.wrapped):
            output = t.wrapped(
                batch.to(t.accelerator.device), denominators, t.accelerator.num_processes
            )
            t.accelerator.backward(output.loss)
        outputs.append(replace(output, loss=output.loss.detach()))
    return Accumulated(outputs, denominators)


def optimizer_step(t: Training, window: list[Batch], step: int) -> dict[str, float]:
    """One AdamW step over an accumulation window.

    Returns:
        Learning rate of the language model, gradient norm before clipping, number of micro-batches.

    Raises:
        DivergedError: the loss or the gradient norm is not finite. No weight has changed then.
    """
    p, ranks = t.progress, t.accelerator.num_processes
    done = accumulate(t, window, step)
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=t.accelerator.device)
    for output in done.outputs:
        sums += output.sums
    grad_norm = float(t.accelerator.clip_grad_norm_(t.model.parameters(), t.cfg.optim.clip_norm))
    n_tokens = torch.tensor([sum(batch.n_tokens for batch in window)], device=t.accelerator.device)
    losses = torch.stack([output.loss for output in done.outputs])
    mine = torch.cat([losses.sum()[None].double(), n_tokens.double(), sums])
    # Sum over ranks, so that the state file of the main rank covers the whole window. Each rank's
    # loss has the factor `ranks` (because DDP averages gradients); divide it out here.
    of_all_ranks = t.accelerator.reduce(mine, "sum").cpu()
    loss, tokens = float(of_all_ranks[0]) / ranks, int(of_all_ranks[1])
    if ranks == 1:
        for output in done.outputs:
            p.window_abs_errs += output.columns["abs_err"].tolist()
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
    p.supervised_seen += int(done.denominators.sum())
    return {
        "learning_rate": optim.lr * factor,
        "grad_norm": grad_norm,
        "accum/grad_steps": float(len(window)),
    }


def seed_randomness(t: Training, step: int, micro_batch: int) -> None:
    """Seed torch from (seed, step, micro-batch, rank): a resumed run repeats the same dropout."""
    entropy = [t.cfg.seed, step, micro_batch, t.accelerator.process_index]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def train_row(t: Training) -> dict[str, float]:
    """Losses and diagnostics since the last train row, averaged over the tokens of all ranks.

    The keys are those of an eval row, without the metrics at the fitted temperature.
    """
    p = t.progress
    # With several ranks errors are not gathered. A window with such steps has no p90.
    is_complete = len(p.window_abs_errs) == int(p.window_sums[SUMS.index("n_coord")])
    p90 = float(np.quantile(p.window_abs_errs, 0.9)) if is_complete and p.window_abs_errs else None
    return {
        **loss_values(p.window_sums, t.model.variant),
        **watched_values(p.window_sums, p90, t.model.variant),
        "tokens_per_s": p.window_tokens / max(p.window_wall_s, 1e-9),
        "time_unix_s": time.time(),
    }
