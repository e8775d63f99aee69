"""The lead of one variant over another: their difference, turned so that positive means better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordexp.metrics import METRICS


@dataclass(frozen=True)
class Lead:
    """How far `first` is ahead of `second` on a metric, in the metric's unit; negative: it is behind."""

    first: str
    second: str
    metric: str
    value: float
    low: float | None  # the interval, None without token tables
    high: float | None
    margin: float | None

    @property
    def unresolved(self) -> bool:
        """The interval holds 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """What the interval (or, without one, the bare difference) and the margin say of this lead."""
        if self.value == 0:
            return "equal"
        near, far = (
            sorted((abs(self.low), abs(self.high))) if self.low is not None and self.high is not None else (abs(self.value),) * 2
        )
        side = "unresolved" if self.unresolved else "ahead" if self.value > 0 else "behind"
        if self.margin is None:
            return side
        if far <= self.margin:
            return f"{side}, within the margin"
        return f"{side}, beyond the margin" if near > self.margin and not self.unresolved else side


def leads(differences: list[dict[str, Any]], primary: str | None) -> list[Lead]:
    """The primary's lead over each other variant; every pair's where there is no primary."""
    chosen = [d for d in differences if primary is None or primary in (d["first"], d["second"])]
    return [lead(d, swap=primary == d["second"]) for d in chosen]


def lead(difference: dict[str, Any], swap: bool) -> Lead:
    """`difference` is second minus first; `swap` makes its second the one that leads."""
    sign = (1 if swap else -1) * (-1 if METRICS[difference["metric"]].lower_is_better else 1)
    first, second = (difference["second"], difference["first"]) if swap else (difference["first"], difference["second"])
    interval = difference["interval"]
    low, high = sorted((sign * interval["low"], sign * interval["high"])) if interval else (None, None)
    return Lead(first, second, difference["metric"], sign * difference["difference"] + 0.0, low, high, difference["margin"])
