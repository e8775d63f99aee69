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
from coordexp.analysis.comparison.statistics import LEVEL
from coordexp.analysis.recommendation.confidence import (
    Facts,
    changed_after_results,
    leaders_by_temperature,
    leads_of_primary,
    shared_seeds,
    unregistered,
)
from coordexp.config.digests import digest
from coordexp.metrics import METRICS, Metric

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

TEMPERATURE_NAME = {
    "1": "T = 1",
    "own": "each variant's own temperature",
    "fitted": "fitted temperatures",
}


def would_overturn(facts: Facts, probed: bool) -> list[str]:
    """What would change the primary, as sentences with numbers."""
    if facts.primary is None:
        return [
            "any metric on which one variant leads"
            if facts.rows
            else "a run that passes the audit and the bars"
        ]
    lines = [*other_seeds(facts), *other_stopping_points(facts)]
    for temperature, leader in leaders_by_temperature(facts).items():
        if leader and leader != facts.primary:
            lines.append(f"judging at {TEMPERATURE_NAME[temperature]}: {leader} would lead")
    return (
        lines
        if probed
        else [*lines, "a Stage-2 probe in which another variant parses, matches or descends better"]
    )


def closest(facts: Facts) -> tuple[Metric, list[Lead]]:
    """The rule's first metric, and the primary's smallest lead on it (several if exactly equal)."""
    first = METRICS[facts.rule.metrics[0]]
    leads = leads_of_primary(facts, first.name)
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
    """The smallest lead (or largest deficit) on the first metric, and how seeds may change it.

    With fewer than three seeds, the seed SD at which one repeat in six reverses it. Otherwise the
    probability that the primary is better.
    """
    m, leads = closest(facts)
    if not leads:
        return []
    lead, rivals = leads[0], ", ".join(lead.second for lead in leads)
    size, word = abs(lead.value), "lead over" if lead.value >= 0 else "deficit to"
    margin, whose = lead.margin, "" if lead.value >= 0 else f" of {facts.primary}"
    small = f"; the margin is {amount(m, margin)}" if margin and size < margin else ""
    if shared_seeds(facts) < CROSSED_FROM:
        sd = amount(m, flip_seed_sd(size))
        flips = f"if it is the true one, at a seed SD of {sd} one repeat in six flips it"
        return [
            f"other seeds: the {m.label} {word} {rivals}{whose} is {amount(m, size)}; "
            f"{flips}{small}"
        ]
    if lead.estimate:
        share = (
            f"{lead.win_probability:.2f} is the probability that {facts.primary} is better on "
            f"{m.label} than {rivals}"
        )
        return [f"other seeds and images: {share} ({m.label} {word} it {amount(m, size)}{small})"]
    return [f"other seeds: the {m.label} {word} {rivals}{whose} is {amount(m, size)}{small}"]


def other_stopping_points(facts: Facts) -> list[str]:
    """Whether another variant leads on the rule's first metric at other steps of the window."""
    m = METRICS[facts.rule.metrics[0]]
    found = facts.comparison.stability.get(m.name)
    if not found or not found.last_winner:
        return []
    steps = set(facts.comparison.window.steps)
    others = [w for w in found.winners if w.step in steps and w.winner != found.last_winner]
    if not others:
        return []
    names = ", ".join(dict.fromkeys(w.winner or "nobody" for w in others))
    return [
        f"another stopping point: at {len(others)} of the last {len(steps)} evaluations {names} "
        f"led on {m.label}"
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
        now = f"(now {estimate.n_images}, one seed or many)"
        return [
            f"{images:,} validation images or more {now} for a {m.label} interval of ± {margin}"
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
    """Caveats: confounds, rendered images, results older than the rule, curves without plateau."""
    lines = [
        f"runs differ outside the variant: {difference}" for difference in facts.audit.differences
    ]
    manifests = [run.manifest for run in facts.runs if run.manifest]
    if drawn := [(m.val_images_rendered, m.val_images) for m in manifests if m.val_images_rendered]:
        n_drawn, n_pictures = max(drawn)
        lines.append(
            f"a rehearsal: {n_drawn} of {n_pictures} validation pictures are shapes drawn from the "
            "annotations"
        )
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
