"""Sensitivity of a recommendation: what would overturn it, what more data costs, and caveats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from coordexp.analysis.comparison.findings import Plateau
from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.power import flip_seed_sd, seeds_needed
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.comparison.statistics import LEVEL
from coordexp.analysis.recommendation.confidence import (
    Facts,
    changed_after_results,
    leaders_by_temperature,
    leads_of_primary,
    shared_seeds,
    unregistered,
)
from coordexp.analysis.recommendation.findings import ProbeFinding
from coordexp.analysis.recommendation.probe_finding import probe_leads
from coordexp.config.digests import digest
from coordexp.metrics import METRICS, PROBE_METRICS, Metric

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

TEMPERATURE_NAME = {
    "1": "T = 1",
    "own": "each variant's own temperature",
    "fitted": "fitted temperatures",
}


def would_overturn(
    facts: Facts, stage1: str | None, finding: ProbeFinding | None, probe: StudyProbe
) -> list[str]:
    """What would change the primary, as sentences with numbers."""
    if facts.primary is None:
        return [
            "any metric on which one variant leads"
            if facts.rows
            else "a run that passes the audit and the bars"
        ]
    lines = []
    if stage1 is not None and stage1 != facts.primary:
        lines += another_probe(facts.primary, stage1, facts.rule.probe.signal, probe)
    lines += [*other_seeds(facts), *other_stopping_points(facts)]
    for temperature, leader in leaders_by_temperature(facts).items():
        if leader and leader != facts.primary:
            lines.append(f"judging at {TEMPERATURE_NAME[temperature]}: {leader} would lead")
    if finding is None or finding.confounds:
        lines.append("a Stage-2 probe in which another variant parses, matches or descends better")
    return lines


def another_probe(primary: str, stage1: str, name: str, probe: StudyProbe) -> list[str]:
    """The lead on the probe's deciding metric that put the primary before the choice of Stage-1."""
    lead = probe_leads(probe, primary, name).get(stage1)
    if lead is None or lead.estimate is None:
        return []
    low, high = lead.estimate.low, lead.estimate.high
    return [
        f"another probe: its lead over {stage1}, the choice of Stage-1, is "
        f"{PROBE_METRICS[name].label} {lead.value:+.3f} [{low:+.3f}, {high:+.3f}]"
    ]


def closest(facts: Facts) -> tuple[Metric, list[Lead]]:
    """The rule's first metric, and the primary's smallest lead on it (several if exactly equal).

    Rivals that are ahead of the primary are left out: if such a difference turns, it helps the
    primary.
    """
    first = METRICS[facts.rule.metrics[0]]
    leads = [lead for lead in leads_of_primary(facts, first.name) if lead.value >= 0]
    smallest = min((lead.value for lead in leads), default=math.nan)
    return first, [lead for lead in leads if lead.value == smallest]


def amount(m: Metric, value: float) -> str:
    """A value with its unit, in the metric's usual decimals.

    If that would print as zero, one significant digit is shown instead: a small lead is not 0.00.
    """
    usual = f"{value:.2f}" if m.unit else f"{value:.3f}"
    told = f"{value:.1g}" if float(usual) == 0 else usual
    return f"{told} {m.unit}".strip()


def other_seeds(facts: Facts) -> list[str]:
    """The smallest lead on the first metric, and how other seeds may change it.

    With fewer than three seeds, the seed SD at which one repeat in six reverses it. Otherwise its
    interval over seeds and images.
    """
    m, leads = closest(facts)
    if not leads:
        return []
    lead, rivals = leads[0], ", ".join(lead.second for lead in leads)
    size, margin = lead.value, lead.margin
    small = f"; the margin is {amount(m, margin)}" if margin and size < margin else ""
    if shared_seeds(facts) < CROSSED_FROM:
        sd = amount(m, flip_seed_sd(size))
        flips = f"if it is the true one, at a seed SD of {sd} one repeat in six flips it"
        return [
            f"other seeds: the {m.label} lead over {rivals} is {amount(m, size)}; {flips}{small}"
        ]
    if lead.estimate:
        low, high = lead.estimate.low, lead.estimate.high
        return [
            f"other seeds and images: the {m.label} lead over {rivals} is {amount(m, size)}, "
            f"95 % interval [{low:+.4g}, {high:+.4g}]{small}"
        ]
    return [f"other seeds: the {m.label} lead over {rivals} is {amount(m, size)}{small}"]


def other_stopping_points(facts: Facts) -> list[str]:
    """Whether another variant leads on the rule's first metric at other steps of the window.

    Nothing is said if another variant leads at the decision step too: it was no reason then.
    """
    m = METRICS[facts.rule.metrics[0]]
    found = facts.comparison.stability.get(m.name)
    if not found or found.last_winner != facts.primary:
        return []
    steps = facts.comparison.window.steps
    others = [w for w in found.winners if w.step in steps and w.winner != facts.primary]
    if not others:
        return []
    names = ", ".join(dict.fromkeys(w.winner or "nobody" for w in others))
    return [
        f"another stopping point: at {len(others)} of the {len(steps)} common evaluations from "
        f"step {steps[0]} to {steps[-1]} {names} led on {m.label}"
    ]


def would_take(facts: Facts) -> list[str]:
    """The data needed for an interval of at most ± margin on the rule's first metric.

    If the variance over images alone makes the interval wider, more images; else more seeds, with
    their cost from measured run times.
    """
    m, leads = closest(facts)
    if not leads or not leads[0].estimate or not leads[0].margin:
        return []
    lead, estimate, margin = leads[0], leads[0].estimate, amount(m, leads[0].margin)
    if Z * math.sqrt(estimate.image_var) > leads[0].margin:
        # Images alone make the interval too wide, so more seeds do not help. The variance over
        # images falls in proportion to their number: solve Z² variance = margin² for that number.
        images = math.ceil(
            (estimate.n_images or 0) * estimate.image_var * (Z / leads[0].margin) ** 2
        )
        # At the fitted temperature only the images that it was not fitted on are judged.
        judged, half = "validation images", ""
        if facts.comparison.temperature == "fitted":
            judged, half = "judged validation images", ", about half of the set"
        return [
            f"{images:,} {judged} or more (now {estimate.n_images}{half}) for a {m.label} "
            f"interval of ± {margin}"
        ]
    n_seeds, assumed = shared_seeds(facts), ""
    if estimate.seed_var is None:
        # The SD between seeds is not measured. Assume the SD at which one repeat in six would
        # reverse the lead; the sentence below states this assumption. The difference of two
        # variants has twice the variance of one.
        sd = flip_seed_sd(abs(lead.value))
        estimate = replace(estimate, seed_var=2 * sd**2, interaction_var=0.0)
        assumed = f" if one seed's SD is {amount(m, sd)} (unmeasured)"
    needed = seeds_needed(estimate, n_seeds, leads[0].margin)
    if needed is None:
        return [f"more seeds than could be trained for a {m.label} interval of ± {margin}{assumed}"]
    more = f"{needed} seeds a variant for a {m.label} interval of ± {margin}{assumed}"
    return [more + cost(facts, needed - n_seeds)]


def cost(facts: Facts, more_seeds: int) -> str:
    """The measured time of that many more runs of each variant."""
    spent = [
        run.manifest.train_wall_s + run.manifest.eval_wall_s
        for run in facts.runs
        if run.manifest and not run.diverged
    ]
    if more_seeds <= 0 or not spent:
        return ""
    n_runs = more_seeds * len({run.variant for run in facts.runs})
    hours = n_runs * math.fsum(spent) / len(spent) / 3600
    return f": {n_runs} more runs, about {hours:.1f} h one after the other as measured here"


def alerts(facts: Facts) -> list[str]:
    """Warnings at the top of the card: the rule or the seeds changed after results were known.

    Also if the registered rule no longer has the digest that the registration names.
    """
    lines = []
    if digest(facts.study.rule) != facts.study.rule_sha256:
        lines.append(
            "THE RULE WAS EDITED: preregistration.json no longer holds the rule whose digest it "
            "names"
        )
    for earlier in changed_after_results(facts.study):
        changes = "; ".join(earlier.changed)
        lines.append(
            f"CHANGED AFTER RESULTS: study {earlier.hash8} ({earlier.written_at[:10]}) registered "
            f"these runs with {changes}"
        )
    return lines


def caveats(facts: Facts) -> list[str]:
    """Caveats: confounds, results older than the rule, curves without plateau."""
    lines = [
        f"runs differ outside the variant: {difference}" for difference in facts.audit.differences
    ]
    if existing := unregistered(facts.study):
        lines.append(
            f"post hoc for {', '.join(existing)}: results existed when the rule was written down"
        )
    m = METRICS["expected_bin_mae"]
    moving = [p for p in facts.comparison.plateau if p.metric == m.name and not p.flat]
    if moving:
        lines.append(
            f"no plateau was reached: {m.label} still moves over the last third (% per 100 steps: "
            f"{slopes(moving)})"
        )
    return lines


def slopes(plateaus: Sequence[Plateau]) -> str:
    """The slopes of each variant, as a range over its seeds: `mixed -8.6, pure_ce -9.1 to -7.0`."""
    by_variant: dict[str, list[float]] = {}
    for p in plateaus:
        by_variant.setdefault(p.variant, []).append(p.slope_percent_per_100_steps)
    return ", ".join(
        f"{variant} {min(found):+.1f}" + (f" to {max(found):+.1f}" if len(found) > 1 else "")
        for variant, found in by_variant.items()
    )
