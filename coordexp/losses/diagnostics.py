"""Coordinate metrics from logits: pure functions, never part of a gradient.

N coordinate rows, vocabulary V, K = 1000 bins. Distances are in bins. Source: note, section "Metrics Used".
"""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from coordexp.coords import N_BINS

FIT_RANGE = (0.05, 20.0)  # bounds of the fitted temperature
ROWS_AT_ONCE = 1024  # whose distributions are looked at together: a validation set of real data has a hundred times as many


def distribution_columns(
    coord_logits: Tensor, bins: Tensor, temperature: float
) -> dict[str, Tensor]:
    """What the slice's distribution at this temperature says, a value a row  # [N, K], [N] -> {name: [N]}

    expected_bin: E_p[k].  w1_to_delta: E_p|k - t|, the W1 distance to a delta at the GT bin t.
    p_gt: p(t).  entropy: -sum p log p, nats.
    """
    log_p = torch.log_softmax(at_least_float32(coord_logits) / temperature, -1)
    p = log_p.exp()
    k = torch.arange(N_BINS, device=p.device, dtype=p.dtype)
    return {
        "expected_bin": p @ k,
        "w1_to_delta": (p * (k - bins[:, None]).abs()).sum(-1),
        "p_gt": p.gather(-1, bins[:, None])[:, 0],
        "entropy": -(p * log_p).sum(-1),
    }


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def coord_mass(logits: Tensor, coord_logits: Tensor) -> Tensor:
    """Probability, over the whole vocabulary at T = 1, that the next token is a coordinate  # [N, V], [N, K] -> [N]"""
    coord_logits, logits = at_least_float32(coord_logits), at_least_float32(logits)
    return (torch.logsumexp(coord_logits, -1) - torch.logsumexp(logits, -1)).exp()


def fit_temperature(
    coord_logits: Tensor, bins: Tensor, device: torch.device | str = "cpu"
) -> float:
    """The temperature that minimises the slice's negative log likelihood  # [N, K], [N] -> T

    The NLL is convex in 1/T. Returns a value inside FIT_RANGE. A part of the rows at a time goes to `device`.
    """
    at_gt = coord_logits.gather(-1, bins[:, None]).double().sum()

    def nll(log_t: float) -> float:
        t = 2.718281828459045**log_t
        log_z = sum(
            torch.logsumexp(part.to(device).double() / t, -1).sum()
            for part in coord_logits.split(ROWS_AT_ONCE)
        )
        return float(log_z - at_gt / t) / len(bins)

    low, high = (float(torch.tensor(bound, dtype=torch.float64).log()) for bound in FIT_RANGE)
    found = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(2.718281828459045**found.x)
