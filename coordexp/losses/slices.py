"""The coordinate terms as functions of the bins' logits alone, with their gradients written out.

C coordinate tokens, K = 1000 bins, z_C the bins' logits, s = z_C / T, p = softmax(s), q the soft
target. The formulas of the terms are in `reference.py`; lse is logsumexp, t the ground-truth bin:

    softCE = -sum_k q log p             d/ds = p - q
    W1     = sum_i |P_i - Q_i| / (K-1)  d/ds = p (a - sum_j p_j a_j)
    gate   = lse(z / T) - lse(s)        d/ds = -p   of the second part
    ce     = lse(z_C) - z_t             d/dz_C = softmax(z_C) - onehot(t)

The first part of the gate, lse(z / T), depends on the whole vocabulary and is added in `chunk.py`.
P and Q are the cumulative sums of p and q, and a_j = sum_{j <= i < K-1} sign(P_i - Q_i) / (K-1).
The probability of bin j enters every P_i with i >= j, so a_j = dW1/dp_j is a cumulative sum of
signs from the right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses.reference import soft_target


def full_vocabulary_term(variant: VariantConfig) -> tuple[str, float, float]:
    """The coordinate term that contains lse(z / T) over the vocabulary: its name, its weight, T."""
    if variant.token_groups is TokenGroups.joint:
        return "coord_token_ce", 1.0, 1.0
    return "gate", variant.gate, variant.temperature


def slice_terms(
    logits: Tensor, bins: Tensor, variant: VariantConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """The coordinate terms that the variant uses, and d(their weighted sum)/d(logits).

    Both leave out the lse(z / T) of `full_vocabulary_term`; the caller adds it. So the gate is
    returned as -lse(s), and the cross-entropy over the vocabulary as -z_t.

    Args:
        logits: [C, K] of the bins.
        bins: [C] ground-truth bins.
        variant: the objective's weights, temperature and soft target.

    Returns:
        {term: [C]} unweighted, in nats (W1: of bins scaled to [0, 1]), and the gradient [C, K].
    """
    at_target = bins[:, None]
    if variant.token_groups is TokenGroups.joint:
        terms = {"coord_token_ce": -logits.gather(-1, at_target)[:, 0]}
        return terms, torch.zeros_like(logits).scatter_(-1, at_target, -1.0)

    terms = {}
    scaled = logits / variant.temperature
    lse = torch.logsumexp(scaled, -1, keepdim=True)
    log_p = scaled - lse
    p = log_p.exp()

    # First the gradient with respect to s; then dz_C = ds / T. softCE and gate both contain p.
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
        gap[:, -1] = 0.0  # both cumulative sums end at 1: a difference there is rounding error
        terms["w1"] = gap.abs().sum(-1) / (N_BINS - 1)
        # a_j = dW1/dp_j is the sum of sign(P_i - Q_i) over i >= j, divided by K - 1. The Jacobian
        # of the softmax turns it into p (a - sum_j p_j a_j), the gradient with respect to s.
        signs = gap.sign()
        from_right = signs.sum(-1, keepdim=True) - signs.cumsum(-1) + signs
        a = from_right / (N_BINS - 1)
        gradient += variant.w1 * p * (a - (p * a).sum(-1, keepdim=True))
    gradient /= variant.temperature

    # The cross-entropy over the bins is at T = 1, so its gradient is not divided by T.
    if variant.ce:
        log_p1 = torch.log_softmax(logits, -1)
        terms["ce"] = -log_p1.gather(-1, at_target)[:, 0]
        minus_one = -torch.ones_like(at_target, dtype=logits.dtype)
        gradient += variant.ce * log_p1.exp().scatter_add_(-1, at_target, minus_one)
    return terms, gradient
