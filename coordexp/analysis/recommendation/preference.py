"""The choice among several variants that are left: a declared preference, not a finding."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from coordexp.config.schema import Prefer
from coordexp.study.inputs import RunData, by_variant

LISTED = "the first in the study's list"
# Two trainings of the same cost differ by less than this share in CPU time.
TIME_NOISE = 0.1


def preferred(left: Sequence[str], runs: Sequence[RunData], prefer: Prefer) -> tuple[str, str]:
    """The variant that the rule prefers among several, and why.

    `cheapest`: by the median CPU time of its trainings (wall time depends on what else runs on the
    machine). Times within 10 % of each other count as equal. Then, or where a run does not say its
    CPU time, the first in the study's list.
    """
    groups = by_variant(runs)
    order = [variant for variant in groups if variant in left]
    if prefer is Prefer.listed:
        return order[0], LISTED
    seconds: dict[str, float] = {}
    for variant in order:
        times = [run.manifest.train_cpu_s if run.manifest else None for run in groups[variant]]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return order[0], LISTED
        seconds[variant] = median(known)
    shortest = min(seconds.values())
    cheap = [variant for variant in order if seconds[variant] <= (1 + TIME_NOISE) * shortest]
    if len(cheap) == len(order):
        return cheap[0], f"{LISTED}; none of them is over 10 % cheaper to train"
    told = ", ".join(f"{variant} {seconds[variant]:.0f} s" for variant in order)
    first = f"{LISTED} among the cheapest" if len(cheap) > 1 else "the cheapest"
    return cheap[0], f"{first} to train (CPU time: {told})"
