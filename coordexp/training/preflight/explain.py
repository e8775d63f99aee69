"""What is wrong with a gradient that fails the pre-flight: which known fault would give it?

The gradient of a window is a sum of pieces, one for each micro-batch and token group. A fault of
normalisation weights these pieces by other factors. The pieces are computed one by one, and each
known fault predicts a gradient from them. All of this is done with projections, which are linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from coordexp.config.schema import TokenGroups
from coordexp.data.batches import Batch
from coordexp.training.preflight.passes import formula_backward
from coordexp.training.preflight.projection import Projection, project
from coordexp.training.preflight.windows import token_counts
from coordexp.training.step import Training

# A fault explains a gradient if what is left is below this share of the deviation.
EXPLAINED = 0.3
# A later, less simple fault must leave less than this share of what a simpler one leaves.
BETTER = 0.5


@dataclass(frozen=True)
class Pieces:
    """The right gradient of a window by rank, micro-batch, and text and coordinate tokens.

    As projections: P numbers for all parts of the model. Their sum is the gradient of the window.
    """

    values: Tensor  # [ranks, micro-batches, 2, P]
    tokens: Tensor  # [ranks, micro-batches, 2]
    # Tokens of the variant's group: with one group, those of text and coordinates together.
    of_group: Tensor  # [ranks, micro-batches, 2]

    @property
    def total(self) -> Tensor:
        """[P]"""
        return self.values.sum((0, 1, 2))


def pieces_of(t: Training, window: list[Batch]) -> Pieces:
    """Every piece, by the reference formula."""
    device = t.accelerator.device
    counts = token_counts(window).double().to(device)
    tokens = t.accelerator.gather(counts[None]).cpu()  # [ranks, micro-batches, 2]
    denominators = tokens.sum((0, 1)).float().to(device)  # [2]
    values = []
    for batch in window:
        for chosen in (batch.bins < 0, batch.bins >= 0):
            t.optimizer.zero_grad()
            formula_backward(t, batch.supervised_at(chosen), denominators)
            values.append(project(t.model, t.accelerator).values.flatten(1))  # [ranks, P]
    of_group = tokens
    if t.model.variant.token_groups is TokenGroups.joint:
        of_group = tokens.sum(-1, keepdim=True).expand_as(tokens)
    return Pieces(torch.stack(values, 1).unflatten(1, (-1, 2)), tokens, of_group)


def explanation(measured: Projection, pieces: Pieces, loss_ratio: float) -> str:
    """Words for the known fault that would give this gradient.

    Args:
        loss_ratio: of the same window, over the right loss.
    """
    found = measured.values[0].flatten()
    deviation = float((found - pieces.total).norm())
    best, words = deviation, ""
    for predicted, fault in known_faults(found, pieces, loss_ratio):
        left = float((found - predicted).norm())
        if left < EXPLAINED * deviation and left < (BETTER * best if words else best):
            best, words = left, fault
    return words or "no known fault of normalisation explains it"


def known_faults(found: Tensor, pieces: Pieces, loss_ratio: float) -> Iterator[tuple[Tensor, str]]:
    """(the gradient that a fault predicts [P], words for the fault), the simplest fault first."""
    total = pieces.total
    scale = float(found @ total / (total @ total))
    what = "backward pass" if abs(loss_ratio - 1) < abs(scale - 1) / 10 else "loss"
    divided_by = named(scale, divisors(pieces, float(pieces.tokens.sum())), 0.0)
    yield scale * total, f"it is {scale:.4g} of what it must be: the {what} is scaled{divided_by}"

    ranks, n_micro = pieces.tokens.shape[:2]
    of_window = pieces.of_group.sum((0, 1))  # [2]
    own_means = of_window / pieces.of_group.clamp(min=1) / (ranks * n_micro)
    yield (
        (own_means[..., None] * pieces.values).sum((0, 1, 2)),
        "each micro-batch is divided by its own token count: a mean of micro-batch means",
    )
    own_ranks = of_window / pieces.of_group.sum(1, keepdim=True).clamp(min=1) / ranks
    yield (
        (own_ranks[..., None] * pieces.values).sum((0, 1, 2)),
        "each rank is divided by its own token count: a mean of rank means",
    )
    yield two_factors(found, pieces)


def two_factors(found: Tensor, pieces: Pieces) -> tuple[Tensor, str]:
    """The factors of text and coordinate tokens that come closest, as of `known_faults`."""
    both = pieces.values.sum((0, 1))  # [2, P]
    factors = torch.linalg.lstsq(both.T, found[:, None]).solution[:, 0]
    predicted = factors @ both
    errors = (found - predicted).norm() / both.norm(dim=-1)  # [2]
    tokens = pieces.tokens.sum((0, 1))
    text, coordinates = (
        f"{float(factor):.4g}{named(float(factor), divisors(pieces, float(n)), float(error))}"
        for factor, n, error in zip(factors, tokens, errors, strict=True)
    )
    done = "divided twice" if "1 over" in text + coordinates else "scaled"
    return predicted, (
        f"the part of text tokens is {text} of what it must be, that of coordinate tokens "
        f"{coordinates}: a token group is {done}"
    )


def divisors(pieces: Pieces, tokens: float) -> dict[str, float]:
    """By what a loss may wrongly be divided."""
    ranks, n_micro = pieces.tokens.shape[:2]
    return {
        "the number of micro-batches": float(n_micro),
        "the number of ranks": float(ranks),
        "their number": tokens,
    }


def named(factor: float, divisors: dict[str, float], error: float) -> str:
    """What a factor is, if it is one over one of these; `error` is that of the factor."""
    allowed = min(error, 0.02)
    for name, divisor in divisors.items():
        if divisor > 1 and abs(factor - 1 / divisor) <= 0.02 / divisor + allowed:
            return f" (1 over {name}, {divisor:g})"
    return ""
