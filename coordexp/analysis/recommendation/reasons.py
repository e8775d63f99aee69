"""The reasons for each role: sentences made from the leads and metrics at the decision step."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.recommendation.confidence import Facts, leads_of_primary
from coordexp.analysis.recommendation.findings import Assertion, Decision, Elimination, Statement
from coordexp.analysis.recommendation.rule import (
    Values,
    shared_metrics,
    smoothness,
    won_metrics,
)
from coordexp.analysis.recommendation.statements import (
    AGAINST_PRIMARY,
    amount,
    equals,
    label,
    listed,
    names_key,
    of_elimination,
    of_lead,
    of_value,
    show,
    unit,
)
from coordexp.metrics import METRICS, Metric


def decisive(facts: Facts, decision: Decision) -> Statement:
    """Why the primary is the primary, in one sentence: the headline's second half."""
    primary = facts.primary
    assert primary is not None
    if len(facts.rows) == 1:
        return Statement(
            "decision", "the only eligible variant", [equals("eligible variants", 1.0)]
        )
    only_primary = all(elimination.by == primary for elimination in decision.eliminated)
    subject = primary if only_primary else None
    told = [elimination_clause(elimination, subject) for elimination in decision.eliminated]
    assertions = [a for e in decision.eliminated for a in of_elimination(e)]
    if len(decision.left) == 1:
        return Statement("decision", "; ".join(told), assertions)
    names = listed([primary, *(variant for variant in decision.left if variant != primary)])
    # Only the best is compared with the others: two of these may still differ on some evidence.
    beyond = "no lead of the best over another is beyond its margin"
    if any(difference.interval for difference in facts.comparison.differences):
        beyond = "no lead of the best over another is resolved beyond its margin"
    if not facts.rule.probe.may_change_roles:
        beyond = f"by the metrics, {beyond}"
    start = (
        f"a preference, not a finding: {names} are indistinguishable ({beyond}); "
        f"{primary} is {decision.preference}"
    )
    assertions.append(equals("left", names_key(decision.left)))
    assertions.append(equals("preference", decision.preference or "", primary))
    return Statement("decision", "; ".join([start, *told]), assertions)


def elimination_clause(elimination: Elimination, subject: str | None) -> str:
    """`ahead of pure_ce on CRPS by 2.31 bins [+1.90, +2.72], beyond the margin 0.35`.

    Args:
        subject: the variant that the sentence is about; any other one that is ahead is named.
    """
    size = amount(elimination.metric, elimination.lead)
    if elimination.low is not None and elimination.high is not None:
        decimals = 2 if unit(elimination.metric) else 3
        size += f" [{elimination.low:+.{decimals}f}, {elimination.high:+.{decimals}f}]"
    name, margin = label(elimination.metric), f"{elimination.margin:g}"
    if elimination.by == subject:
        who = f"ahead of {elimination.variant}"
    else:
        who = f"{elimination.by} is ahead of {elimination.variant}"
    return f"{who} on {name} by {size}, beyond the margin {margin}"


def primary_reasons(facts: Facts, decision: Decision) -> list[Statement]:
    """Why the primary of `facts` was chosen, and on which metrics who is ahead."""
    primary = facts.primary
    assert primary is not None
    rows, names = facts.rows, facts.rule.metrics
    reasons = [decisive(facts, decision)]
    won = won_metrics(rows, names)
    n_metrics = sum(len(metrics) for metrics in won.values())
    for variant, metrics in won.items():
        if not metrics or len(rows) == 1:
            continue
        shown = ", ".join(show(name, rows[variant][name]) for name in metrics)
        text = f"{variant} is ahead on {len(metrics)} of {n_metrics} decided metrics: {shown}"
        assertions = [of_value(variant, name, rows[variant][name]) for name in metrics]
        assertions.append(equals("metrics won", float(len(metrics)), variant))
        assertions.append(equals("metrics decided", float(n_metrics)))
        if variant == primary:
            clause, counted = resolved(facts, metrics)
            text, assertions = text + clause, assertions + counted
        reasons.append(Statement("reasons", text, assertions))
    return reasons


def resolved(facts: Facts, names: Sequence[str]) -> tuple[str, list[Assertion]]:
    """A clause: on how many of these metrics the interval of the lead over each rival excludes 0.

    Empty if no lead has an interval.
    """
    of_names = [lead for name in names for lead in leads_of_primary(facts, name)]
    if not any(lead.estimate for lead in of_names):
        return "", []
    counts = dict.fromkeys((lead.second for lead in of_names), 0)
    for lead in of_names:
        counts[lead.second] += lead.ahead
    metrics = ",".join(names)
    assertions = [
        equals("metrics resolved", float(count), facts.primary, rival, metrics)
        for rival, count in counts.items()
    ]
    if all(count == len(names) for count in counts.values()):
        return "; resolved over every rival", assertions
    parts = [f"over {rival} on {count or 'none'}" for rival, count in counts.items()]
    return f"; resolved {', '.join(parts)}", assertions


def secondary_reasons(secondary: str, facts: Facts) -> list[Statement]:
    """Why the secondary: it is smoother; what it costs; and its tail."""
    primary, rows = facts.primary, facts.rows
    measured = smoothness(rows)
    assert measured
    assert primary is not None
    name, decimals, unit_ = measured[0], 3, ""
    if name == "entropy":
        decimals, unit_ = 2, " nats"
    mine, of_primary = rows[secondary][name], rows[primary][name]
    smoother = Statement(
        "reasons",
        f"smoother than the primary ({label(name)} {mine:.{decimals}f} against "
        f"{of_primary:.{decimals}f}{unit_}): a hypothesis for Stage-2's continuous losses, to be "
        "tested there",
        [of_value(secondary, name, mine), of_value(primary, name, of_primary)],
    )
    return [smoother, *cost_against(secondary, facts), *tail(secondary, facts)]


def tail(variant: str, facts: Facts) -> list[Statement]:
    """Whether a variant's error tail (p90) is shorter than the primary's.

    A mean such as MAE can hide the tail; the note's section "Metrics Used" makes this point.
    """
    name = "expected_bin_abs_err_p90"
    lead = lead_over_primary(variant, name, facts)
    if lead is None:
        return []
    if lead.value > 0:
        text = f"its p90 is {lead.value:.2f} bins below the primary's: the tail is shorter"
    elif lead.value < 0:
        text = f"no advantage in the tail: its p90 is {-lead.value:.2f} bins above the primary's"
    else:
        text = "no advantage in the tail: equal p90"
    return [Statement("reasons", text, of_lead(lead))]


def optional_reasons(variant: str, facts: Facts) -> list[Statement]:
    """What choosing this variant instead of the primary costs or gains, and how it ranks."""
    return [*cost_against(variant, facts), *standing(variant, facts.rows, facts.rule.metrics)]


def lead_over_primary(variant: str, name: str, facts: Facts) -> Lead | None:
    """The lead of a variant over the primary on a metric of the rule: one figure for each pair.

    With unequal seeds it is that of the seeds both have, and not the gap of the table's means.
    """
    for lead in leads(facts.comparison.differences, variant):
        if lead.metric == name and lead.second == facts.primary:
            return lead
    return None


def cost_against(variant: str, facts: Facts) -> list[Statement]:
    """The signed differences to the primary on each metric, in the metric's own direction."""
    parts, assertions = [], []
    for m in shared_metrics(facts.rows, facts.rule.metrics):
        lead = lead_over_primary(variant, m.name, facts)
        if lead is None:
            continue
        gap = -lead.value if m.lower_is_better else lead.value
        word = "equal"
        if lead.value:
            word = "better" if lead.value > 0 else "worse"
        size = f"{gap + 0.0:+.2f} {m.unit}" if m.unit else f"{gap + 0.0:+.3f}"
        parts.append(f"{m.label} {size} ({word})")
        assertions += of_lead(lead)
    if not parts:
        return []
    return [Statement("reasons", AGAINST_PRIMARY + ", ".join(parts), assertions)]


def standing(variant: str, rows: Values, names: Sequence[str]) -> list[Statement]:
    """On which metrics a variant is first, last or between the others; empty for two variants."""
    metrics = shared_metrics(rows, names)
    if len(rows) < 3 or not metrics:
        return []
    found: dict[str, list[str]] = {
        "first": [],
        "between the others": [],
        "level with another": [],
        "last": [],
    }
    assertions = [equals("metrics shared", float(len(metrics)))]
    for m in metrics:
        where = place(m, variant, rows)
        found[where].append(m.label)
        assertions.append(equals("place", where, variant, metric=m.name))
    parts = [
        f"{word} on {len(labels)} ({', '.join(labels)})" for word, labels in found.items() if labels
    ]
    for word, labels in found.items():
        assertions.append(equals(f"places {word}", float(len(labels)), variant))
    return [Statement("reasons", f"of {len(metrics)} metrics: " + ", ".join(parts), assertions)]


def place(m: Metric, variant: str, rows: Values) -> str:
    """Where a variant stands among all on one metric."""
    mine, others = rows[variant][m.name], [row[m.name] for v, row in rows.items() if v != variant]
    if all(m.better(mine, other) for other in others):
        return "first"
    if all(m.better(other, mine) for other in others):
        return "last"
    if any(mine == other for other in others):
        return "level with another"
    return "between the others"


def evidence(facts: Facts) -> list[Statement]:
    """The primary's lead over each rival on each metric of the rule; positive: it is better."""
    lines = []
    for name in facts.rule.metrics:
        m = METRICS[name]
        for lead in leads_of_primary(facts, name):
            size = f"{abs(lead.value):.4g} {m.unit}".rstrip()  # some metrics have no unit
            word = "is behind" if lead.value < 0 else "leads"
            text = f"{m.label}: {facts.primary} {word} {lead.second} by {size}"
            if lead.value == 0:
                text = f"{m.label}: {facts.primary} is level with {lead.second}"
            if lead.estimate:
                low, high = lead.estimate.low, lead.estimate.high
                text += f", 95 % interval of the lead [{low:+.4g}, {high:+.4g}] ({lead.method})"
            assertions = of_lead(lead)
            if lead.estimate and lead.estimate.too_few_images:
                n = lead.estimate.n_images or 0
                text += f"; {n} judged images: too few for an interval"
                key = (lead.first, lead.second, lead.metric)
                assertions.append(equals("images", float(n), *key))
            lines.append(Statement("evidence", text, assertions))
    return lines
