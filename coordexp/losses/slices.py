"""The coordinate terms as functions of the bins' logits alone, with their gradients written out.

C rows, K = 1000 bins, z_C the bins' logits, s = z_C / T, p = softmax(s), q the soft target (formulas: `reference.py`):

    softCE = -sum q log p               d/ds = p - q
    W1     = sum_i |P_i - Q_i| / (K-1)  d/ds = p (a - sum_j p_j a_j),  a_j = sum_{j <= i < K-1} sign(P_i - Q_i) / (K-1)
    gate   = lse(z / T) - lse(s)        d/ds = -p   (and what lse(z / T) adds, over the whole vocabulary)
    ce     = lse(z_C) - z_t             d/dz_C = softmax(z_C) - onehot(t)

P and Q are the cumulative sums of p and q, so W1's gradient is a reversed cumulative sum of signs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses.reference import soft_target


def full_vocabulary_term(variant: VariantConfig) -> tuple[str, float, float]:
    """The one coordinate term that looks beyond the bins, by lse(z / T): its name, weight and T."""
    if variant.token_groups is TokenGroups.joint:
        return "coord_token_ce", 1.0, 1.0
    return "gate", variant.gate, variant.temperature


def slice_terms(
    logits: Tensor, bins: Tensor, variant: VariantConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """Each term the variant uses, and the gradient of their weighted sum  # [C, K], [C] -> {term: [C]}, [C, K]

    Both without the lse(z / T) of `full_vocabulary_term`: what is left of it is -z_t or -lse(s).
    """
    at = bins[:, None]
    if variant.token_groups is TokenGroups.joint:
        return {"coord_token_ce": -logits.gather(-1, at)[:, 0]}, torch.zeros_like(logits).scatter_(
            -1, at, -1.0
        )
    terms = {}
    scaled = logits / variant.temperature
    lse = torch.logsumexp(scaled, -1, keepdim=True)
    log_p = scaled - lse
    p = log_p.exp()
    gradient = (variant.soft_ce - variant.gate) * p
    if variant.gate:
        terms["gate"] = -lse[:, 0]
    if variant.soft_ce or variant.w1:
        q = soft_target(bins, variant.sigma_bins, variant.radius_bins, logits.dtype)
    if variant.soft_ce:
        terms["soft_ce"] = -(q * log_p).sum(-1)
        gradient -= variant.soft_ce * q
    if variant.w1:
        gap = (p - q).cumsum(-1)
        gap[:, -1] = 0.0  # both end at 1
        terms["w1"] = gap.abs().sum(-1) / (N_BINS - 1)
        signs = gap.sign()
        a = (signs.sum(-1, keepdim=True) - signs.cumsum(-1) + signs) / (
            N_BINS - 1
        )  # summed from the right
        gradient += variant.w1 * p * (a - (p * a).sum(-1, keepdim=True))
    gradient /= variant.temperature
    if variant.ce:
        log_p1 = torch.log_softmax(logits, -1)
        terms["ce"] = -log_p1.gather(-1, at)[:, 0]
        gradient += variant.ce * log_p1.exp().scatter_add_(
            -1, at, -torch.ones_like(at, dtype=logits.dtype)
        )
    return terms, gradient
