"""The decision rule in words, as the card and the report show it."""

from __future__ import annotations

from coordexp.analysis.recommendation.sight import sight_text
from coordexp.analysis.recommendation.statements import label
from coordexp.config.schema import Prefer, RuleConfig

PREFERENCES = {
    Prefer.cheapest: "the cheapest to train, then the first in the study's list",
    Prefer.listed: "the first in the study's list",
}


def rule_text(rule: RuleConfig, step: int | None, logged_at: str) -> str:
    """The rule in words. `logged_at` stands for the temperature "1", see `Comparison`."""
    bars = rule.eligible
    resolved = ""
    if step is not None and rule.decision_step == "last_common":
        resolved = f" (= {step})"
    read_at = logged_at if rule.temperature == "1" else f"T = {rule.temperature}"
    rollouts = ""
    if rule.probe.may_change_roles:
        rollouts = f"rollouts ({label(rule.probe.signal)}, where there is a probe), then "
    metrics = ", ".join(label(name) for name in rule.metrics)
    return (
        f"Decision step {rule.decision_step}{resolved}, {read_at}. "
        f"Eligible: runs that pass the audit, with coordinate mass ≥ {bars.min_coord_mass:g}, "
        f"text accuracy ≥ {bars.min_text_token_acc:g} and, where they were probed, "
        f"{bars.min_parse_rate:g} of their rollouts parsed, {sight_text(rule)}. "
        f"Evidence in this order: {rollouts}{metrics}. A variant that is worse than the best of "
        "those left, beyond the margin, drops out. Primary: the one that is left; if several are, "
        f"{PREFERENCES[rule.prefer]}, as a preference. Secondary: the smoothest of the rest with "
        f"an MAE within {bars.max_mae_over_best:g} x the best, if smoother than the primary beyond "
        "the margin. Optional: the rest."
    )
