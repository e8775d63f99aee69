"""AdamW with a learning rate per part of the model, warm-up, and cosine to a floor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from coordexp.config.schema import OptimConfig
from coordexp.models.checkpoints import parts


def build_optimizer(vlm: nn.Module, cfg: OptimConfig) -> torch.optim.AdamW:
    """AdamW with one learning rate per part; weight decay on matrices only.

    Each group's `peak_lr` is its peak rate; the schedule multiplies it by a factor.
    """
    rates = {
        "vision": cfg.lr_vision,
        "aligner": cfg.lr_aligner,
        "language": cfg.lr,
        "coord": cfg.lr_coord,
    }
    groups = []
    for part, parameters in parts(vlm).items():
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2) == decays]
            decay = cfg.weight_decay if decays else 0.0
            groups.append(
                {"params": chosen, "lr": 0.0, "peak_lr": rates[part], "weight_decay": decay}
            )
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True
    )


def learning_rate_factor(
    step: int, max_steps: int, warmup_fraction: float, floor_fraction: float
) -> float:
    """Fraction of the peak rate at `step`, counted from 1.

    Linear warm-up, then a cosine that ends at `floor_fraction`.
    """
    warmup = max(1, round(warmup_fraction * max_steps))
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, max_steps - warmup)
    return floor_fraction + (1 - floor_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def step_optimizer(
    optimizer: torch.optim.Optimizer, vlm: Any, coord_ids: Tensor, cfg: OptimConfig, factor: float
) -> None:
    """One AdamW step at `factor` of the peak rates; the coordinate rows have their own rate.

    With adapters, the coordinate rows are a separate parameter in a separate group. Without
    adapters, they are part of one (tied) embedding matrix. An AdamW update, weight decay included,
    is proportional to the learning rate. So scaling these rows' change by lr_coord / lr equals
    AdamW at lr_coord exactly.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    if cfg.adapter.rank or cfg.lr_coord == cfg.lr:
        optimizer.step()
        return
    embedding = vlm.get_input_embeddings().weight
    before = embedding.detach()[coord_ids].clone()
    optimizer.step()
    with torch.no_grad():
        embedding[coord_ids] = before + (embedding[coord_ids] - before) * (cfg.lr_coord / cfg.lr)
