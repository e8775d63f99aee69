"""How sure the recommendation is, what would overturn it, and what it does not see."""

from __future__ import annotations

import math
from typing import Any

from coordexp.metrics import METRICS

GRADES = ("descriptive", "provisional", "supported", "conclusive")  # in rising order
TEMPERATURE_NAME = {"1": "T = 1", "own": "each variant's own temperature", "fitted": "fitted temperatures"}


def ranking_confidence(facts: dict[str, Any]) -> dict[str, str]:
    """The grade of the Stage-1 ranking and its one reason.

    Logs only: descriptive. Token tables: provisional, because the interval is over images and does not see what
    another seed would have changed.
    """
    if facts["primary"] is None:
        return {"grade": "descriptive", "reason": "no variant leads"}
    pairs = _against_primary(facts)
    if len(facts["rows"]) == 1:
        return {"grade": "descriptive", "reason": "only one variant is eligible: nothing to rank it against"}
    if not any(d["interval"] for d in pairs):
        return {"grade": "descriptive", "reason": "logs only: no token tables, so no interval"}
    n_seeds = facts["study"]["seeds"]
    reason = f"{n_seeds} seeds averaged, the interval is over images only"
    if n_seeds == 1:
        reason = "one seed: what another seed would change is unseen"
    if temperature_sensitive(facts):
        reason += "; and the winner changes with the temperature (temperature_sensitive)"
    return {"grade": "provisional", "reason": reason}


def stage2_confidence() -> dict[str, str]:
    return {"grade": "descriptive", "reason": "no Stage-2 probe has been run: rollouts may rank the variants otherwise"}


def temperature_sensitive(facts: dict[str, Any]) -> bool:
    """Whether own or fitted temperature would put another variant first."""
    return any(leader is not None and leader != facts["primary"] for leader in leaders_by_temperature(facts).values())


def leaders_by_temperature(facts: dict[str, Any]) -> dict[str, str | None]:
    """Who wins most metrics at each temperature; ties by the declared order."""
    found: dict[str, str | None] = {}
    for temperature, by_metric in facts["comparison"]["winners"].items():
        names = [w for w in by_metric.values() if w in facts["rows"]]
        counts = {name: names.count(name) for name in names}
        found[temperature] = max(counts, key=lambda name: (counts[name], -names.index(name))) if counts else None
    return found


def _against_primary(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The differences between the primary and each other eligible variant."""
    pairs = facts["comparison"]["differences"]
    return [
        d
        for d in pairs
        if facts["primary"] in (d["first"], d["second"]) and d["first"] in facts["rows"] and d["second"] in facts["rows"]
    ]


def would_overturn(facts: dict[str, Any]) -> list[str]:
    """What would change the primary, from the numbers."""
    if facts["primary"] is None:
        return ["any metric on which one variant leads" if facts["rows"] else "a run that passes the audit and the bars"]
    lines = [*other_seeds(facts)]
    for temperature, leader in leaders_by_temperature(facts).items():
        if leader and leader != facts["primary"]:
            lines.append(f"judging at {TEMPERATURE_NAME[temperature]}: {leader} would lead")
    return [*lines, "a Stage-2 probe in which another variant parses, matches or descends better"]


def other_seeds(facts: dict[str, Any]) -> list[str]:
    """The narrowest lead (or deficit) on the rule's first metric, and the seed SD at which it means little.

    The difference of two seeds has sqrt(2) times the SD of one.
    """
    first, primary = METRICS[facts["rule"]["metrics"][0]], facts["primary"]
    pairs = [d for d in _against_primary(facts) if d["metric"] == first.name]
    if not pairs:
        return []
    closest = min(pairs, key=lambda d: abs(d["difference"]))
    other = closest["first"] if closest["second"] == primary else closest["second"]
    size, margin = abs(closest["difference"]), closest["margin"]
    ahead = first.better(facts["rows"][primary][first.name], facts["rows"][other][first.name])
    line = (
        f"other seeds: the {first.label} {'lead over' if ahead else 'deficit to'} {other} is {size:.2f} {first.unit}, "
        f"less than one SD of a difference between seeds if one seed's SD is above {size / math.sqrt(2):.2f} {first.unit}"
    )
    return [line + (f" (and it is below the margin of {margin:g} {first.unit})" if margin and size < margin else "")]


def caveats(facts: dict[str, Any]) -> list[str]:
    """What a careful reader must know: confounds, results that existed before the rule, curves still falling."""
    lines = [f"runs differ outside the variant: {difference}" for difference in facts["audit"]["differences"]]
    existing = [f"{r['variant']} s{r['seed']}" for r in facts["study"]["runs"] if r["existing"]]
    if existing:
        lines.append(f"post hoc for {', '.join(existing)}: results existed when the rule was written down")
    moving = {name: p["slope_percent_per_100_steps"] for name, p in facts["comparison"]["plateau"].items() if p and not p["flat"]}
    if moving:
        slopes = ", ".join(f"{name} {slope:+.1f}" for name, slope in moving.items())
        lines.append(f"no plateau was reached: MAE still moves over the last third of the run (% per 100 steps: {slopes})")
    return lines
