"""The images of step 1 as windows of micro-batches: a small one, as configured, cut otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.data.batches import Batch, step_indices
from coordexp.training.step import Training, join, load_window, window_images

STEP = 1


def small_images(t: Training) -> list[int]:
    """One or two short records of step 1 for this rank, with objects if there are any.

    Two only if a configured micro-batch has as many: memory may not suffice otherwise.
    """
    ranks, rank = t.accelerator.num_processes, t.accelerator.process_index
    images = step_indices(len(t.train), t.cfg.train.images_per_step, t.cfg.seed, STEP).tolist()
    shortest = sorted(images, key=lambda i: (not t.train.records[i].objects, t.train.length(i)))
    largest = max(len(group) for group in window_images(t, STEP, rank))
    return shortest[rank::ranks][: min(2, largest)]


def configured_cut(t: Training) -> list[Batch]:
    return load_window(t, STEP)


def other_cut(t: Training) -> list[Batch]:
    """Each configured micro-batch in two uneven parts; the second goes to the rank before.

    A micro-batch of one image is cut by its supervised rows. No part needs more memory than a
    configured micro-batch.
    """
    ranks, rank = t.accelerator.num_processes, t.accelerator.process_index
    batches = []
    for images in window_images(t, STEP, rank):
        batches.append(part_of(t, images, first=True))
    for images in window_images(t, STEP, (rank + 1) % ranks):
        batches.append(part_of(t, images, first=False))
    return batches


def part_of(t: Training, images: list[int], first: bool) -> Batch:
    """The first quarter of a micro-batch (at least one image or row), or the rest."""
    if len(images) > 1:
        quarter = max(1, len(images) // 4)
        return join(t, images[:quarter] if first else images[quarter:])
    batch = join(t, images)
    in_quarter = torch.arange(len(batch.rows)) < max(1, len(batch.rows) // 4)
    return batch.supervised_at(in_quarter if first else ~in_quarter)


def token_counts(batches: list[Batch]) -> Tensor:
    """Text and coordinate tokens of each batch, without `step.count_tokens`  # [batches, 2]"""
    counts = [[int((batch.bins < 0).sum()), int((batch.bins >= 0).sum())] for batch in batches]
    return torch.tensor(counts)
