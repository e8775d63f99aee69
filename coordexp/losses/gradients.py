"""The gradients that the fused objective adds up, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coordexp.losses.products import add_product_, whole_tiles


@dataclass
class Gradients:
    """Gradients of those inputs that need one, divided by `unit`.

    1 / D_g would underflow in half precision. So the chunks' gradients are computed as if the
    larger of the groups' scales were 1, and `unit` is multiplied in at the end.
    """

    hidden: Tensor | None  # [N, d]
    weight: Tensor | None  # [V, d]
    coord_weight: Tensor | None  # [K, d]; of the bins' own product
    unit: Tensor  # scalar

    @classmethod
    def zeros(
        cls,
        hidden: Tensor,
        weight: Tensor,
        bins_head: Tensor,
        wanted: Sequence[bool],
        separate_bins: bool,
        unit: Tensor,
    ) -> Gradients:
        """Memory for the gradients of (hidden, weight, coord_weight) that are `wanted`.

        The sums over tokens are added up in the dtype of `bins_head` [K, d], float32 at least. With
        `separate_bins` the bins' logits have a product of their own, and so has their gradient,
        also where it belongs to `weight` in the end.
        """
        gradients = cls(None, None, None, unit)
        if wanted[0]:
            gradients.hidden = torch.empty_like(hidden)  # every row is written once
        if wanted[1]:
            gradients.weight = torch.zeros_like(weight, dtype=bins_head.dtype)
        if separate_bins and (wanted[1] or wanted[2]):
            gradients.coord_weight = torch.zeros_like(bins_head)
        return gradients

    def add(
        self,
        indices: Tensor,
        hidden: Tensor,
        dz: Tensor,
        head: Tensor,
        ds: Tensor | None,
        bins_head: Tensor,
    ) -> None:
        """Add the share of a chunk of n tokens.

        Args:
            indices: [n] of the tokens among all hidden states.
            hidden: [n, d] their hidden states.
            dz: [n, V] gradient of the logits.
            head: [V, d] in the dtype of `dz`.
            ds: [n, K] gradient of the bins' logits, where these have a product of their own.
            bins_head: [K, d] the rows of that product.
        """
        tiles = whole_tiles(len(head), dz.dtype)
        if self.hidden is not None:
            parts = [dz[:, tile] @ head[tile] for tile in tiles]
            if ds is not None:
                parts.append(ds @ bins_head)
            self.hidden[indices] = sum(parts[:-1], start=parts[-1]).to(self.hidden)
        if self.coord_weight is not None and ds is not None:
            self.coord_weight.addmm_(ds.T, hidden.to(ds))
        if self.weight is not None:
            for tile in tiles:
                add_product_(self.weight[tile], dz[:, tile].T, hidden.to(dz))

    def move_bins_to_head(self, coord_ids: Tensor) -> None:
        """Without trained coordinate rows the bins' gradient is part of the head's."""
        if self.weight is not None and self.coord_weight is not None:
            self.weight.index_add_(0, coord_ids, self.coord_weight)
            self.coord_weight = None


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor in `dtype`. Overwrites `gradient` where it has that dtype already."""
    if gradient.dtype == dtype:
        return torch.mul(gradient, factor, out=gradient)
    return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))
