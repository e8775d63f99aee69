"""Sensitivity of a recommendation: what would overturn it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.power import flip_seed_sd
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.confidence import (
    Facts,
    dropped_by_temperature,
    seeds_shared_with,
)
from coordexp.analysis.recommendation.elimination import separation
from coordexp.analysis.recommendation.findings import (
    Assertion,
    Decision,
    Elimination,
    ProbeFinding,
    Statement,
)
from coordexp.analysis.recommendation.probe_finding import probe_leads
from coordexp.analysis.recommendation.statements import (
    amount,
    equals,
    label,
    listed,
    names_key,
    of_lead,
)
from coordexp.analysis.recommendation.surer import closest
from coordexp.metrics import METRICS

TEMPERATURE_NAME = {
    "own": "each variant's own temperature",
    "fitted": "fitted temperatures",
}


def would_overturn(
    facts: Facts,
    decision: Decision,
    stage1: str | None,
    finding: ProbeFinding | None,
    probe: StudyProbe,
) -> list[Statement]:
    """What would change the primary, as sentences with numbers."""
    if facts.primary is None:
        text = "a run that passes the audit and the bars"
        return [Statement("overturn", text, [equals("eligible variants", float(len(facts.rows)))])]
    if len(facts.rows) == 1:
        text = "another variant that passes the audit and the bars"
        return [Statement("overturn", text, [equals("eligible variants", 1.0)])]
    # A rival that dropped out on rollouts stays out, whatever the metrics say of it.
    out = {entry.variant: entry for entry in decision.eliminated if entry.tier == "rollouts"}
    lines = another_probe(facts, stage1, out, probe)
    lines += separating(facts, decision)
    left = {variant: row for variant, row in facts.rows.items() if variant not in out}
    judged = replace(facts, rows=left)
    lines += [*other_seeds(judged), *other_stopping_points(judged)]
    for temperature, elimination in dropped_by_temperature(judged).items():
        name = elimination.metric
        key = (elimination.by, facts.primary, name)
        quantity = f"lead at {temperature}"
        read_at = TEMPERATURE_NAME.get(temperature, facts.comparison.logged_at)
        lines.append(
            Statement(
                "overturn",
                f"judging at {read_at}: {elimination.by} would be ahead on "
                f"{label(name)} by {amount(name, elimination.lead)}, beyond the margin "
                f"{elimination.margin:g}",
                [
                    equals(quantity, elimination.lead, *key),
                    Assertion(quantity, *key, ">", elimination.margin),
                    equals("margin", elimination.margin, metric=name),
                ],
            )
        )
    if finding is None or finding.confounds:
        text = "a Stage-2 probe in which another variant parses, matches or descends better"
        lines.append(Statement("overturn", text, [equals("probed without confounds", 0.0)]))
    return lines


def another_probe(
    facts: Facts, stage1: str | None, out: Mapping[str, Elimination], probe: StudyProbe
) -> list[Statement]:
    """The lead on the probe's deciding metric that another probe would have to turn.

    That over the choice of Stage-1, where it is another variant; else the smallest over a rival
    that dropped out behind the primary on rollouts. Its interval is that of the decision: it holds
    the declared variance between seeds.
    """
    assert facts.primary is not None
    rule, told = facts.rule.probe, ""
    found = probe_leads(probe, facts.primary, rule.signal)
    if stage1 not in (None, facts.primary):
        rivals, told = [stage1], ", the choice of Stage-1,"
    else:
        rivals = [entry.variant for entry in out.values() if entry.by == facts.primary]
    leads = [found[rival] for rival in rivals if rival in found]
    # With unequal seeds, another variant may have been ahead of the choice of Stage-1.
    leads = [lead for lead in leads if lead.estimate and lead.value > 0]
    if not leads:
        return []
    lead = min(leads, key=lambda lead: lead.value)
    test = separation(lead, rule.margin, rule.seed_sd)
    again = "another probe" if probe.handed_over is None else "other rollouts"
    text = (
        f"{again}: its lead over {lead.second}{told} is "
        f"{label(rule.signal)} {lead.value:+.3f} [{test.low:+.3f}, {test.high:+.3f}]"
    )
    key = (facts.primary, lead.second, rule.signal)
    assertions = [
        *of_lead(lead)[:2],
        equals("separation low", test.low, *key),
        equals("separation high", test.high, *key),
    ]
    return [Statement("overturn", text, assertions)]


def separating(facts: Facts, decision: Decision) -> list[Statement]:
    """Evidence that would put the primary behind those it was only preferred to."""
    others = [variant for variant in decision.left if variant != facts.primary]
    if not others:
        return []
    text = f"evidence on which it drops out behind {listed(others)}: so far there is none"
    return [Statement("overturn", text, [equals("left", names_key(decision.left))])]


def other_seeds(facts: Facts) -> list[Statement]:
    """The smallest lead on the first metric, and how other seeds may change it.

    With fewer than three seeds, the seed SD at which one repeat in six reverses it. Otherwise its
    interval over seeds and images.
    """
    m, leads = closest(facts)
    if not leads:
        return []
    lead, rivals = leads[0], listed([lead.second for lead in leads])
    size, margin = lead.value, lead.margin
    assertions = [a for one in leads for a in of_lead(one)]
    small = ""
    if margin and size < margin:
        small = f"; the margin is {amount(m.name, margin)}"
        assertions.append(equals("margin", margin, metric=m.name))
    told = f"the {m.label} lead over {rivals} is {amount(m.name, size)}"
    n_seeds = max(seeds_shared_with(facts)[lead.second], 1)
    if lead.value == 0:
        return [Statement("overturn", f"other seeds: {told}{small}", assertions)]
    if n_seeds < CROSSED_FROM:
        # The mean of n seeds varies n times less than one seed: the SD of one seed is larger.
        sd = flip_seed_sd(size) * math.sqrt(n_seeds)
        assertions.append(equals("flip seed sd", sd, facts.primary, lead.second, m.name))
        flips = f"at a seed SD of {amount(m.name, sd)} one repeat in six flips it"
        text = f"other seeds: {told}; if it is the true one, {flips}{small}"
        return [Statement("overturn", text, assertions)]
    if lead.estimate:
        low, high = lead.estimate.low, lead.estimate.high
        text = f"other seeds and images: {told}, 95 % interval [{low:+.4g}, {high:+.4g}]{small}"
        return [Statement("overturn", text, assertions)]
    return [Statement("overturn", f"other seeds: {told}{small}", assertions)]


def other_stopping_points(facts: Facts) -> list[Statement]:
    """Whether another variant leads on the rule's first metric at other steps of the window.

    Nothing is said if another variant leads at the decision step too: it was no reason then.
    """
    m = METRICS[facts.rule.metrics[0]]
    found = facts.comparison.stability.get(m.name)
    if not found or found.last_winner != facts.primary:
        return []
    steps = facts.comparison.window.steps
    rivals = {variant for variant in facts.rows if variant != facts.primary}
    others = [w for w in found.winners if w.step in steps and w.winner in {None, *rivals}]
    if not others:
        return []
    names = list(dict.fromkeys(w.winner or "nobody" for w in others))
    text = (
        f"another stopping point: at {len(others)} of the {len(steps)} common evaluations from "
        f"step {steps[0]} to {steps[-1]} {', '.join(names)} led on {m.label}"
    )
    assertions = [
        equals("steps not led", float(len(others)), facts.primary, metric=m.name),
        equals("leaders of the other steps", names_key(names), facts.primary, metric=m.name),
        equals("window steps", float(len(steps))),
        equals("window start", float(steps[0])),
        equals("window end", float(steps[-1])),
    ]
    return [Statement("overturn", text, assertions)]
