"""A short vector that stands for a gradient: norms and random projections, by part of the model.

Two gradients are compared without a second copy of either. The projection is linear. Each of its
numbers is a sum of gradient entries with random signs, so the squared length of the projection of a
difference is on average that of the difference itself (a count sketch, Charikar et al. 2002).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coordexp.models.checkpoints import parts

SIZE = 1024  # numbers in the projection of a part
BLOCK = 1 << 20  # entries of a gradient that are projected at a time
SEED = 20_260_728


@dataclass(frozen=True)
class Projection:
    """Of one gradient. On the CPU, float64; the same on every rank."""

    parts: tuple[str, ...]
    norms: Tensor  # [ranks, parts]
    values: Tensor  # [ranks, parts, SIZE]

    @property
    def norm(self) -> float:
        """Of the whole gradient, on the main rank."""
        return float(self.norms[0].norm())

    def differences(self, other: Projection) -> dict[str, float]:
        """{part: length of the difference over the part's norm in `other`}, the largest of a rank.

        A part without a gradient in both has no difference.
        """
        gap = (self.values - other.values).norm(dim=-1)  # [ranks, parts]
        relative = (gap / other.norms).where(gap > 0, 0.0).amax(0)
        return dict(zip(self.parts, relative.tolist(), strict=True))

    def between_ranks(self) -> float:
        """The largest difference of a rank's gradient to the main rank's, over its norm."""
        gap = (self.values - self.values[:1]).flatten(1).norm(dim=-1)
        return float((gap / self.norm).where(gap > 0, 0.0).amax())


def project(model: nn.Module, accelerator: Accelerator) -> Projection:
    """The projection of the gradients in `.grad`; parameters without one count as zero."""
    by_part = {name: ps for name, ps in parts(model).items() if ps}
    signs = random_signs(accelerator.device)
    found = torch.zeros(len(by_part), SIZE + 1, dtype=torch.float64, device=accelerator.device)
    for row, (name, parameters) in zip(found, by_part.items(), strict=True):
        for i, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            # Signs come from one table, for every block from another place in it.
            places = random.Random(f"{SEED} {name} {i}")
            for block in parameter.grad.detach().flatten().split(BLOCK):
                add_block(row, block.double(), signs[places.randrange(BLOCK) :])
    of_ranks = accelerator.gather(found[None]).cpu()  # [ranks, parts, SIZE + 1]
    return Projection(tuple(by_part), of_ranks[..., SIZE].sqrt(), of_ranks[..., :SIZE])


def random_signs(device: torch.device) -> Tensor:
    """The table of random signs; it does not depend on the device  # [2 * BLOCK] float64"""
    generator = torch.Generator().manual_seed(SEED)
    bits = torch.randint(0, 2, (2 * BLOCK,), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(device).double()


def add_block(row: Tensor, block: Tensor, signs: Tensor) -> None:
    """Add a block to a part's projection and squared norm  # [SIZE + 1], [n], [n or more]"""
    padded = nn.functional.pad(block * signs[: len(block)], (0, -len(block) % SIZE))
    row[:SIZE] += padded.view(-1, SIZE).sum(0)
    row[SIZE] += block.square().sum()
