"""Which variant is best at each eval step of a window, and how stable that order is.

Descriptive only: it needs no token table and makes no statistical claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from coordexp.analysis.comparison.findings import Stability, StepWinner, WindowSummary
from coordexp.metrics import single_best

Curves = Mapping[str, Mapping[int, float]]  # variant -> step -> value


def rank_stability(
    curves: Curves, steps: Sequence[int], lower_is_better: bool, n_blocks: int = 4
) -> Stability:
    """Which curve is best at each step of a window at which every curve has a finite value.

    An exact tie has no winner.

    Args:
        curves: values by variant and step.
        steps: the steps of the window.
        lower_is_better: the direction of the metric.
        n_blocks: number of blocks of consecutive steps that the window is cut into. Each block is
            left out in turn; this shows a lead that depends on one part of the training.
    """
    shared = shared_steps(curves, steps)
    winners = []
    for step in shared:
        values = {name: curve[step] for name, curve in curves.items()}
        winners.append(StepWinner(step, single_best(values, lower_is_better)))
    last_winner = winners[-1].winner if winners else None
    share = 0.0
    if last_winner:
        share = sum(at.winner == last_winner for at in winners) / len(winners)
    return Stability(
        winners=winners,
        last_winner=last_winner,
        settled_from=settled_from(winners),
        leave_one_block_out=leave_one_block_out(curves, shared, lower_is_better, n_blocks),
        share=share,
    )


def shared_steps(curves: Curves, steps: Sequence[int]) -> list[int]:
    """The steps at which every curve has a finite value, in order."""
    if not curves:
        return []
    return [
        step
        for step in sorted(steps)
        if all(math.isfinite(curve.get(step, math.nan)) for curve in curves.values())
    ]


def settled_from(winners: Sequence[StepWinner]) -> int | None:
    """The first step from which the last winner wins every step; None if the last step is a tie."""
    settled = None
    for at in reversed(winners):
        if at.winner is None or at.winner != winners[-1].winner:
            break
        settled = at.step
    return settled


def leave_one_block_out(
    curves: Curves, steps: Sequence[int], lower_is_better: bool, n_blocks: int
) -> list[str | None]:
    """The best by the sum over the steps, with one block of steps left out each time."""
    winners = []
    for block in np.array_split(np.arange(len(steps)), n_blocks):
        kept = [step for i, step in enumerate(steps) if i not in block]
        if len(block) and kept:
            sums = {name: math.fsum(curve[step] for step in kept) for name, curve in curves.items()}
            winners.append(single_best(sums, lower_is_better))
    return winners


def window_summary(
    first: Mapping[int, float], second: Mapping[int, float], steps: Sequence[int]
) -> WindowSummary:
    """second - first, over those steps of the window at which both have a value.

    An exact tie counts as half a step, so that swapping the pair turns the share into 1 - share.
    """
    gaps = [second.get(step, math.nan) - first.get(step, math.nan) for step in steps]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    if not gaps:
        return WindowSummary(0, None, None, None, None)
    above = sum(gap > 0 for gap in gaps) + sum(gap == 0 for gap in gaps) / 2
    return WindowSummary(len(gaps), float(np.median(gaps)), min(gaps), max(gaps), above / len(gaps))
