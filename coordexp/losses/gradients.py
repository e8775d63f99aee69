"""The gradients that the fused objective accumulates over chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coordexp.losses.products import add_product_, whole_tiles


@dataclass
class Gradients:
    """Gradients of those inputs that need one, divided by `unit`.

    The scales 1 / D_g would underflow in half precision. So the gradients of the chunks are
    computed with scales divided by the larger one. `unit` is the larger scale times the number of
    ranks; it is multiplied in at the end.
    """

    hidden: Tensor | None  # [N, d]
    weight: Tensor | None  # [V, d]
    coord_weight: Tensor | None  # [K, d]; from the separate matrix product of the bins
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
        """Allocate the gradients of (hidden, weight, coord_weight) that are `wanted`.

        Sums over tokens are accumulated in the dtype of `bins_head` [K, d], float32 at least. With
        `separate_bins` the bins' logits come from a separate matrix product. Their gradient then
        has a separate buffer too, even if it is added to that of `weight` at the end.
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
        """Add the gradients of a chunk of n tokens.

        Args:
            indices: [n] of the tokens among all hidden states.
            hidden: [n, d] their hidden states.
            dz: [n, V] gradient of the logits.
            head: [V, d] in the dtype of `dz`.
            ds: [n, K] gradient of the bins' logits if they come from a separate product, else None.
            bins_head: [K, d] the head rows of that product.
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
        """Add the bins' gradient to the head's if there are no trained coordinate rows."""
        if self.weight is not None and self.coord_weight is not None:
            self.weight.index_add_(0, coord_ids, self.coord_weight)
            self.coord_weight = None


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor in `dtype`. Overwrites `gradient` if it has that dtype already."""
    if gradient.dtype == dtype:
        return torch.mul(gradient, factor, out=gradient)
    return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))
