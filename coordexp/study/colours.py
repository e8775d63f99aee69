"""The colour of each variant: the same in the report and in MLflow's charts."""

from __future__ import annotations

from collections.abc import Iterable

# After Okabe & Ito (2008), without yellow, and a grey. The lighter ones are darkened, so that each
# has a contrast of 3 : 1 with the page, light and dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c56a9c", "#b97a00", "#4590c4", "#7f7f7f")


def colours(variants: Iterable[str]) -> dict[str, str]:
    """A colour for each variant, in the order the study names them. They repeat after seven."""
    names = list(dict.fromkeys(variants))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
