"""Initial values of embeddings that no pretraining has learned.

These are the coordinate tokens and, in a tiny model, the vision tower's position embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from coordexp.coords import N_BINS


def set_coordinate_rows(
    model: PreTrainedModel, ids: list[int], n_frequencies: int, digit_ids: list[int] | None = None
) -> None:
    """Initialise the coordinate tokens' rows of embedding and head, in place.

    Neighbouring bins start with similar rows, so a gradient at one bin also moves the bins around
    it. The rows are random Fourier features. If digit embeddings exist, the rows interpolate
    between them and add Fourier features at half amplitude: interior bins of a straight line can
    never be an argmax.

    Args:
        model: its embedding and head are [V, d]; tied or not.
        ids: [K] token ids of the bins, in order.
        n_frequencies: of the Fourier features.
        digit_ids: [10] token ids of the digits 0 to 9, where they have been learned.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for weight in [embedding] if head is embedding else [embedding, head]:
        rows = fourier_rows(N_BINS, weight.shape[1], n_frequencies)
        if digit_ids is None:
            std = weight.detach().float().std()
        else:
            digits = weight.detach()[digit_ids].float()
            std = digits.std()
            rows = digit_rows(N_BINS, digits) / std + 0.5 * rows / rows.std()
        weight.data[ids] = (rows / rows.std() * std).to(weight)


def set_position_rows(weight: Tensor, n_frequencies: int) -> None:
    """Initialise a position embedding of the vision tower, in place  # [side * side, d]

    The rows are Fourier features of a patch's row and column. Their standard deviation is 0.5, as
    that of patch features. With the usual 0.02 the tiny model needs hundreds of steps before it
    uses positions.
    """
    side = math.isqrt(weight.shape[0])
    down, across = (fourier_rows(side, weight.shape[1], n_frequencies, seed) for seed in (1, 2))
    rows = (down[:, None] + across[None]).flatten(0, 1)  # [side * side, d], row by row
    weight.data[:] = rows / rows.std() * 0.5


def fourier_rows(n_rows: int, width: int, n_frequencies: int, seed: int = 0) -> Tensor:
    """`n_rows` points on a smooth random curve in `width` dimensions  # [n_rows, width]

    A fixed random projection of sin and cos of pi j k / (n_rows - 1), with amplitude 1 / j, for
    j = 1 … n_frequencies and k = 0 … n_rows - 1.
    """
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(n_rows) / (n_rows - 1)
    j = torch.arange(1, n_frequencies + 1)
    waves = math.pi * j * k[:, None]  # [n_rows, n_frequencies]
    features = torch.cat([waves.sin() / j, waves.cos() / j], dim=1)
    return features @ torch.randn(2 * n_frequencies, width, generator=generator)


def digit_rows(n_rows: int, digits: Tensor) -> Tensor:
    """Rows on the path through the embeddings of the ten digits  # [10, d] -> [n_rows, d]

    Row k is at position 9 k / (n_rows - 1) of the digits 0 to 9, interpolated linearly between the
    two nearest digits, so the rows are continuous. A mean over the decimals of k would be the same
    for 12 and 21, and would jump from 199 to 200.
    """
    position = torch.linspace(0, 9, n_rows, dtype=digits.dtype, device=digits.device)
    low = position.floor().clamp(max=8).long()
    return torch.lerp(digits[low], digits[low + 1], (position - low)[:, None])
