"""Cut a step's samples into micro-batches by tokens; positions of packed samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def text_and_mrope(length: int, image_at: int, grid: tuple[int, int]) -> np.ndarray:
    """Positions of one sample with one picture: index in the text, then M-RoPE's three axes.

    M-RoPE is defined in the Qwen2-VL paper, section 2.1; the model's own get_rope_index gives the
    same positions. A text token has the same position on all three axes (time, row, column). The
    tokens of a picture share one time, and have the rows and columns of their grid. The text after
    a picture continues at the picture's start plus the longer side of its grid.

    Args:
        length: tokens of the sample, L.
        image_at: index of the picture's first token.
        grid: rows and columns of the picture's tokens.

    Returns: [4, L]
    """
    index, n_image = np.arange(length), math.prod(grid)
    mrope = np.tile(index, (3, 1))  # [3, L]
    # After the picture: its n_image tokens advance the position only by its longer side.
    mrope[:, image_at + n_image :] += max(grid) - n_image
    # In the picture: the time is image_at for every token; rows and columns count from image_at.
    mrope[:, image_at : image_at + n_image] = image_at
    mrope[1:, image_at : image_at + n_image] += np.indices(grid).reshape(2, -1)
    return np.concatenate([index[None], mrope])


def cut_by_tokens(
    lengths: Sequence[int], ranks: int, budget: int, packed: bool
) -> list[list[list[int]]]:
    """Cut a step's samples into micro-batches of at most `budget` tokens, padding included.

    Every rank gets the same number of micro-batches, because gradients are reduced with the last
    one. The number is as small as the method allows, no micro-batch is empty, and the ranks have
    about the same work. A sample longer than the budget is a micro-batch by itself.

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
    """Packs of samples, as indices into `lengths`, which is in descending order.

    Graham's LPT rule: each sample, longest first, goes into the pack with the fewest tokens. The
    number of packs grows by one per rank until every pack is within the budget. Each sample longer
    than the budget is a pack by itself; these come first.
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
    """Padded batches of samples of similar length, as indices into `lengths` (descending).

    Each batch takes as many samples as the budget allows. Then the batches with the most padded
    tokens are halved until every rank has the same number of batches.
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
