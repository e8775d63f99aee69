"""The elimination by values alone, for steps and temperatures at which no interval was computed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from coordexp.analysis.comparison.curves import mean_curves
from coordexp.analysis.comparison.findings import Comparison, Difference
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.elimination import criteria, eliminate
from coordexp.analysis.recommendation.findings import Elimination
from coordexp.analysis.recommendation.rule import Values
from coordexp.config.schema import RuleConfig


def eliminate_by_values(rule: RuleConfig, rows: Values) -> tuple[list[Elimination], list[str]]:
    """As `eliminate`, by the metrics alone: differences of values against the margins."""
    differences = []
    for first, second in combinations(rows, 2):
        for name in rule.metrics:
            if name in rows[first] and name in rows[second]:
                gap = rows[second][name] - rows[first][name]
                margin = rule.margins[name]
                differences.append(Difference(first, second, name, margin, gap, None, None))
    not_probed = StudyProbe(None, None, [], [], {}, [])
    return eliminate(rows, criteria(rule, rows, differences, not_probed))


def settled_from(rule: RuleConfig, comparison: Comparison, variants: Iterable[str]) -> int | None:
    """The first common step from which values alone leave the same variants as at the decision.

    Only steps count at which each of these variants has every metric of the rule that it has at the
    decision step. None without a decision step.
    """
    names = list(variants)
    if comparison.decision_step is None or not names:
        return None
    by_step: dict[int, dict[str, dict[str, float]]] = {}
    for name in rule.metrics:
        for variant, curve in mean_curves(comparison.curves, name).items():
            for step, value in curve.items():
                if variant in names:
                    by_step.setdefault(step, {}).setdefault(variant, {})[name] = value
    steps = [step for step in comparison.common_steps if step <= comparison.decision_step]
    decided = by_step.get(comparison.decision_step, {})
    outcome = set(eliminate_by_values(rule, decided)[1])
    settled = None
    for step in reversed(steps):
        at_step = by_step.get(step, {})
        complete = {v: set(row) for v, row in at_step.items()} == {
            v: set(row) for v, row in decided.items()
        }
        if not complete or set(eliminate_by_values(rule, at_step)[1]) != outcome:
            break
        settled = step
    return settled
