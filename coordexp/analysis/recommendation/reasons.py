"""The reasons for each role: sentences generated from the metrics at the decision step."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.recommendation.confidence import Facts, leads_of_primary
from coordexp.analysis.recommendation.rule import Values, shared_metrics, smoothness
from coordexp.metrics import METRICS, Metric


def show(name: str, value: float) -> str:
    """A metric's value as the card prints it: `MAE 23.63 bins`, `coord acc 0.2177`."""
    m = METRICS[name]
    return f"{m.label} {value:.2f} {m.unit}" if m.unit else f"{m.label} {value:.4f}"


def primary_reasons(
    facts: Facts, rows: Values, votes: dict[str, list[str]], decided_by: str
) -> list[str]:
    """Why the primary of `facts` was chosen.

    Args:
        rows: of the competitive variants.
        votes: the metrics on which each of them is ahead of all others.
    """
    primary = facts.primary
    assert primary is not None
    n_metrics = sum(len(names) for names in votes.values())
    reasons = []
    if votes[primary]:
        shown = ", ".join(show(name, rows[primary][name]) for name in votes[primary])
        reasons.append(
            f"ahead on {len(votes[primary])} of {n_metrics} decided metrics: {shown}"
            f"{resolved(facts, votes[primary])}"
        )
    for variant, names in votes.items():
        if names and variant != primary:
            shown = ", ".join(show(name, rows[variant][name]) for name in names)
            reasons.append(f"{variant} is ahead on {shown}")
    return reasons + ([decided_by] if decided_by != "plurality" else [])


def resolved(facts: Facts, names: Sequence[str]) -> str:
    """A clause: on how many of these metrics the interval of the lead over each rival excludes 0.

    Empty if no lead has an interval.
    """
    leads = [lead for name in names for lead in leads_of_primary(facts, name)]
    if not any(lead.estimate for lead in leads):
        return ""
    counts = dict.fromkeys((lead.second for lead in leads), 0)
    for lead in leads:
        counts[lead.second] += lead.ahead
    if all(count == len(names) for count in counts.values()):
        return "; resolved over every rival"
    parts = [f"over {rival} on {count or 'none'}" for rival, count in counts.items()]
    return f"; resolved {', '.join(parts)}"


def secondary_reasons(
    secondary: str, primary: str, rows: Values, names: Sequence[str]
) -> list[str]:
    measured = smoothness(rows)
    assert measured
    if measured[0] == "entropy":
        smoother = (
            f"entropy {rows[secondary]['entropy']:.2f} against {rows[primary]['entropy']:.2f} nats"
        )
    else:
        smoother = (
            f"p(GT) {rows[secondary]['p_gt_mean']:.3f} against {rows[primary]['p_gt_mean']:.3f}"
        )
    reasons = [
        f"smoother than the primary ({smoother}): a hypothesis for Stage-2's continuous losses, to "
        "be tested there"
    ]
    return [
        *reasons,
        cost_against(secondary, primary, rows, names),
        *tail(secondary, primary, rows),
    ]


def tail(variant: str, primary: str, rows: Values) -> list[str]:
    """Whether a variant's error tail (p90) is shorter than the primary's.

    A mean such as MAE can hide the tail; the note's section "Metrics Used" makes this point.
    """
    name = "expected_bin_abs_err_p90"
    if name not in rows[variant] or name not in rows[primary]:
        return []
    gap = rows[variant][name] - rows[primary][name]
    if gap < 0:
        return [f"its p90 is {-gap:.2f} bins below the primary's: the tail is shorter"]
    return [
        f"no advantage in the tail: its p90 is {gap:.2f} bins above the primary's"
        if gap
        else "no advantage in the tail: equal p90"
    ]


def optional_reasons(variant: str, primary: str, rows: Values, names: Sequence[str]) -> list[str]:
    """What choosing this variant instead of the primary costs or gains, and how it ranks."""
    return [cost_against(variant, primary, rows, names), *standing(variant, rows, names)]


def cost_against(variant: str, primary: str, rows: Values, names: Sequence[str]) -> str:
    parts = []
    for m in shared_metrics(rows, names):
        gap = rows[variant][m.name] - rows[primary][m.name]
        word = "equal" if gap == 0 else "better" if (gap < 0) == m.lower_is_better else "worse"
        parts.append(
            f"{m.label} {gap:+.2f} {m.unit} ({word})"
            if m.unit
            else f"{m.label} {gap:+.3f} ({word})"
        )
    return "against the primary: " + ", ".join(parts)


def standing(variant: str, rows: Values, names: Sequence[str]) -> list[str]:
    """On which metrics a variant is first, last or between the others; empty for two variants."""
    if len(rows) < 3:
        return []
    found: dict[str, list[str]] = {
        "first": [],
        "between the others": [],
        "level with another": [],
        "last": [],
    }
    metrics = shared_metrics(rows, names)
    for m in metrics:
        found[place(m, variant, rows)].append(m.label)
    parts = [
        f"{word} on {len(labels)} ({', '.join(labels)})" for word, labels in found.items() if labels
    ]
    return [f"of {len(metrics)} metrics: " + ", ".join(parts)] if metrics else []


def place(m: Metric, variant: str, rows: Values) -> str:
    mine, others = rows[variant][m.name], [row[m.name] for v, row in rows.items() if v != variant]
    ahead, behind = (
        [m.better(mine, other) for other in others],
        [m.better(other, mine) for other in others],
    )
    if all(ahead) or all(behind):
        return "first" if all(ahead) else "last"
    return (
        "between the others"
        if all(a or b for a, b in zip(ahead, behind, strict=True))
        else "level with another"
    )


def evidence(facts: Facts) -> list[str]:
    """The primary's lead over each rival on each metric of the rule; positive: it is better."""
    lines = []
    for name in facts.rule.metrics:
        m = METRICS[name]
        for lead in leads_of_primary(facts, name):
            amount = f"{abs(lead.value):.4g} {m.unit}".rstrip()  # some metrics have no unit
            word = "is behind" if lead.value < 0 else "leads"
            line = f"{m.label}: {facts.primary} {word} {lead.second} by {amount}"
            if lead.estimate:
                low, high = lead.estimate.low, lead.estimate.high
                line += f", 95 % interval of the lead [{low:+.4g}, {high:+.4g}] ({lead.method})"
            lines.append(line)
    return lines
