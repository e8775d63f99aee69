"""Leads: a difference between two variants, signed so that positive means the first is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordexp.analysis.comparison.findings import Difference, WindowSummary
from coordexp.analysis.comparison.statistics import Estimate, margin_verdict
from coordexp.metrics import lower_is_better


@dataclass(frozen=True)
class LeadWindow:
    """The same lead at the steps of the declared window."""

    n: int
    median: float
    min: float
    max: float
    share_ahead: float


@dataclass(frozen=True)
class Lead:
    """How far `first` is ahead of `second` on a metric, or on one of the Stage-2 probe.

    value: in the unit of the metric; negative where `first` is behind.
    margin: a lead of this size or less is too small to matter; None where the rule sets none.
    estimate: the interval of this lead; None without token tables.
    window: None where the window has no steps.
    """

    first: str
    second: str
    metric: str
    value: float
    margin: float | None = None
    estimate: Estimate | None = None
    window: LeadWindow | None = None

    @property
    def low(self) -> float | None:
        return self.estimate.low if self.estimate else None

    @property
    def high(self) -> float | None:
        return self.estimate.high if self.estimate else None

    @property
    def method(self) -> str | None:
        return self.estimate.method if self.estimate else None

    @property
    def win_probability(self) -> float | None:
        """Probability that `first` is better, by the estimate's resamples or t distribution."""
        return self.estimate.share_above_0 if self.estimate else None

    @property
    def seed_share(self) -> float | None:
        """The share of the variance due to seeds; None unless seeds and images were crossed."""
        e = self.estimate
        if e is None or e.seed_var is None or e.interaction_var is None:
            return None
        total = e.seed_var + e.image_var + e.interaction_var
        return e.seed_var / total if total > 0 else None

    @property
    def settled(self) -> Estimate | None:
        """The estimate, where it is over enough images for its interval to be trusted."""
        return None if self.estimate is None or self.estimate.too_few_images else self.estimate

    @property
    def ahead(self) -> bool:
        """The whole interval lies above 0, and is over enough images."""
        return self.settled is not None and self.settled.low > 0

    @property
    def behind(self) -> bool:
        """The whole interval lies below 0, and is over enough images."""
        return self.settled is not None and self.settled.high < 0

    @property
    def unresolved(self) -> bool:
        """The interval holds 0, or is over too few images."""
        return self.estimate is not None and not self.ahead and not self.behind

    @property
    def verdict(self) -> str | None:
        """The verdict on the interval against 0 and the margin (see `margin_verdict`).

        None without an interval: a difference alone gets no verdict.
        """
        if self.estimate is None:
            return None
        if self.settled is None:
            return "inconclusive"
        if self.margin is not None:
            return margin_verdict(self.estimate.low, self.estimate.high, self.margin)
        if self.unresolved:
            return "inconclusive"
        return "better" if self.ahead else "worse"


def leads(differences: Iterable[Difference], leader: str | None) -> list[Lead]:
    """The leads of `leader` over each other variant, on every metric with a better direction.

    If `leader` is None: for every pair, the lead of its first variant over its second.
    """
    found = []
    for difference in differences:
        if lower_is_better(difference.metric) is None:
            continue  # neither side is the better one
        if leader is None or leader == difference.first:
            found.append(lead(difference, of_second=False))
        elif leader == difference.second:
            found.append(lead(difference, of_second=True))
    return found


def lead(difference: Difference, of_second: bool) -> Lead:
    """The lead of the first of a pair over the second, or the other way round.

    A difference is second minus first. If higher is better, that is the lead of the second. The
    sign turns for the lead of the first, and turns again if lower is better.
    """
    turn = of_second == lower_is_better(difference.metric)
    pair = (difference.first, difference.second)
    first, second = reversed(pair) if of_second else pair
    value, estimate = difference.difference, difference.interval
    if turn:
        value, estimate = -value, estimate.negated() if estimate else None
    return Lead(
        first=first,
        second=second,
        metric=difference.metric,
        value=value + 0.0,  # no -0.0
        margin=difference.margin,
        estimate=estimate,
        window=lead_window(difference.window, turn),
    )


def lead_window(window: WindowSummary | None, turn: bool) -> LeadWindow | None:
    """The summary of a difference as that of a lead; `turn` changes the sign."""
    if window is None or window.n == 0:
        return None
    low, median, high, share = window.min, window.median, window.max, window.share_above_0
    assert low is not None
    assert median is not None
    assert high is not None
    assert share is not None
    if turn:
        low, median, high, share = -high, -median, -low, 1 - share
    return LeadWindow(window.n, median + 0.0, low, high, share)
