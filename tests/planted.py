"""Faults of normalisation, planted into the training path; and the clean path.

Each is a context manager: the trainer's own functions are replaced, as a bug would change them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from accelerate import Accelerator

from coordexp.losses import fused
from coordexp.training import step
from coordexp.training.stage1_model import Stage1Model

COUNT, SCALES, FORWARD = step.count_tokens, fused.group_scales, Stage1Model.forward
BACKWARD = Accelerator.backward


def halved_backward():
    return mock.patch.object(
        Accelerator, "backward", lambda self, loss, **how: BACKWARD(self, loss / 2, **how)
    )


def coordinates_over_their_count_again():
    """In the gradient alone: the loss stays right."""

    def scales(denominators, variant):
        text, coordinates = SCALES(denominators, variant)
        return text, coordinates / denominators[1].clamp(min=1)

    return mock.patch.object(fused, "group_scales", scales)


def coordinates_over_the_accumulation():
    def count(t, window):
        return COUNT(t, window) * torch.tensor([1.0, len(window)])

    return mock.patch.object(step, "count_tokens", count)


@contextmanager
def mean_of_means() -> Iterator[None]:
    """Each micro-batch is divided by its own counts; micro-batches and ranks are averaged."""
    accumulation = []

    def count(t, window):
        accumulation[:] = [len(window)]
        return COUNT(t, window)

    def forward(self, batch, _, world=1):
        own = torch.tensor([batch.n_text, batch.n_coord], dtype=torch.float32)
        return FORWARD(self, batch, own * accumulation[0] * world, world)

    with (
        mock.patch.object(step, "count_tokens", count),
        mock.patch.object(Stage1Model, "forward", forward),
    ):
        yield


CLEAN: Callable = nullcontext
FAULTS: dict[str, Callable] = {
    "halved backward": halved_backward,
    "coordinates over their count again": coordinates_over_their_count_again,
    "coordinates over the accumulation": coordinates_over_the_accumulation,
    "mean of means": mean_of_means,
}
