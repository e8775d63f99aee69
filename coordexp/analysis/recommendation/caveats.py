"""Alerts and caveats of a recommendation: what a reader must know before it is used."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.comparison.findings import Plateau
from coordexp.analysis.recommendation.confidence import (
    Facts,
    changed_after_results,
    unregistered,
)
from coordexp.analysis.recommendation.doubts import (
    bar_caveats,
    doubt_caveats,
    later_evaluations,
    unchecked_bar,
)
from coordexp.analysis.recommendation.findings import Decision, Statement
from coordexp.analysis.recommendation.statements import (
    amount,
    equals,
    label,
    listed,
    names_key,
    of_elimination,
)
from coordexp.analysis.recommendation.temperature import logged_temperatures
from coordexp.config.digests import digest
from coordexp.metrics import METRICS


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


def caveats(facts: Facts) -> list[Statement]:
    """Caveats: doubts about the runs, confounds, results older than the rule, missing values, …"""
    lines = [
        *doubt_caveats(facts.audit, facts.rows),
        *bar_caveats(facts.runs, facts.rows, facts.rule),
        *unchecked_bar(facts.rows, facts.rule),
        *later_evaluations(facts.comparison, facts.rule),
    ]
    for difference in facts.audit.differences:
        lines.append(
            Statement(
                "caveats",
                f"runs differ outside the variant: {difference}",
                [equals("audit difference", difference)],
            )
        )
    if existing := unregistered(facts.study):
        text = f"post hoc for {', '.join(existing)}: results existed when the rule was written down"
        lines.append(Statement("caveats", text, [equals("post hoc runs", names_key(existing))]))
    seeds = {v: sum(run.variant == v for run in facts.runs) for v in facts.rows}
    if len(set(seeds.values())) > 1:
        counts = ", ".join(f"{variant} {n}" for variant, n in seeds.items())
        assertions = [equals("seeds of variant", float(n), v) for v, n in seeds.items()]
        text = f"unequal seeds ({counts}): {leads_of_unequal_seeds(facts)}"
        lines.append(Statement("caveats", text, assertions))
    lines += [*prompts(facts), *tiles(facts)]
    lines += [*missing_metrics(facts), *logged_temperatures(facts)]
    m = METRICS["expected_bin_mae"]
    moving = [p for p in facts.comparison.plateau if p.metric == m.name and not p.flat]
    if moving:
        text = (
            f"no plateau was reached: {m.label} still moves over the last third (% per 100 steps: "
            f"{slopes(moving)})"
        )
        assertions = [equals("slope of run", p.slope_percent_per_100_steps, p.run) for p in moving]
        lines.append(Statement("caveats", text, assertions))
    return lines


def prompts(facts: Facts) -> list[Statement]:
    """Which prompt each checkpoint was given that was trained elsewhere, and where it is from."""
    asked: dict[str, list[str]] = {}  # runs by prompt
    for run in facts.runs:
        if run.variant in facts.rows and run.config and run.config.prompt:
            sources = run.config.prompt
            system = sources["system_source"]
            words = (
                f"the chat template of {sources['template_source']}, "
                f"{f'the system prompt of {system}' if system else 'no system prompt'} "
                f"and the user prompt of {sources['user_source']}"
            )
            asked.setdefault(words, []).append(run.name)
    return [
        Statement(
            "caveats",
            f"trained elsewhere and asked with {words}: {', '.join(names)}",
            [equals("prompt of run", words, name) for name in names],
        )
        for words, names in asked.items()
    ]


def tiles(facts: Facts) -> list[Statement]:
    """That the pictures of the study are tiles of larger ones."""
    n_tiles = max((r.manifest.val_images_tiles for r in facts.runs if r.manifest), default=0)
    if not n_tiles:
        return []
    text = (
        f"{n_tiles:,} validation pictures are tiles, cut from larger pictures: every figure here "
        "is of tiles, and none of a whole picture"
    )
    return [Statement("caveats", text, [equals("validation tiles", float(n_tiles))])]


def leads_of_unequal_seeds(facts: Facts) -> str:
    """Which seeds a lead is over: it is paired where it has an interval."""
    paired = [
        difference.interval is not None
        for difference in facts.comparison.differences
        if {difference.first, difference.second} <= set(facts.rows)
    ]
    if all(paired):
        return "a lead is over the seeds that both variants have"
    if not any(paired):
        return "a lead is between the means over all seeds"
    return (
        "a lead with an interval is over the seeds that both variants have, one without between "
        "the means over all seeds"
    )


def missing_metrics(facts: Facts) -> list[Statement]:
    """Eligible variants without some metrics of the rule: on these nothing can put them out.

    All of them may lack a metric, as logs of another trainer do.
    """
    without: dict[tuple[str, ...], list[str]] = {}
    for name in facts.rule.metrics:
        lacking = tuple(variant for variant, row in facts.rows.items() if name not in row)
        if lacking and len(facts.rows) > 1:
            without.setdefault(lacking, []).append(name)
    lines = []
    for lacking, names in without.items():
        text = (
            f"not compared on {', '.join(map(label, names))}: no such values of {listed(lacking)}"
        )
        assertions = [equals("lacking", names_key(lacking), metric=name) for name in names]
        lines.append(Statement("caveats", text, assertions))
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


def contradicting(decision: Decision, primary: str) -> list[Statement]:
    """Evidence on which a variant that dropped out beats the primary beyond the margin."""
    found = []
    for dropped in decision.eliminated:
        ahead = [other for other in decision.contradictions if other.by == dropped.variant]
        if not ahead:
            continue
        parts = [
            f"{label(other.metric)} by {amount(other.metric, other.lead)} (margin {other.margin:g})"
            for other in ahead
        ]
        text = (
            f"the evidence disagrees: {dropped.variant}, which dropped out on "
            f"{label(dropped.metric)}, is ahead of {primary} on {listed(parts)}"
        )
        assertions = [a for other in ahead for a in of_elimination(other)]
        found.append(Statement("caveats", text, assertions))
    return found
