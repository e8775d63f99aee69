"""What more data would make a recommendation surer, and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.power import flip_seed_sd, seeds_needed
from coordexp.analysis.comparison.statistics import LEVEL
from coordexp.analysis.recommendation.confidence import (
    Facts,
    leads_of_primary,
    seeds_shared_with,
)
from coordexp.analysis.recommendation.findings import Assertion, Statement
from coordexp.analysis.recommendation.statements import amount, equals
from coordexp.metrics import METRICS, Metric

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def closest(facts: Facts) -> tuple[Metric, list[Lead]]:
    """The rule's first metric, and the primary's smallest lead on it (several if exactly equal).

    Rivals that are ahead of the primary are left out: if such a difference turns, it helps the
    primary.
    """
    first = METRICS[facts.rule.metrics[0]]
    leads = [lead for lead in leads_of_primary(facts, first.name) if lead.value >= 0]
    smallest = min((lead.value for lead in leads), default=math.nan)
    return first, [lead for lead in leads if lead.value == smallest]


def would_take(facts: Facts) -> list[Statement]:
    """The data needed for an interval of at most ± margin on the rule's first metric.

    If the variance over images alone makes the interval wider, more images; else more seeds, with
    their cost from measured run times.
    """
    m, leads = closest(facts)
    if not leads or not leads[0].estimate or not leads[0].margin:
        return []
    lead, estimate, margin = leads[0], leads[0].estimate, leads[0].margin
    told = f"for a {m.label} interval of ± {amount(m.name, margin)}"
    key = (lead.first, lead.second, m.name)
    of_margin = equals("margin", margin, metric=m.name)
    if Z * math.sqrt(estimate.image_var) > margin:
        # Images alone make the interval too wide, so more seeds do not help. The variance over
        # images falls in proportion to their number: solve Z² variance = margin² for that number.
        n_now = estimate.n_images or 0
        images = math.ceil(n_now * estimate.image_var * (Z / margin) ** 2)
        # At the fitted temperature only the images that it was not fitted on are judged.
        judged, half = "validation images", ""
        if facts.comparison.temperature == "fitted" and not facts.comparison.unfitted:
            judged, half = "judged validation images", ", about half of the set"
        text = f"{images:,} {judged} or more (now {n_now}{half}) {told}"
        assertions = [
            of_margin,
            equals("images", float(n_now), *key),
            equals("images needed", float(images), *key),
        ]
        return [Statement("surer", text, assertions)]
    return [more_seeds(facts, lead, told, of_margin)]


def more_seeds(facts: Facts, lead: Lead, told: str, of_margin: Assertion) -> Statement:
    """How many seeds would give an interval of ± margin, and what they cost."""
    estimate, margin, name = lead.estimate, lead.margin, lead.metric
    assert estimate is not None
    assert margin is not None
    key = (lead.first, lead.second, name)
    n_seeds, assumed, assertions = seeds_shared_with(facts)[lead.second], "", [of_margin]
    if estimate.seed_var is None:
        # The SD between seeds is not measured. Assume the SD at which one repeat in six would
        # reverse the lead; the sentence states this assumption. The difference of two variants has
        # twice the variance of one, and the mean of n seeds varies n times less than one seed.
        sd = flip_seed_sd(abs(lead.value)) * math.sqrt(n_seeds)
        estimate = replace(estimate, seed_var=2 * sd**2, interaction_var=0.0)
        assumed = f" if one seed's SD is {amount(name, sd)} (unmeasured)"
        assertions.append(equals("flip seed sd", sd, *key))
    needed = seeds_needed(estimate, n_seeds, margin)
    assertions.append(equals("seeds needed", "too many" if needed is None else float(needed), *key))
    if needed is None:
        text = f"more seeds than could be trained {told}{assumed}"
        return Statement("surer", text, assertions)
    costs, of_costs = cost(facts, needed - n_seeds)
    text = f"{needed} seeds a variant {told}{assumed}{costs}"
    return Statement("surer", text, assertions + of_costs)


def cost(facts: Facts, more_seeds: int) -> tuple[str, list[Assertion]]:
    """The measured time of that many more runs of each eligible variant, as a clause."""
    spent = [
        run.manifest.train_wall_s + run.manifest.eval_wall_s
        for run in facts.runs
        if run.manifest and not run.diverged
    ]
    if more_seeds <= 0 or not spent:
        return "", []
    n_runs = more_seeds * len(facts.rows)
    hours = n_runs * math.fsum(spent) / len(spent) / 3600
    text = f": {n_runs} more runs, about {hours:.1f} h one after the other as measured here"
    return text, [equals("more runs", float(n_runs)), equals("hours of more runs", hours)]
