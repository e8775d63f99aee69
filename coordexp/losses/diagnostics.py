"""Coordinate metrics from logits. They carry no gradient and are not part of the loss.

N coordinate tokens, vocabulary V, K = 1000 bins. Distances are in bins. The metrics are those of
the note's section "Metrics Used".
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from coordexp.coords import N_BINS

FIT_RANGE = (0.05, 20.0)  # bounds of the fitted temperature

# Distributions over the bins are computed for this many tokens at once, to bound the memory: a real
# validation set has 100,000 coordinate tokens.
ROWS_AT_ONCE = 1024


def distribution_columns(
    coord_logits: Tensor, bins: Tensor, temperature: float
) -> dict[str, Tensor]:
    """Statistics of p = softmax(z / T) over the bins, one value per token.

    Args:
        coord_logits: [N, K] logits z of the bins. Computed in float32 at least.
        bins: [N] ground-truth bin t of each token, int64.
        temperature: T, above 0.

    Returns:
        {name: [N]}:
        expected_bin: E_p[k], bins.
        w1_to_delta: E_p|k - t|, the W1 distance of p to a point mass at t, bins.
        p_gt: p(t).
        entropy: -sum_k p log p, nats.

    Raises:
        ValueError: T is 0 or below.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: must be above 0")
    log_p = _log_softmax(coord_logits, temperature)
    return _statistics(log_p, log_p.exp(), bins)


def _statistics(log_p: Tensor, p: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """See `distribution_columns`  # [N, K], [N, K], [N] -> {name: [N]}"""
    k = torch.arange(N_BINS, device=p.device, dtype=p.dtype)
    return {
        "expected_bin": p @ k,
        "w1_to_delta": (p * (k - bins[:, None]).abs()).sum(-1),
        "p_gt": p.gather(-1, bins[:, None])[:, 0],
        "entropy": -(p * log_p).sum(-1),
    }


def proper_scores(coord_logits: Tensor, bins: Tensor, temperature: float) -> dict[str, Tensor]:
    """Strictly proper scores of p = softmax(z / T) over the bins, one value per token.

    No other distribution than the one that a model believes gives it a better expected score
    (Gneiting & Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation").

    Args:
        coord_logits: [N, K] logits z of the bins. Computed in float32 at least.
        bins: [N] ground-truth bin t of each token, int64.
        temperature: T.

    Returns:
        {name: [N]}:
        nll: -log p(t), nats.
        crps: sum_k (F(k) - 1[k >= t])^2, bins, with F the distribution function of p: the
            continuous ranked probability score on the bins (section 4.2 there).
    """
    log_p = _log_softmax(coord_logits, temperature)
    return _scores(log_p, log_p.exp(), bins)


def columns_and_scores(coord_logits: Tensor, bins: Tensor, temperature: float) -> dict[str, Tensor]:
    """`distribution_columns` and `proper_scores` together, from one softmax."""
    log_p = _log_softmax(coord_logits, temperature)
    p = log_p.exp()
    return _statistics(log_p, p, bins) | _scores(log_p, p, bins)


def _log_softmax(coord_logits: Tensor, temperature: float) -> Tensor:
    """log softmax(z / T) over the bins, in float32 at least  # [N, K] -> [N, K]"""
    return torch.log_softmax(at_least_float32(coord_logits) / temperature, -1)


def _scores(log_p: Tensor, p: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """See `proper_scores`  # [N, K], [N, K], [N] -> {name: [N]}"""
    k = torch.arange(N_BINS, device=log_p.device)
    step_at_gt = (k >= bins[:, None]).to(log_p.dtype)  # [N, K]
    return {
        "nll": -log_p.gather(-1, bins[:, None])[:, 0],
        "crps": (p.cumsum(-1) - step_at_gt).square().sum(-1),
    }


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def coord_mass(logits: Tensor, coord_logits: Tensor) -> Tensor:
    """Probability that the next token is a coordinate, at T = 1  # [N, V], [N, K] -> [N]

    `coord_logits` are the columns of `logits` that belong to the bins.
    """
    coord_logits, logits = at_least_float32(coord_logits), at_least_float32(logits)
    return (torch.logsumexp(coord_logits, -1) - torch.logsumexp(logits, -1)).exp()


def fit_temperature(
    coord_logits: Tensor, bins: Tensor, device: torch.device | str = "cpu"
) -> float:
    """The temperature in FIT_RANGE that minimises the mean negative log-likelihood of the bins.

    This is temperature scaling (Guo et al., 2017, "On Calibration of Modern Neural Networks",
    section 4.2). The NLL is convex in 1 / T, so it has a single minimum; the search is over log T.

    Args:
        coord_logits: [N, K] logits of the bins; N is at least 1.
        bins: [N] ground-truth bins, int64.
        device: where the sums are computed, ROWS_AT_ONCE rows at a time; the logits may lie
            elsewhere.

    Returns:
        T; NaN where a logit is not finite, as those of a run that diverges.

    Raises:
        ValueError: there are no rows.
    """
    if not len(bins):
        raise ValueError("coord_logits: must have a row at least")
    at_gt = coord_logits.gather(-1, bins[:, None]).double().sum()

    def mean_nll(log_temperature: float) -> float:
        temperature = math.e**log_temperature
        log_z = sum(
            torch.logsumexp(part.to(device).double() / temperature, -1).sum()
            for part in coord_logits.split(ROWS_AT_ONCE)
        )
        return float(log_z - at_gt / temperature) / len(bins)

    low, high = (float(torch.tensor(bound, dtype=torch.float64).log()) for bound in FIT_RANGE)
    minimum = minimize_scalar(
        mean_nll, bounds=(low, high), method="bounded", options={"xatol": 1e-4}
    )
    return float(math.e**minimum.x) if math.isfinite(minimum.fun) else math.nan
