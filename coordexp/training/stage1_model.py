"""The vision-language model and its objective in one module.

The loss is computed in the forward pass of the module that DDP wraps, so DDP averages its
gradients. Only hidden states of supervised rows enter, so the logits of the full sequence never
exist.

Let D_g be the number of tokens of group g in the whole optimizer step (every rank, every
micro-batch). Each micro-batch contributes world * sum_g S_g / D_g. Nothing divides by the number of
accumulation steps again, so the cut of a step into micro-batches and ranks does not change its
gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from coordexp.config.schema import VariantConfig
from coordexp.data.batches import Batch
from coordexp.losses import fused
from coordexp.losses.terms import Output
from coordexp.models.adapters import head_weights, hidden_states


class Stage1Model(nn.Module):
    """The module that is wrapped for several ranks: hidden states, then the objective."""

    coord_ids: Tensor  # [K]

    def __init__(self, vlm: Any, variant: VariantConfig, coord_ids: list[int]) -> None:
        super().__init__()
        self.vlm, self.variant, self.objective = vlm, variant, fused.objective
        self.register_buffer("coord_ids", torch.tensor(coord_ids), persistent=False)

    def forward(self, batch: Batch, denominators: Tensor, world: int = 1) -> Output:
        """`denominators` [2]: text and coordinate tokens of the whole optimizer step."""
        hidden = hidden_states(self.vlm, **batch.inputs, use_cache=False)  # [B, L, d]
        hidden = hidden.flatten(0, 1)[batch.rows]  # [R, d]
        weight, coord_weight = head_weights(self.vlm)  # [V, d], and with adapters [K, d]
        asked = (batch.targets, batch.bins, self.coord_ids, self.variant, denominators)
        return self.objective(hidden, weight, *asked, world=world, coord_weight=coord_weight)
