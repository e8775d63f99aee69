"""A step's samples cut into micro-batches by tokens, and positions for packed samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def text_and_mrope(length: int, image_at: int, grid: tuple[int, int]) -> np.ndarray:
    """Positions of one sample with one picture: index in the text, then M-RoPE's three axes.

    M-RoPE (Qwen2-VL, section 2.1; the model's own get_rope_index gives the same): text tokens have
    the same position on all three axes (time, row, column). The tokens of a picture share one time
    and take rows and columns of their grid. Text after a picture continues after its longer side.

    Args:
        length: tokens of the sample, L.
        image_at: index of the picture's first token.
        grid: rows and columns of the picture's tokens.

    Returns: [4, L]
    """
    index, n_image = np.arange(length), math.prod(grid)
    mrope = np.tile(index, (3, 1))  # [3, L]
    # Behind the picture: n_image tokens have advanced the position by the longer side only.
    mrope[:, image_at + n_image :] += max(grid) - n_image
    # In the picture: one time, rows and columns counted from it.
    mrope[:, image_at : image_at + n_image] = image_at
    mrope[1:, image_at : image_at + n_image] += np.indices(grid).reshape(2, -1)
    return np.concatenate([index[None], mrope])


def cut_by_tokens(
    lengths: Sequence[int], ranks: int, budget: int, packed: bool
) -> list[list[list[int]]]:
    """Cut a step's samples into micro-batches of at most `budget` tokens, padding included.

    As few micro-batches as possible, the same number on every rank (gradients are reduced with the
    last one), none empty, and about the same work on each rank. A sample longer than the budget
    goes alone.

    Args:
        lengths: tokens of each sample; as many samples as a multiple of `ranks`.
        packed: samples are laid end to end; else they are padded to the longest.

    Returns: indices of samples, [rank][micro-batch][sample]
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    cut = _packs if packed else _padded
    positions = cut([lengths[i] for i in longest_first], ranks, budget)
    groups = [[longest_first[position] for position in group] for group in positions]
    cost = [sum(lengths[i] for i in group) for group in groups]
    costliest_first = sorted(range(len(groups)), key=lambda g: (-cost[g], g))
    # Deal the groups to the ranks in snake order (0 1 2, 2 1 0, …), so that no rank always gets the
    # costlier one.
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for first in range(0, len(groups), ranks):
        hand = costliest_first[first : first + ranks]
        is_return = first // ranks % 2 == 1
        if is_return:
            hand.reverse()
        for rank, g in enumerate(hand):
            dealt[rank].append(groups[g])
    return dealt


def _packs(lengths: Sequence[int], ranks: int, budget: int) -> list[list[int]]:
    """Packs of samples, as positions in `lengths`, which fall.

    Graham's LPT rule: each sample, longest first, goes into the emptiest pack. The number of packs
    grows by one a rank until every pack is within the budget. Samples longer than the budget come
    first and are packs of their own.
    """
    alone = sum(length > budget for length in lengths)
    at_least = alone + (alone < len(lengths))
    first_n = math.ceil(at_least / ranks) * ranks
    for n in range(first_n, len(lengths) + 1, ranks):
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
    """Padded batches of neighbours in length, as positions in `lengths`, which fall.

    Each takes as many samples as the budget allows. Then the costliest are halved until every rank
    has equally many.
    """
    groups: list[list[int]] = []
    for i in range(len(lengths)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])

    def padded_tokens(g: int) -> int:
        return len(groups[g]) * lengths[groups[g][0]]

    while len(groups) % ranks:
        divisible = [g for g in range(len(groups)) if len(groups[g]) > 1]
        g = max(divisible, key=padded_tokens)
        half = len(groups[g]) // 2
        groups[g : g + 1] = [groups[g][:half], groups[g][half:]]
    return groups
