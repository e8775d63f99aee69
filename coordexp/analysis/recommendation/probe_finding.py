"""What the Stage-2 probe says of the Stage-1 ranking, and whether it changes a role.

Both rankings are always shown. A role changes only if Stage-1 does not separate two variants (or
separates them by less than the margin) and the probe's paired per-image interval does. Aggregates
without per-image data never change a role.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.probe_findings import Aggregates, StudyProbe
from coordexp.analysis.recommendation.findings import Claim, Grade, Outcome, ProbeFinding
from coordexp.analysis.recommendation.rule import Values
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, PROBE_METRICS

# Stage-1 verdicts that do not settle the order: the interval contains 0 or lies within the margin.
UNTOLD = ("equivalent", "inconclusive", "better, but negligible", "worse, but negligible")
AGGREGATES_ONLY = "aggregates without per-image data: no interval"
SAYS: dict[Outcome, str] = {
    "confirmed": "confirms",
    "overturned": "overturns",
    "unresolved": "leaves open",
}


def probe_leads(probe: StudyProbe, variant: str, name: str) -> dict[str, Lead]:
    """The lead of a variant over each other probed one on a metric of the probe, by rival."""
    found = leads(probe.differences, variant)
    return {lead.second: lead for lead in found if lead.metric == name}


def of_rival(lead: Lead, decimals: int) -> str:
    """A lead seen from the rival (signs turned) with its interval: `+0.123 [+0.045, +0.201]`."""
    assert lead.estimate
    value, low, high = -lead.value, -lead.estimate.high, -lead.estimate.low
    return f"{value:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def parse_failures(probe: StudyProbe, bar: float) -> dict[str, str]:
    """Variants whose rollouts parse too rarely, with the reason."""
    found = {}
    for variant, values in probe.means.items():
        rate = values["parse_rate"]
        if rate < bar:
            found[variant] = f"parse rate {rate:.2f} of its rollouts is below the bar {bar:g}"
    return found


def reconsider(
    primary: str | None,
    rows: Values,
    family: Sequence[Claim],
    probe: StudyProbe,
    rule: RuleConfig,
) -> tuple[str, str] | None:
    """The primary that the probe puts first, and why; None if the probe changes nothing.

    `family` holds the Stage-1 verdicts of the primary against each rival; a rival without one
    counts as inconclusive.
    """
    if primary is None or not rule.probe.may_change_roles:
        return None
    name = rule.probe.signal
    stage1 = {claim.variant: claim.verdict for claim in family}
    behind = {}
    for rival, lead in probe_leads(probe, primary, name).items():
        if rival in rows and lead.behind and stage1.get(rival, "inconclusive") in UNTOLD:
            behind[rival] = lead
    if not behind:
        return None
    best = min(behind, key=lambda rival: behind[rival].value)
    gap, verdict = of_rival(behind[best], 3), stage1.get(best, "inconclusive")
    return best, (
        f"put before {primary} by the probe: {PROBE_METRICS[name].label} {gap} over images, "
        f"where Stage-1 is {verdict}"
    )


def probe_finding(
    primary: str | None,
    secondary: str | None,
    rows: Values,
    probe: StudyProbe,
    rule: RuleConfig,
) -> ProbeFinding | None:
    """What the probe says of the Stage-1 ranking and of the smoothness hypothesis.

    `primary` and `secondary` are the choices of Stage-1. None where nothing was probed.
    """
    if probe.aggregates:
        return aggregate_finding(primary, rows, probe.aggregates, rule)
    name = rule.probe.signal
    measured = {v: values[name] for v, values in probe.means.items() if name in values}
    if primary is None or not any(measured.values()):
        return None  # where every candidate has 0, nothing is ranked
    over = {}
    for rival, lead in probe_leads(probe, primary, name).items():
        if rival in rows:
            over[rival] = lead
    outcome, why = ranking_outcome(primary, over, rule)
    return ProbeFinding(
        outcome=outcome,
        sentence=f"the probe {SAYS[outcome]} the Stage-1 ranking: {why}",
        smoothness=smoothness_outcome(primary, secondary, probe),
        stage1_ranking=stage1_ranking(primary, rows, rule),
        probe_ranking=best_first(measured, name),
        signal=name,
        confounds=[],
    )


def signed(value: float) -> str:
    """A difference of F1 to three decimals; never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def names_decide(probe: StudyProbe, signal: str) -> list[str]:
    """A line about leads on a class-aware metric that vanish or turn once the names are ignored.

    Args:
        signal: the metric by which the rule compares candidates. If it is not class-agnostic,
            nothing is said.
    """
    with_names = signal.replace("_agnostic", "")
    if with_names == signal:
        return []
    of_pair: dict[tuple[str, str], dict[str, Lead]] = {}
    for lead in leads(probe.differences, None):
        of_pair.setdefault((lead.first, lead.second), {})[lead.metric] = lead
    parts = []
    for (first, second), found in of_pair.items():
        if with_names not in found or signal not in found:
            continue
        aware, agnostic = found[with_names], found[signal]
        if aware.ahead and not agnostic.ahead:
            pair, with_, without = f"{first} over {second}", aware.value, agnostic.value
        elif aware.behind and not agnostic.behind:
            pair, with_, without = f"{second} over {first}", -aware.value, -agnostic.value
        else:
            continue
        parts.append(f"{pair} {signed(with_)} ({signed(without)})")
    if not parts:
        return []
    return [
        f"names, not coordinates: leads on {PROBE_METRICS[with_names].label} that are unresolved "
        f"or turned once names are ignored (in brackets): {'; '.join(parts)}"
    ]


def best_first(values: Mapping[str, float], name: str) -> list[str]:
    """Variants by a metric of the probe."""
    sign = 1 if PROBE_METRICS[name].lower_is_better else -1
    return sorted(values, key=lambda variant: sign * values[variant])


def ranking_outcome(
    primary: str, over: Mapping[str, Lead], rule: RuleConfig
) -> tuple[Outcome, str]:
    """Whether the primary's leads over the probed rivals confirm Stage-1, and the numbers."""
    if not over:
        return "unresolved", f"no rival of {primary} was probed on the same images"
    shown = []
    for rival, lead in over.items():
        verdict = replace(lead, margin=rule.probe.margin).verdict
        shown.append(f"{lead.value:+.3f} over {rival} ({verdict})")
    why = f"{PROBE_METRICS[rule.probe.signal].label} of {primary} {', '.join(shown)}"
    if any(lead.behind for lead in over.values()):
        return "overturned", why
    if all(lead.ahead for lead in over.values()):
        return "confirmed", why
    return "unresolved", why


def smoothness_outcome(primary: str, secondary: str | None, probe: StudyProbe) -> str | None:
    """The outcome of the smoothness hypothesis, as a sentence; None if it cannot be judged.

    The hypothesis: the smoother secondary has a lower geometric loss after the fine-tune than the
    primary.
    """
    if secondary is None:
        return None
    lead = probe_leads(probe, secondary, "geo_loss_after").get(primary)
    if lead is None:
        return None
    outcome: Outcome = "unresolved"
    if lead.ahead:
        outcome = "confirmed"
    elif lead.behind:
        outcome = "overturned"
    start, end = (probe.means[v]["geo_loss_before"] for v in (primary, secondary))
    return (
        f"smoothness hypothesis {outcome}: after the fine-tune the geometric loss of {secondary} "
        f"minus that of {primary} is {of_rival(lead, 4)} "
        f"(at the start {end:.4f} against {start:.4f})"
    )


def stage1_ranking(primary: str, rows: Values, rule: RuleConfig) -> list[str]:
    """The primary, then the others by the rule's first metric."""
    first = METRICS[rule.metrics[0]]
    sign = 1 if first.lower_is_better else -1
    others = [variant for variant in rows if variant != primary]
    return [primary, *sorted(others, key=lambda v: sign * rows[v].get(first.name, 0.0))]


def aggregate_finding(
    primary: str | None, rows: Values, aggregates: Aggregates, rule: RuleConfig
) -> ProbeFinding | None:
    """Published aggregates as evidence: always unresolved, with what confounds them."""
    name = shared_metric(aggregates)
    if primary is None or name is None:
        return None
    values = {variant: figures[name] for variant, figures in aggregates.variants.items()}
    ranked = best_first(values, name)
    shown = ", ".join(f"{variant} {values[variant]:.3f}" for variant in ranked)
    return ProbeFinding(
        outcome="unresolved",
        sentence=(
            f"{aggregates.source} leaves open the Stage-1 ranking: "
            f"{PROBE_METRICS[name].label} {shown}; {AGGREGATES_ONLY}"
        ),
        smoothness=None,
        stage1_ranking=stage1_ranking(primary, rows, rule),
        probe_ranking=ranked,
        signal=name,
        confounds=confounds(aggregates),
    )


def contradiction(
    primary: str, rows: Values, aggregates: Aggregates, rule: RuleConfig
) -> tuple[str, str] | None:
    """The variant that published rollouts put before the primary by more than the margin.

    Returns:
        The variant, and the contradiction in a sentence; None if there is no such variant.
    """
    name = shared_metric(aggregates)
    if name is None or primary not in aggregates.variants:
        return None
    values = {v: figures[name] for v, figures in aggregates.variants.items() if v in rows}
    ranked = best_first(values, name)
    if values[ranked[0]] - values[primary] <= rule.probe.margin:
        return None
    shown = ", ".join(f"{variant} {values[variant]:.3f}" for variant in ranked)
    return ranked[0], (
        f"the metrics put {primary} first, the rollouts of {aggregates.source} put {ranked[0]} "
        f"first ({PROBE_METRICS[name].label} {shown})"
    )


def shared_metric(aggregates: Aggregates) -> str | None:
    """The metric by which published figures are ranked; every variant must have it."""
    for name in ("f1_50", "ap"):
        if all(name in figures for figures in aggregates.variants.values()):
            return name
    return None


def confounds(aggregates: Aggregates) -> list[str]:
    """What keeps published aggregates from being evidence of the objective alone."""
    found = [AGGREGATES_ONLY]
    steps = {}
    for variant, figures in aggregates.variants.items():
        if "final_step" in figures:
            steps[variant] = figures["final_step"]
    if len(set(steps.values())) > 1:
        shown = ", ".join(f"{variant} {step}" for variant, step in steps.items())
        found.append(f"different final steps: {shown}")
    if aggregates.images is not None:
        found.append(f"{aggregates.images} images, resampling error unknown")
    return [*found, *aggregates.notes]


def probe_grade(finding: ProbeFinding | None, probe: StudyProbe, name: str) -> Grade:
    """The grade of Stage-2 fitness and its one reason."""
    if finding is None:
        return Grade("descriptive", why_no_finding(probe, name))
    if finding.confounds:
        return Grade("descriptive", f"{finding.outcome}: {'; '.join(finding.confounds)}")
    seeds_of = Counter(candidate.variant for candidate in probe.candidates)
    n_seeds = min(seeds_of.values())
    if n_seeds >= CROSSED_FROM and finding.outcome != "unresolved":
        return Grade("supported", f"{finding.sentence}; {n_seeds} seeds x images")
    plural = "s" if n_seeds > 1 else ""
    return Grade("provisional", f"{finding.sentence}; {n_seeds} seed{plural}")


def why_no_finding(probe: StudyProbe, name: str) -> str:
    if not probe.candidates:
        return "no Stage-2 probe has been run: rollouts may rank the variants otherwise"
    if any(candidate.status == "complete" for candidate in probe.candidates):
        if not any(values.get(name) for values in probe.means.values()):
            return f"{PROBE_METRICS[name].label} is 0 for every candidate: it ranks nothing"
        return "no variant is primary: the probe has no ranking to confirm"
    return "no probe came to its end"
