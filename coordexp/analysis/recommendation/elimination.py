"""The decision: variants drop out, one piece of evidence after the other, the closest first.

Evidence, closest to Stage-2 first: rollouts with a result per image, then each metric of the rule,
in its order. On each, a variant that is worse than the best of those left, beyond the margin, drops
out. Several that are left are called indistinguishable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.comparison.statistics import LEVEL, holm
from coordexp.analysis.recommendation.findings import Elimination, Tier
from coordexp.analysis.recommendation.rule import Values
from coordexp.config.schema import RuleConfig
from coordexp.metrics import best, lower_is_better

# A declared SD between seeds is a guess, so it counts as an estimate with few degrees of freedom.
# With these, a true SD of twice the declared one changes a role in fewer than 5 % of the studies in
# which all variants are equal; with 3, in up to 5.2 % (docs/calibration.md).
DECLARED_DF = 2.5


@dataclass(frozen=True)
class Criterion:
    """One piece of evidence: the figure of each variant, and the lead of each over each other.

    values: of the variants that have the figure.
    leads: by (first, second), positive where the first is better.
    seed_sd: the declared SD between seeds; it counts where fewer than three seeds are paired.
    """

    tier: Tier
    metric: str
    margin: float
    values: Mapping[str, float]
    leads: Mapping[tuple[str, str], Lead]
    seed_sd: float = 0.0


@dataclass(frozen=True)
class Separation:
    """The interval of a lead with the declared variance between seeds, and its test.

    low, high: 95 % interval.
    p_value: two-sided, of a lead that equals the margin.
    """

    low: float
    high: float
    p_value: float


def criteria(
    rule: RuleConfig, rows: Values, differences: Sequence[Difference], probe: StudyProbe
) -> list[Criterion]:
    """All evidence of a study, the closest first.

    Args:
        rows: of the eligible variants, at the decision step.
        differences: of every pair on the rule's metrics.
    """
    of_rollouts = rollout_criterion(rule, rows, probe)
    found = [of_rollouts] if of_rollouts else []
    for name in rule.metrics:
        values = {variant: row[name] for variant, row in rows.items() if name in row}
        of_metric = leads_between(values, differences, name)
        tier: Tier = "logs"
        if any(lead.estimate for lead in of_metric.values()):
            tier = "token tables"
        seed_sd = rule.seed_sd.get(name, 0.0)
        found.append(Criterion(tier, name, rule.margins[name], values, of_metric, seed_sd))
    return found


def rollout_criterion(
    rule: RuleConfig, variants: Iterable[str], probe: StudyProbe
) -> Criterion | None:
    """The rollouts of these variants; None where none was probed, or every figure is 0.

    A figure that is 0 for every candidate ranks nothing.
    """
    name = rule.probe.signal
    measured = {}
    for variant in variants:
        if name in probe.means.get(variant, {}):
            measured[variant] = probe.means[variant][name]
    if not any(measured.values()):
        return None
    found = leads_between(measured, probe.differences, name)
    margin, seed_sd = rule.probe.margin, rule.probe.seed_sd
    return Criterion("rollouts", name, margin, measured, found, seed_sd)


def leads_between(
    variants: Iterable[str], differences: Sequence[Difference], name: str
) -> dict[tuple[str, str], Lead]:
    """The lead of each of these variants over each other one on a metric."""
    names = list(variants)
    of_metric = [difference for difference in differences if difference.metric == name]
    return {
        (lead.first, lead.second): lead
        for first in names
        for lead in leads(of_metric, first)
        if lead.second in names
    }


def eliminate(
    variants: Iterable[str], evidence: Sequence[Criterion]
) -> tuple[list[Elimination], list[str]]:
    """The variants that drop out, in order, and those that are left."""
    left = list(variants)
    dropped: list[Elimination] = []
    for criterion in evidence:
        now = beaten(criterion, left)
        dropped += now
        left = [v for v in left if v not in {elimination.variant for elimination in now}]
    return dropped, left


def beaten(criterion: Criterion, left: Sequence[str]) -> list[Elimination]:
    """Those of the variants left that are worse than the best of them beyond the margin.

    A variant without the figure stays. If several are exactly equal at the top, each of them may
    beat a rival.
    """
    values = {variant: criterion.values[variant] for variant in left if variant in criterion.values}
    if len(values) < 2:
        return []
    found: dict[str, Elimination] = {}
    for leader in best(values, bool(lower_is_better(criterion.metric))):
        rivals = [variant for variant in values if variant != leader]
        for elimination in beyond_margin(criterion, [(leader, rival) for rival in rivals]):
            found.setdefault(elimination.variant, elimination)
    return list(found.values())


def beyond_margin(criterion: Criterion, pairs: Sequence[tuple[str, str]]) -> list[Elimination]:
    """The pairs (leader, rival) of which the lead lies beyond the margin, as eliminations.

    With intervals: after Holm's correction over these pairs, at the 5 % level. A pair without an
    interval is judged by its difference alone.
    """
    found = [criterion.leads[pair] for pair in pairs if pair in criterion.leads]
    tests = {
        lead.second: separation(lead, criterion.margin, criterion.seed_sd)
        for lead in found
        if lead.estimate
    }
    adjusted = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    eliminations = []
    for lead in found:
        if lead.value <= criterion.margin * (1 + 1e-9):
            continue
        p_holm = adjusted.get(lead.second)
        if p_holm is not None and p_holm >= 1 - LEVEL:
            continue
        test = tests.get(lead.second)
        eliminations.append(
            Elimination(
                variant=lead.second,
                by=lead.first,
                tier=criterion.tier,
                metric=criterion.metric,
                lead=lead.value,
                low=test.low if test else None,
                high=test.high if test else None,
                p_holm=p_holm,
                margin=criterion.margin,
            )
        )
    return eliminations


def separation(lead: Lead, margin: float, seed_sd: float) -> Separation:
    """The interval of a lead, and the test of a lead that is no larger than the margin.

    With three paired seeds or more the variance between seeds is measured. With fewer, the declared
    one is added: two variants of n seeds each differ with the variance 2 SD² / n. Degrees of
    freedom of the sum: Satterthwaite (1946).
    """
    estimate = lead.estimate
    assert estimate is not None
    variance = estimate.se**2
    df = estimate.df or (estimate.n_images or math.inf) - 1.0
    of_seeds = 2 * seed_sd**2 / (estimate.n_seeds or 1)
    if estimate.seed_var is None and of_seeds > 0:
        df = (variance + of_seeds) ** 2 / (variance**2 / df + of_seeds**2 / DECLARED_DF)
        variance += of_seeds
    half_width = float(stdtrit(df, (1 + LEVEL) / 2)) * math.sqrt(variance)
    above = lead.value - margin
    if variance > 0:
        p_value = min(1.0, 2 * float(stdtr(df, -above / math.sqrt(variance))))
    else:
        p_value = 0.0 if above > 0 else 1.0
    if estimate.too_few_images:
        p_value = 1.0  # whatever the interval says: it is too narrow
    return Separation(lead.value - half_width, lead.value + half_width, p_value)


def contradictions(
    primary: str, dropped: Sequence[Elimination], evidence: Sequence[Criterion]
) -> list[Elimination]:
    """Evidence on which a variant that dropped out is ahead of the primary beyond the margin."""
    out = [elimination.variant for elimination in dropped]
    found = []
    for criterion in evidence:
        for rival in out:
            found += beyond_margin(criterion, [(rival, primary)])
    return found
