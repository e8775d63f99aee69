"""The grade of the Stage-1 ranking, its one reason, and the confirmatory family behind it.

- descriptive: logs only, without token tables. This is never a claim.
- provisional: token tables of one or two seeds. An interval over images does not include the
  variance between seeds, so no higher grade is possible.
- supported: three seeds or more, and the primary leads every rival on the rule's first metric, with
  p-values adjusted by Holm's method.
- conclusive: six seeds or more, and every lead is also superior (beyond the margin).

`caps` lists what limits a grade to provisional whatever the intervals are, `doubts.limits` what
limits it to descriptive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.statistics import LEVEL, holm
from coordexp.analysis.recommendation.by_values import eliminate_by_values
from coordexp.analysis.recommendation.doubts import limits
from coordexp.analysis.recommendation.findings import (
    GRADES,
    Claim,
    Elimination,
    Grade,
    GradeName,
)
from coordexp.analysis.recommendation.rule import Values
from coordexp.analysis.recommendation.statements import label, listed
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS
from coordexp.study.inputs import RunData
from coordexp.study.preregistration import EarlierStudy, Preregistration

CONCLUSIVE_FROM = 6  # seeds


@dataclass(frozen=True)
class Facts:
    """The inputs of the card's statements.

    rows: of the eligible variants, at the decision step.
    primary: the variant that the statements are about.
    contradictions: evidence on which a variant that dropped out beats the primary.
    """

    study: Preregistration
    rule: RuleConfig
    runs: Sequence[RunData]
    audit: Audit
    comparison: Comparison
    rows: Values
    primary: str | None
    contradictions: Sequence[Elimination] = ()


def leads_of_primary(facts: Facts, name: str) -> list[Lead]:
    """The primary's lead over each other eligible variant on a metric."""
    if facts.primary not in facts.rows:
        return []
    return [
        lead
        for lead in leads(facts.comparison.differences, facts.primary)
        if lead.metric == name and lead.second in facts.rows
    ]


def confirmatory(facts: Facts) -> list[Claim]:
    """The confirmatory family: the rule's first metric, the primary against each rival.

    The p-values are adjusted by Holm's method.
    """
    first = facts.rule.metrics[0]
    leads_with_interval = [lead for lead in leads_of_primary(facts, first) if lead.estimate]
    estimates = [lead.estimate for lead in leads_with_interval if lead.estimate]
    p_values = [
        1.0 if estimate.too_few_images else estimate.p_value
        for estimate in estimates
        if estimate.p_value is not None
    ]
    # With fewer than three seeds the variance over seeds is unknown: there are no p-values.
    adjusted: Sequence[float | None] = [None] * len(estimates)
    if len(p_values) == len(estimates):
        adjusted = holm(p_values)
    claims = []
    for lead, estimate, p_holm in zip(leads_with_interval, estimates, adjusted, strict=True):
        assert lead.verdict is not None  # it has an interval
        claims.append(
            Claim(
                variant=lead.second,
                metric=lead.metric,
                lead=lead.value,
                low=estimate.low,
                high=estimate.high,
                share_better=estimate.share_above_0,
                p_holm=p_holm,
                verdict=lead.verdict,
            )
        )
    return claims


def ranking_confidence(facts: Facts, family: Sequence[Claim]) -> Grade:
    """The grade of the Stage-1 ranking and its one reason."""
    if facts.primary is None:
        return Grade("descriptive", "no variant leads")
    if len(facts.rows) == 1:
        return Grade("descriptive", "only one variant is eligible: nothing to rank it against")
    if len(family) < len(facts.rows) - 1:
        return Grade("descriptive", why_no_interval(facts, family))
    earned, reason = earned_grade(facts, family)
    if found := limits(facts.runs, facts.audit, facts.rows, facts.rule):
        return Grade("descriptive", f"{found[0]}; without that: {earned}")
    ceilings = caps(facts)
    if ceilings and GRADES.index(earned) > GRADES.index("provisional"):
        return Grade("provisional", f"{ceilings[0]}; without that: {earned}")
    return Grade(earned, "; ".join([reason, *ceilings[:1]]))


def why_no_interval(facts: Facts, family: Sequence[Claim]) -> str:
    """Why the lead over some rival has no interval."""
    seeds = seeds_shared_with(facts)
    unpaired = [rival for rival in seeds if rival not in {claim.variant for claim in family}]
    disjoint = [rival for rival in unpaired if seeds[rival] == 0]
    if disjoint:
        return f"no seed in common with {listed(disjoint)}: leads are not paired, so no interval"
    of_primary = [run for run in facts.runs if run.variant == facts.primary]
    of_rivals = [run for run in facts.runs if run.variant in unpaired]
    step = facts.comparison.decision_step
    without = [
        run.name
        for run in [*of_primary, *of_rivals]
        if run.run is None or step is None or not run.run.table(step).exists()
    ]
    if len(without) == len(of_primary) + len(of_rivals):
        return "logs only: no token tables, so no interval"
    if without:
        return f"no token table of {listed(without)} at step {step}, so no interval"
    return f"the token tables of {listed(unpaired)} hold other images, or lack the metric"


def earned_grade(facts: Facts, family: Sequence[Claim]) -> tuple[GradeName, str]:
    """The grade that the intervals alone would give, and its reason; see `caps` for limits."""
    metric = METRICS[facts.rule.metrics[0]].label
    seeds = seeds_shared_with(facts)
    n_seeds = min(seeds.values())
    if n_seeds < CROSSED_FROM:
        # Rivals may share more seeds with the primary than others: name those that share too few.
        few = [rival for rival, shared in seeds.items() if shared < CROSSED_FROM]
        beside = "" if len(few) == len(seeds) else f" in common with {listed(few)}"
        if n_seeds == 1:
            return "provisional", f"one seed{beside}: what another seed would change is unseen"
        return (
            "provisional",
            f"{n_seeds} seeds{beside}: too few to see what another seed would change",
        )
    behind = []
    for claim in family:
        assert claim.p_holm is not None  # three seeds and more have a variance over seeds
        if not (claim.lead > 0 and claim.p_holm < 1 - LEVEL):
            behind.append(f"{claim.variant} ({claim.verdict})")
    if behind:
        return (
            "provisional",
            f"{n_seeds} seeds, but the {metric} lead is not resolved over {', '.join(behind)}",
        )
    beyond = all(claim.verdict == "superior" for claim in family)
    if beyond and n_seeds >= CONCLUSIVE_FROM:
        return (
            "conclusive",
            f"{n_seeds} seeds x images: the {metric} lead over every rival is beyond the margin",
        )
    missing = (
        f"beyond the margin, but {n_seeds} seeds are fewer than {CONCLUSIVE_FROM}"
        if beyond
        else "not beyond the margin"
    )
    return (
        "supported",
        f"{n_seeds} seeds x images: the {metric} lead over every rival is above 0 after Holm, "
        f"{missing}",
    )


def seeds_shared_with(facts: Facts) -> dict[str, int]:
    """How many seeds the primary shares with each eligible rival."""
    seeds = {v: {run.seed for run in facts.runs if run.variant == v} for v in facts.rows}
    if facts.primary is None:
        return {}
    of_primary = seeds[facts.primary]
    return {v: len(of_primary & mine) for v, mine in seeds.items() if v != facts.primary}


def caps(facts: Facts) -> list[str]:
    """Reasons that limit the grade to provisional, however narrow the intervals are."""
    found = []
    if temperature_sensitive(facts):
        found.append("another temperature would drop it (temperature_sensitive)")
    if facts.contradictions:
        other = facts.contradictions[0]
        found.append(f"the evidence disagrees: {other.by} is ahead on {label(other.metric)}")
    if facts.audit.differences:
        found.append("the runs differ outside the variant")
    if any(
        earlier.rule_sha256 != facts.study.rule_sha256
        for earlier in changed_after_results(facts.study)
    ):
        found.append("the rule was changed after results were known")
    if unregistered(facts.study):
        found.append("post hoc: results existed before the rule was written down")
    return found


def temperature_sensitive(facts: Facts) -> bool:
    """Whether the primary would drop out at another temperature."""
    return bool(dropped_by_temperature(facts))


def dropped_by_temperature(facts: Facts) -> dict[str, Elimination]:
    """The temperatures at which the primary would drop out, and behind whom.

    Values alone are compared with the margins: intervals exist at the rule's temperature only.
    Temperatures at which some eligible variant has no temperature-dependent metric are left out.
    """
    found: dict[str, Elimination] = {}
    decided = {v: dict(row) for v, row in facts.rows.items()}
    if facts.primary in {e.variant for e in eliminate_by_values(facts.rule, decided)[0]}:
        return {}  # by values alone it drops out anyway: the temperature is not the reason
    for temperature, table in facts.comparison.temperatures.items():
        rows = {row.variant: row.values for row in table if row.variant in facts.rows}
        dependent = [name for name in facts.rule.metrics if METRICS[name].has_temperature]
        complete = len(rows) == len(facts.rows) and all(
            any(name in row for name in dependent) for row in rows.values()
        )
        if temperature == facts.comparison.temperature or not complete:
            continue
        for elimination in eliminate_by_values(facts.rule, rows)[0]:
            if elimination.variant == facts.primary:
                found[temperature] = elimination
    return found


def changed_after_results(study: Preregistration) -> list[EarlierStudy]:
    """Earlier registrations that differ in rule or number of seeds, if results were known.

    Empty if no run of this study had results when it was registered.
    """
    known = any(run.existing for run in study.runs)
    return [earlier for earlier in study.earlier_studies if known and earlier.changed]


def unregistered(study: Preregistration) -> list[str]:
    """Runs that had results before any registration of this rule named them."""
    return [run.name for run in study.runs if run.existing and not run.registered]
