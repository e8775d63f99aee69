"""Numbers and times as the page writes them."""

from __future__ import annotations

import math
from datetime import datetime

MINUS = "−"
NONE = "–"  # where there is no value


def metric_value(value: float | None, unit: str) -> str:
    """Values with a unit (bins, nats) to two decimals, fractions to four."""
    if value is None:
        return NONE
    return f"{value:.2f}" if unit else f"{value:.4f}"


def lead_value(value: float, unit: str) -> str:
    """The same with a sign."""
    return number(value, "+.2f" if unit else "+.4f")


def lead_interval(low: float, high: float, unit: str) -> str:
    """`[+0.12, +0.60]`"""
    return f"[{lead_value(low, unit)}, {lead_value(high, unit)}]"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number with a true minus; one that rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = format(value, form)
    if not text.strip("+-0."):
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(share: float) -> str:
    """A share as a whole number of percent, without the sign."""
    return number(100 * share)


def probability(value: float | None) -> str:
    """To two decimals; never 0 or 1, because a finite number of images cannot prove either."""
    if value is None:
        return NONE
    if value < 0.01:
        return "< 0.01"
    if value > 0.99:
        return "> 0.99"
    return f"{value:.2f}"


def moment(iso: str | None) -> str:
    """`2026-11-23T19:22:14+00:00` as `2026-11-23 19:22 UTC`."""
    if iso is None:
        return NONE
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    """In seconds below two minutes, in minutes below two hours, else in hours."""
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
