"""The lead of one variant over another: their difference, turned so that positive means better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordexp.analysis.comparison.statistics import margin_verdict
from coordexp.metrics import METRICS


@dataclass(frozen=True)
class Window:
    """The same lead at the steps of the declared window."""

    n: int
    median: float
    min: float
    max: float
    share_ahead: float


@dataclass(frozen=True)
class Lead:
    """How far `first` is ahead of `second` on a metric, in the metric's unit; negative: it is behind."""

    first: str
    second: str
    metric: str
    value: float
    margin: float | None
    low: float | None = None  # the interval, None without token tables
    high: float | None = None
    win_probability: float | None = (
        None  # that `first` is better, by the same resampling or t distribution
    )
    method: str | None = None
    seed_share: float | None = None  # of the difference's variance, what changes with the seed
    window: Window | None = None

    @property
    def unresolved(self) -> bool:
        """The interval holds 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    @property
    def verdict(self) -> str | None:
        """What interval and margin say. A difference without an interval is described, never judged."""
        if self.low is None or self.high is None:
            return None
        if self.margin is None:
            return "inconclusive" if self.unresolved else "better" if self.low > 0 else "worse"
        return margin_verdict(self.low, self.high, self.margin)


def leads(differences: Sequence[dict[str, Any]], primary: str | None) -> list[Lead]:
    """The primary's lead over each other variant; every pair's where there is no primary."""
    chosen = [d for d in differences if primary is None or primary in (d["first"], d["second"])]
    return [lead(d, swap=primary == d["second"]) for d in chosen]


def lead(difference: dict[str, Any], swap: bool) -> Lead:
    """`difference` is second minus first; `swap` makes its second the one that leads."""
    sign = (1 if swap else -1) * (-1 if METRICS[difference["metric"]].lower_is_better else 1)
    first, second = (
        (difference["second"], difference["first"])
        if swap
        else (difference["first"], difference["second"])
    )
    interval, window = difference["interval"], difference["window"]
    found: dict[str, Any] = {}
    if interval:
        low, high = sorted((sign * interval["low"], sign * interval["high"]))
        found = {
            "low": low,
            "high": high,
            "method": interval["method"],
            "seed_share": seed_share(interval),
        }
        found["win_probability"] = turned(interval["share_above_0"], sign)
    if window and window["n"]:
        low, high = sorted((sign * window["min"], sign * window["max"]))
        found["window"] = Window(
            window["n"],
            sign * window["median"] + 0.0,
            low,
            high,
            turned(window["share_above_0"], sign),
        )
    return Lead(
        first,
        second,
        difference["metric"],
        sign * difference["difference"] + 0.0,
        difference["margin"],
        **found,
    )


def turned(share_above_0: float, sign: int) -> float:
    """The share in which the lead is positive."""
    return share_above_0 if sign > 0 else 1 - share_above_0


def seed_share(interval: dict[str, Any]) -> float | None:
    """The seeds' part of the variance of a difference, where seeds and images were crossed."""
    parts = [interval[key] for key in ("seed_var", "image_var", "interaction_var")]
    if any(part is None for part in parts) or sum(parts) <= 0:
        return None
    return parts[0] / sum(parts)
