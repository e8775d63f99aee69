"""Where embeddings start that no pretraining has filled: coordinate tokens and, in a tiny model, places in a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from coordexp.coords import N_BINS


def set_coordinate_rows(
    model: PreTrainedModel, ids: list[int], n_frequencies: int, digit_ids: list[int] | None = None
) -> None:
    """Smooth rows: neighbouring bins start alike, so that a gradient at one bin teaches the bins around it.

    Random waves; where digits have been learnt, their rows say where a bin lies, and waves half as strong bend the path
    between them: of rows on a straight line no hidden state can single out one that is not at an end.
    """
    for weight in {
        id(w): w
        for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    }.values():
        rows, std = (
            fourier_rows(N_BINS, weight.shape[1], n_frequencies),
            weight.detach().float().std(),
        )
        if digit_ids is not None:
            digits = weight.detach()[digit_ids].float()
            rows, std = (
                digit_rows(N_BINS, digits) / digits.std() + 0.5 * rows / rows.std(),
                digits.std(),
            )
        weight.data[ids] = (rows / rows.std() * std).to(weight)


def set_position_rows(weight: Tensor, n_frequencies: int) -> None:
    """Where a patch lies, as strong as what it shows: noise of std 0.02 would take hundreds of steps to be heard.

    `weight` [side * side, d].
    """
    side = math.isqrt(weight.shape[0])
    down, across = (fourier_rows(side, weight.shape[1], n_frequencies, seed) for seed in (1, 2))
    rows = (down[:, None] + across[None]).flatten(0, 1)
    weight.data[:] = rows / rows.std() * 0.5


def fourier_rows(n_rows: int, width: int, n_frequencies: int, seed: int = 0) -> Tensor:
    """`n_rows` points on a smooth random curve in `width` dimensions  # [n_rows, width]

    sin and cos of pi j k / (n_rows - 1), j = 1 … n_frequencies, amplitude 1/j, through a fixed random projection.
    """
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(n_rows) / (n_rows - 1)
    j = torch.arange(1, n_frequencies + 1)
    waves = math.pi * j * k[:, None]  # [n_rows, n_frequencies]
    features = torch.cat([waves.sin() / j, waves.cos() / j], dim=1)
    return features @ torch.randn(2 * n_frequencies, width, generator=generator)


def digit_rows(n_rows: int, digits: Tensor) -> Tensor:
    """The fractions k / (n_rows - 1) on the path through the ten digits' embeddings, 0 to 9  # [10, d] -> [n_rows, d]

    That is the embedding of the first decimal, interpolated linearly to the next digit, so that no carry makes a jump. A
    mean over all decimals would be the same for 12 and 21, and jump from 199 to 200.
    """
    position = torch.linspace(0, 9, n_rows, dtype=digits.dtype, device=digits.device)
    low = position.floor().clamp(max=8).long()
    return torch.lerp(digits[low], digits[low + 1], (position - low)[:, None])
