"""Reference implementation of the objective: a function per term, and the objective on full logits.

N supervised tokens, vocabulary V, K = 1000 bins. Everything after the product with the head is
computed in float32 at least. The terms are those of the note's section "Experiments". Training uses
`fused.objective`, which gives the same values without the full logits; tests compare it with this
file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses.diagnostics import coord_mass, distribution_columns
from coordexp.losses.terms import SUMS, WATCHED, Output, total_loss


def token_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the vocabulary at T = 1, nats  # [N, V], [N] token ids -> [N]"""
    return F.cross_entropy(logits, targets, reduction="none")


def soft_target(
    bins: Tensor, sigma_bins: float, radius_bins: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A truncated, normalised Gaussian over the bins around the ground truth  # [N] -> [N, K]

    q(k) proportional to exp(-(k - t)^2 / (2 sigma^2)) for |k - t| <= r, else 0. sigma and r are in
    bins.
    """
    distance = torch.arange(N_BINS, device=bins.device, dtype=dtype) - bins[:, None].to(dtype)
    q = torch.exp(-distance.square() / (2 * sigma_bins**2)) * (distance.abs() <= radius_bins)
    return q / q.sum(-1, keepdim=True)


def soft_ce(coord_logits: Tensor, q: Tensor, temperature: float) -> Tensor:
    """-sum_k q log p with p = softmax(z / T), nats  # [N, K], [N, K] -> [N]"""
    return -(q * F.log_softmax(coord_logits / temperature, -1)).sum(-1)


def w1(coord_logits: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Wasserstein-1 distance of p and q, with the bins scaled to [0, 1]  # [N, K], [N, K] -> [N]

    sum over i < K - 1 of |CDF_p(i) - CDF_q(i)|, divided by K - 1.
    """
    gap = (F.softmax(coord_logits / temperature, -1) - q).cumsum(-1)[:, :-1]
    return gap.abs().sum(-1) / (N_BINS - 1)


def gate(logits: Tensor, coord_logits: Tensor, temperature: float) -> Tensor:
    """-log of the probability of any coordinate at T, nats  # [N, V], [N, K] -> [N]

    logsumexp(z / T) over the vocabulary minus logsumexp(z / T) over the bins.
    """
    over_vocabulary = torch.logsumexp(logits / temperature, -1)
    return over_vocabulary - torch.logsumexp(coord_logits / temperature, -1)


def slice_ce(coord_logits: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy over the bins alone at T = 1, nats  # [N, K], [N] bins -> [N]"""
    return F.cross_entropy(coord_logits, bins, reduction="none")


def objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bins: Tensor,
    coord_ids: Tensor,
    variant: VariantConfig,
    denominators: Tensor,
    *,
    world: int = 1,
    coord_weight: Tensor | None = None,
) -> Output:
    """Loss, sums and columns of N supervised tokens, computed from full logits by autograd.

    Arguments and result are those of `fused.objective`, without `chunk_rows`. All logits [N, V]
    exist at once. `coord_logits` is returned also when gradients are computed.
    """
    if coord_weight is not None:
        weight = weight.index_copy(0, coord_ids, coord_weight.to(weight))
    logits = hidden @ weight.T  # [N, V]
    return objective_of_logits(logits, targets, bins, coord_ids, variant, denominators, world=world)


def objective_of_logits(
    logits: Tensor,
    targets: Tensor,
    bins: Tensor,
    coord_ids: Tensor,
    variant: VariantConfig,
    denominators: Tensor,
    *,
    world: int = 1,
) -> Output:
    """`objective` from the logits of the supervised tokens  # [N, V]"""
    if logits.dtype != torch.float64:
        logits = logits.float()

    on_coord = bins >= 0
    text_logits, text_targets = logits[~on_coord], targets[~on_coord]
    full_logits, bins = logits[on_coord], bins[on_coord]
    coord_logits = full_logits[:, coord_ids]  # [C, K]
    terms = {
        "text_ce": token_ce(text_logits, text_targets).sum(),
        **coordinate_sums(full_logits, coord_logits, targets[on_coord], bins, variant),
    }
    loss = world * total_loss(terms, denominators, variant).to(logits.dtype)

    with torch.no_grad():
        watched, columns = watch(
            text_logits, text_targets, full_logits, coord_logits, bins, coord_ids, variant
        )
        named = {"n_text": (~on_coord).sum(), "n_coord": on_coord.sum(), **terms, **watched}
        zero = torch.zeros((), device=loss.device)
        sums = torch.stack([named.get(name, zero).detach().double() for name in SUMS])
    return Output(loss, sums, columns, coord_logits.detach())


def coordinate_sums(
    logits: Tensor, coord_logits: Tensor, targets: Tensor, bins: Tensor, variant: VariantConfig
) -> dict[str, Tensor]:
    """Unweighted sums of the coordinate terms that the variant uses.

    # [C, V], [C, K], [C], [C] -> {term: scalar}
    """
    if variant.token_groups is TokenGroups.joint:
        return {"coord_token_ce": token_ce(logits, targets).sum()}
    temperature = variant.temperature
    q = soft_target(bins, variant.sigma_bins, variant.radius_bins, coord_logits.dtype)
    sums = {}
    if variant.soft_ce:
        sums["soft_ce"] = soft_ce(coord_logits, q, temperature).sum()
    if variant.w1:
        sums["w1"] = w1(coord_logits, q, temperature).sum()
    if variant.gate:
        sums["gate"] = gate(logits, coord_logits, temperature).sum()
    if variant.ce:
        sums["ce"] = slice_ce(coord_logits, bins).sum()
    return sums


def watch(
    text_logits: Tensor,
    text_targets: Tensor,
    full_logits: Tensor,
    coord_logits: Tensor,
    bins: Tensor,
    coord_ids: Tensor,
    variant: VariantConfig,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The diagnostics that are logged beside the loss: sums {name: scalar}, columns {name: [C]}.

    `text_logits` are [M, V] for M text tokens, `full_logits` [C, V] and `coord_logits` [C, K] for C
    coordinate tokens.
    """
    text_top, coord_top = text_logits.argmax(-1), full_logits.argmax(-1)
    columns = {
        "hit": coord_top == coord_ids[bins],
        "argmax_bin": coord_logits.argmax(-1),
        "coord_mass": coord_mass(full_logits, coord_logits),
    }
    sums = {
        "text_hits": (text_top == text_targets).sum(),
        "coord_hits": columns["hit"].sum(),
        "coord_mass": columns["coord_mass"].double().sum(),
        "to_text": (~torch.isin(coord_top, coord_ids)).sum(),
        "to_coord": torch.isin(text_top, coord_ids).sum(),
    }
    for label, temperature in (("own", variant.temperature), ("t1", 1.0)):
        statistics = distribution_columns(coord_logits, bins, temperature)
        statistics["abs_err"] = (statistics["expected_bin"] - bins).abs()
        for name in WATCHED:
            sums[f"{name}_{label}"] = statistics[name].double().sum()
    columns["abs_err"] = statistics["abs_err"]  # from the last iteration, which is T = 1
    return sums, columns
