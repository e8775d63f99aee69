"""That figures are of too few images for an interval: then no lead is resolved."""

from __future__ import annotations

from collections.abc import Container, Sequence

from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.statistics import FEWEST_IMAGES
from coordexp.analysis.recommendation.findings import Statement
from coordexp.analysis.recommendation.statements import equals


def few_images(
    metrics: Sequence[Difference], rollouts: Sequence[Difference], variants: Container[str]
) -> list[Statement]:
    """A caveat for the metrics, and one for the rollouts, that are of too few images."""
    lines = []
    for differences, what in ((metrics, "judged images"), (rollouts, "images of the rollouts")):
        found = [
            (difference.interval.n_images or 0, difference)
            for difference in differences
            if difference.interval is not None
            and difference.interval.too_few_images
            and difference.first in variants
            and difference.second in variants
        ]
        if not found:
            continue
        n, of = min(found, key=lambda pair: pair[0])
        text = (
            f"{n} {what}: too few for an interval (at least {FEWEST_IMAGES}): those shown are too "
            "narrow, and no lead is called resolved"
        )
        assertions = [
            equals("images", float(n), of.first, of.second, of.metric),
            equals("fewest images", float(FEWEST_IMAGES)),
        ]
        lines.append(Statement("caveats", text, assertions))
    return lines
