"""How much of a lead over pure CE is the weight of coordinates against text, told by a control.

Pure CE averages the loss over text and coordinate tokens together. The control is the same loss,
split into its terms (slice CE + gate) with a denominator for each token group, so it differs from
pure CE in the weight of coordinates against text and in nothing else. The other variants differ
from the control in their terms and in the weights of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison, Difference
from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.recommendation.findings import Recommendation, Statement
from coordexp.analysis.recommendation.rule import Values, failures
from coordexp.analysis.recommendation.statements import of_lead
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, Metric
from coordexp.study.inputs import RunData
from coordexp.study.objective import declared

RE_WEIGHTING = "the re-weighting of coordinates against text"


def control_statements(
    runs: Sequence[RunData],
    audit: Audit,
    comparison: Comparison,
    found: Recommendation,
    rule: RuleConfig,
) -> list[Statement]:
    """What the study's controls explain of the leads, on the rule's first metric that all have.

    Nothing is said where pure CE or its control is not among the runs, or where their differences
    are not known on the same seeds.

    Args:
        runs: of candidates and controls.
        comparison: of both.
        found: among the candidates. Its primary is compared with pure CE; without one, or where it
            is pure CE, the best other eligible variant.
    """
    lines = []
    refused = {entry.variant for entry in found.ineligible}
    of_candidates = comparison.of_candidates.decision_rows
    rows: Values = {row.variant: row.values for row in of_candidates if row.variant not in refused}
    primary = found.primary.variant if found.primary else None
    reference = next((v for v in rows if is_pure_ce(v, runs)), None)
    measured = [row.values for row in comparison.decision_rows]
    shared = [name for name in rule.metrics if all(name in values for values in measured)]
    for control in comparison.controls:
        of_control = [run for run in runs if run.variant == control]
        if reasons := failures(control, of_control, audit):
            text = f"control {control}: {'; '.join(reasons)}: it explains no lead"
            lines.append(Statement("caveats", text, []))
        elif reference is not None and shared and is_split_ce(of_control[0]):
            other = best_other(rows, reference, primary, METRICS[shared[0]])
            if other is None:
                continue
            line = parts_of_lead(comparison.differences, (reference, control, other), shared[0])
            if line is not None:
                lines.append(replace(line, text=line.text + confounds(audit)))
    return lines


def is_pure_ce(variant: str, runs: Sequence[RunData]) -> bool:
    """Whether a variant is cross-entropy over all supervised tokens together."""
    objective = declared(next(run for run in runs if run.variant == variant))
    return objective is not None and objective.get("token_groups") == "joint"


def is_split_ce(run: RunData) -> bool:
    """Whether a run's objective is pure CE, split into text and coordinates: slice CE + gate."""
    objective = declared(run) or {}
    weights = [float(objective.get(term, 0.0)) for term in ("ce", "gate", "soft_ce", "w1")]
    at_one = float(objective.get("temperature", 1.0)) == 1.0
    return objective.get("token_groups") == "split" and weights == [1.0, 1.0, 0.0, 0.0] and at_one


def best_other(rows: Values, reference: str, primary: str | None, first: Metric) -> str | None:
    """The variant to compare with the reference: the primary, else the best other one."""
    if primary is not None and primary != reference:
        return primary
    sign = 1 if first.lower_is_better else -1
    others = [variant for variant in rows if variant != reference]
    return min(others, key=lambda v: sign * rows[v][first.name], default=None)


def parts_of_lead(
    differences: Sequence[Difference], chain: tuple[str, str, str], name: str
) -> Statement | None:
    """The lead between pure CE and another variant, as the sum of two leads with the control.

    Args:
        differences: of every pair at the decision step.
        chain: (pure CE, control, other variant).
        name: of the metric.

    Returns:
        None if a lead is unknown, if the two variants are equal, or if the parts do not sum to the
        whole, because they are averages over different seeds.
    """
    reference, control, other = chain
    whole = lead_between(differences, other, reference, name)
    if whole is None or whole.value == 0:
        return None
    leader, behind = (other, reference) if whole.value > 0 else (reference, other)
    first = lead_between(differences, leader, control, name)
    second = lead_between(differences, control, behind, name)
    if first is None or second is None:
        return None
    if not math.isclose(first.value + second.value, abs(whole.value), abs_tol=1e-6):
        return None
    # The step between pure CE and the control is told first, whichever variant leads.
    weighting, objective = (second, first) if leader == other else (first, second)
    m = METRICS[name]
    lead = f"of {leader}'s {m.label} lead of {size(abs(whole.value), m)} over {behind}"
    assertions = [*of_lead(whole), *of_lead(weighting), *of_lead(objective)]
    if min(weighting.value, objective.value) >= 0:
        text = (
            f"{lead}, {part(weighting, m)} stand between {reference} and {control} "
            f"({RE_WEIGHTING}) and {part(objective, m)} between {control} and {other} "
            "(the objective and its weights)"
        )
        return Statement("caveats", text, assertions)
    text = (
        f"{lead}, the two parts have opposite signs: {told(weighting, m)} ({RE_WEIGHTING}), "
        f"{told(objective, m)} (the objective and its weights)"
    )
    return Statement("caveats", text, assertions)


def lead_between(
    differences: Sequence[Difference], first: str, second: str, name: str
) -> Lead | None:
    """The lead of one variant over another on a metric at the decision step."""
    found = leads(differences, first)
    return next((lead for lead in found if (lead.second, lead.metric) == (second, name)), None)


def size(value: float, m: Metric) -> str:
    """A value with its unit: `0.49 bins`, `0.012`."""
    return f"{value:.2f} {m.unit}" if m.unit else f"{value:.3f}"


def part(lead: Lead, m: Metric) -> str:
    """A lead without its unit, with its interval: `0.49 [+0.12, +0.86]`."""
    decimals = 2 if m.unit else 3
    return f"{lead.value:.{decimals}f}{interval(lead, decimals)}"


def told(lead: Lead, m: Metric) -> str:
    """Who leads whom and by how much: `ce_split leads pure_ce by 1.30 [+0.90, +1.70]`."""
    if lead.value < 0:
        turned = lead.estimate.negated() if lead.estimate else None
        lead = Lead(lead.second, lead.first, lead.metric, -lead.value, estimate=turned)
    if float(f"{lead.value:.{2 if m.unit else 3}f}") == 0:
        return f"{lead.first} is level with {lead.second}: {part(lead, m)}"
    return f"{lead.first} leads {lead.second} by {part(lead, m)}"


def interval(lead: Lead, decimals: int) -> str:
    """The 95 % interval in brackets, and whether it holds 0; nothing without one."""
    if lead.estimate is None:
        return ""
    unresolved = "; unresolved" if lead.unresolved else ""
    return f" [{lead.estimate.low:+.{decimals}f}, {lead.estimate.high:+.{decimals}f}{unresolved}]"


def confounds(audit: Audit) -> str:
    """A clause about settings outside the objective in which a control differs."""
    if not audit.control_differences:
        return ""
    keys = ", ".join(difference.partition(":")[0] for difference in audit.control_differences)
    return f"; but control and candidates also differ in {keys}"
