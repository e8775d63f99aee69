"""The formulas of the objective, one function each, to be read.

N rows, vocabulary V, K = 1000 bins. Everything is computed in at least float32. Source: note, section "Experiments".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coordexp.coords import N_BINS


def token_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the vocabulary at T = 1  # [N, V], [N] -> [N]"""
    return F.cross_entropy(logits, targets, reduction="none")


def soft_target(bins: Tensor, sigma_bins: float, radius_bins: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """q(k) proportional to exp(-(k - t)^2 / (2 sigma^2)) for |k - t| <= r, normalised to 1  # [N] -> [N, K]"""
    distance = torch.arange(N_BINS, device=bins.device, dtype=dtype) - bins[:, None].to(dtype)
    q = torch.exp(-distance.square() / (2 * sigma_bins**2)) * (distance.abs() <= radius_bins)
    return q / q.sum(-1, keepdim=True)


def soft_ce(coord_logits: Tensor, q: Tensor, temperature: float) -> Tensor:
    """-sum_k q log p, p = softmax(s), s = logits / T  # [N, K], [N, K] -> [N]"""
    return -(q * F.log_softmax(coord_logits / temperature, -1)).sum(-1)


def w1(coord_logits: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Wasserstein-1 distance of p and q on bins scaled to [0, 1]  # [N, K], [N, K] -> [N]

    sum over i < K - 1 of |CDF_p(i) - CDF_q(i)|, divided by K - 1.
    """
    gap = (F.softmax(coord_logits / temperature, -1) - q).cumsum(-1)[:, :-1]
    return gap.abs().sum(-1) / (N_BINS - 1)


def gate(logits: Tensor, coord_logits: Tensor, temperature: float) -> Tensor:
    """-log of the coordinate mass: logsumexp(z / T) - logsumexp(s)  # [N, V], [N, K] -> [N]"""
    return torch.logsumexp(logits / temperature, -1) - torch.logsumexp(coord_logits / temperature, -1)


def slice_ce(coord_logits: Tensor, bins: Tensor) -> Tensor:
    """-log softmax over the bins at T = 1, at the GT bin  # [N, K], [N] -> [N]"""
    return F.cross_entropy(coord_logits, bins, reduction="none")
