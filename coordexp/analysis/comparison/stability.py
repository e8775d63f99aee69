"""Who leads over a window of eval steps, and how firmly. Descriptive: it needs no token table, and claims nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coordexp.analysis.comparison.findings import Stability, StepWinner, WindowSummary


def rank_stability(
    curves: dict[str, dict[int, float]],
    steps: Sequence[int],
    lower_is_better: bool,
    n_blocks: int = 4,
) -> Stability:
    """How firmly the best of some curves stands at those steps of a window that all of them have, exactly and finite.

    `leave_one_block_out` cuts the window into `n_blocks` runs of neighbouring steps: a lead that hangs on one stretch of
    the training shows there. An exact tie has no winner.
    """
    shared = [
        s
        for s in sorted(steps)
        if curves and all(math.isfinite(c.get(s, math.nan)) for c in curves.values())
    ]
    winners = [
        StepWinner(
            step, _best({name: curve[step] for name, curve in curves.items()}, lower_is_better)
        )
        for step in shared
    ]
    last_winner = winners[-1].winner if winners else None
    settled_from = None
    for at in reversed(winners):
        if at.winner is None or at.winner != last_winner:
            break
        settled_from = at.step
    without = []
    for block in np.array_split(np.arange(len(shared)), n_blocks):
        left = [step for i, step in enumerate(shared) if i not in block]
        if len(block) and left:
            without.append(
                _best(
                    {n: math.fsum(c[s] for s in left) for n, c in curves.items()}, lower_is_better
                )
            )
    share = sum(at.winner == last_winner for at in winners) / len(winners) if last_winner else 0.0
    return Stability(winners, last_winner, settled_from, without, share)


def _best(values: dict[str, float], lower_is_better: bool) -> str | None:
    top = (min if lower_is_better else max)(values.values())
    holders = [name for name, value in values.items() if value == top]
    return holders[0] if len(holders) == 1 else None


def window_summary(
    first: dict[int, float], second: dict[int, float], steps: Sequence[int]
) -> WindowSummary:
    """second - first over the window's exact common steps: n, median, min, max, share_above_0 (None where n is 0).

    An exact tie counts half, so that the share turns round with the pair.
    """
    gaps = [second.get(s, math.nan) - first.get(s, math.nan) for s in steps]
    gaps = [gap for gap in gaps if math.isfinite(gap)]
    if not gaps:
        return WindowSummary(0, None, None, None, None)
    share = sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)
    return WindowSummary(len(gaps), float(np.median(gaps)), min(gaps), max(gaps), share)
