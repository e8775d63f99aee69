"""A step's samples as micro-batches of so many tokens, and the positions that keep samples of one pack apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def text_and_mrope(length: int, image_at: int, grid: tuple[int, int]) -> np.ndarray:
    """Positions of one sample with one picture: place in the text, then M-RoPE's time, row and column  # [4, L]

    `grid` are rows and columns of the picture's tokens, which begin at `image_at`. Text counts on in all three; the
    picture's tokens share one time and lie on their grid; the text behind them goes on after the longer side (Qwen2-VL,
    section 2.1: what the model's own get_rope_index gives).
    """
    places, n_image = np.arange(length), math.prod(grid)
    mrope = np.tile(places, (3, 1))
    mrope[:, image_at + n_image :] += max(grid) - n_image
    mrope[:, image_at : image_at + n_image] = image_at
    mrope[1:, image_at : image_at + n_image] += np.indices(grid).reshape(2, -1)
    return np.concatenate([places[None], mrope])


def cut_by_tokens(
    lengths: Sequence[int], ranks: int, budget: int, packed: bool
) -> list[list[list[int]]]:
    """A step's samples as micro-batches of at most `budget` tokens, padding counted  # [rank][micro-batch][sample]

    As few as will do, the same number on every rank (gradients are reduced with the last), all with something in them,
    and about the same work on each rank. A sample longer than the budget goes alone. `len(lengths)` is a multiple of
    `ranks`.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    cut = _packs if packed else _padded
    groups = cut([lengths[i] for i in longest_first], ranks, budget)
    cost = [sum(lengths[longest_first[i]] for i in group) for group in groups]
    by_cost = sorted(range(len(groups)), key=lambda g: (-cost[g], g))
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for turn in range(0, len(groups), ranks):
        row = by_cost[turn : turn + ranks]
        for rank, g in enumerate(row if turn // ranks % 2 == 0 else row[::-1]):
            dealt[rank].append([longest_first[i] for i in groups[g]])
    return dealt


def _packs(lengths: Sequence[int], ranks: int, budget: int) -> list[list[int]]:
    """Each sample, longest first, into the emptiest pack; one more pack a rank until they hold (Graham's LPT rule).

    Samples longer than the budget come first, and are packs of their own.
    """
    alone = sum(length > budget for length in lengths)
    at_least = alone + (alone < len(lengths))
    for n in range(-(-at_least // ranks) * ranks, len(lengths) + 1, ranks):
        packs: list[list[int]] = [[] for _ in range(n - alone)]
        filled = [0] * (n - alone)
        for i, length in enumerate(lengths[alone:], start=alone):
            emptiest = filled.index(min(filled))
            packs[emptiest].append(i)
            filled[emptiest] += length
        if max(filled, default=0) <= budget:
            break
    return [[i] for i in range(alone)] + packs


def _padded(lengths: Sequence[int], ranks: int, budget: int) -> list[list[int]]:
    """Neighbours in length, as many as the budget takes; the costliest are halved until every rank has equally many."""
    groups: list[list[int]] = []
    for i in range(len(lengths)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    while len(groups) % ranks:
        g = max(
            (g for g in range(len(groups)) if len(groups[g]) > 1),
            key=lambda g: len(groups[g]) * lengths[groups[g][0]],
        )
        half = len(groups[g]) // 2
        groups[g : g + 1] = [groups[g][:half], groups[g][half:]]
    return groups
