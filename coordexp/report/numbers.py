"""Numbers as this page writes them."""

from __future__ import annotations

import math
from datetime import datetime

MINUS, NONE = "−", "–"


def metric_value(value: float | None, unit: str) -> str:
    """Bins and nats to two decimals, fractions to four."""
    return NONE if value is None else f"{value:.2f}" if unit else f"{value:.4f}"


def lead_value(value: float, unit: str) -> str:
    """The same with a sign."""
    return number(value, "+.2f" if unit else "+.4f")


def number(value: float | None, form: str = ",.0f") -> str:
    """A number with a true minus; what rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = format(value, form)
    return text.replace("-", MINUS) if text.strip("+-0.") else text.lstrip("+-")


def probability(value: float | None) -> str:
    """To two decimals; never 0 or 1, which no finite number of images gives."""
    if value is None:
        return NONE
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def moment(iso: str | None) -> str:
    """`2026-11-23T19:22:14+00:00` as `2026-11-23 19:22 UTC`."""
    return NONE if iso is None else datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
