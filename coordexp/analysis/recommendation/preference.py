"""The choice among variants that no evidence separates: a declared preference, not a finding."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from coordexp.config.schema import Prefer
from coordexp.study.inputs import RunData, by_variant

# Two trainings of equal cost differ by this share when other jobs run beside one of them.
TIME_NOISE = 0.1


def preferred(left: Sequence[str], runs: Sequence[RunData], prefer: Prefer) -> tuple[str, str]:
    """The variant that the rule prefers among several, and why.

    `cheapest`: by the median training time of its runs. Times within 10 % of each other count as
    equal; then, and where a time is unknown, the first in the study's list.
    """
    groups = by_variant(runs)
    order = [variant for variant in groups if variant in left]
    first = order[0]
    if prefer is Prefer.listed:
        return first, "the first in the study's list"
    seconds = {}
    for variant in order:
        times = [run.manifest.train_wall_s for run in groups[variant] if run.manifest]
        if times:
            seconds[variant] = median(times)
    if len(seconds) < len(order):
        return first, "the first in the study's list"
    shortest = min(seconds.values())
    cheap = [variant for variant in order if seconds[variant] <= (1 + TIME_NOISE) * shortest]
    chosen = cheap[0]
    if len(cheap) > 1:
        why = "the first in the study's list; none of them is over 10 % cheaper to train"
        return chosen, why
    times_told = ", ".join(f"{variant} {seconds[variant]:.0f} s" for variant in order)
    return chosen, f"the cheapest to train ({times_told})"
