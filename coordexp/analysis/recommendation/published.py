"""Rollout figures without a result per image: published elsewhere, or written into the logs.

They never decide. If they contradict the rule's choice beyond the margin, there is no primary,
unless the study rolled out both variants itself, with a result per image.
"""

from __future__ import annotations

from collections.abc import Container

from coordexp.analysis.comparison.probe_findings import PUBLISHED_METRICS, Aggregates
from coordexp.analysis.recommendation.findings import (
    Assertion,
    Decision,
    ProbeFinding,
    Statement,
)
from coordexp.analysis.recommendation.probe_finding import best_first, stage1_ranking
from coordexp.analysis.recommendation.rule import Values
from coordexp.analysis.recommendation.statements import equals, listed, names_key
from coordexp.config.schema import RuleConfig
from coordexp.metrics import PROBE_METRICS

AGGREGATES_ONLY = "aggregates without per-image data: no interval"


def aggregate_finding(
    primary: str | None, rows: Values, aggregates: Aggregates, rule: RuleConfig
) -> tuple[ProbeFinding, list[Statement]] | None:
    """Published aggregates as evidence: always unresolved, with what confounds them."""
    name = shared_metric(aggregates)
    if primary is None or name is None:
        return None
    ranked, shown, assertions = ranking(aggregates, name, aggregates.variants)
    text = f"{aggregates.source} leaves open the Stage-1 ranking: {shown}; {AGGREGATES_ONLY}"
    finding = ProbeFinding(
        outcome="unresolved",
        sentence=text,
        smoothness=None,
        stage1_ranking=stage1_ranking(primary, rows, rule),
        probe_ranking=ranked,
        signal=name,
        confounds=confounds(aggregates),
    )
    return finding, [Statement("probe", text, assertions)]


def contradiction(
    primary: str, decision: Decision, rows: Values, aggregates: Aggregates, rule: RuleConfig
) -> tuple[str, Statement] | None:
    """The variant that published rollouts put before the primary by more than the margin.

    Returns:
        The variant, and the contradiction in a sentence; None if there is no such variant.
    """
    name = shared_metric(aggregates)
    if name is None or primary not in aggregates.variants:
        return None
    ranked, shown, assertions = ranking(aggregates, name, rows)
    gap = aggregates.variants[ranked[0]][name] - aggregates.variants[primary][name]
    if gap <= rule.probe.margin * (1 + 1e-9):
        return None
    text = (
        f"{chosen(primary, decision)}, the rollouts of {aggregates.source} put {ranked[0]} "
        f"first ({shown})"
    )
    assertions += [
        equals("left", names_key(decision.left)),
        equals("published lead", gap, ranked[0], primary, name),
        Assertion("published lead", ranked[0], primary, name, ">", rule.probe.margin),
    ]
    return ranked[0], Statement("decision", text, assertions)


def published_beside(
    aggregates: Aggregates, primary: str | None, rule: RuleConfig
) -> list[Statement]:
    """Published figures beside the study's own rollouts, which are closer.

    Where they put another variant before the primary by more than the margin, the line says so.
    """
    name = shared_metric(aggregates)
    if name is None:
        return []
    ranked, shown, assertions = ranking(aggregates, name, aggregates.variants)
    where = "in the logs" if aggregates.of_logs else "published elsewhere"
    text = f"{where}, without a result per image ({aggregates.source}): {shown}"
    if primary in aggregates.variants:
        gap = aggregates.variants[ranked[0]][name] - aggregates.variants[primary][name]
        if gap > rule.probe.margin * (1 + 1e-9):
            text += f"; they put {ranked[0]} before {primary}, by {gap:.3f}"
            assertions += [
                equals("published lead", gap, ranked[0], primary, name),
                Assertion("published lead", ranked[0], primary, name, ">", rule.probe.margin),
            ]
    return [Statement("caveats", text, assertions)]


def ranking(
    aggregates: Aggregates, name: str, among: Container[str]
) -> tuple[list[str], str, list[Assertion]]:
    """These of the published variants, best first; the same as words; and what the words assert."""
    values = {v: figures[name] for v, figures in aggregates.variants.items() if v in among}
    ranked = best_first(values, name)
    shown = ", ".join(f"{variant} {values[variant]:.3f}" for variant in ranked)
    assertions = [equals("published value", values[v], v, metric=name) for v in ranked]
    return ranked, f"{PROBE_METRICS[name].label} {shown}", assertions


def chosen(primary: str, decision: Decision) -> str:
    """What the study's own evidence says; a preference puts nobody first."""
    if len(decision.left) > 1:
        return f"the evidence of this study leaves {listed(decision.left)}"
    if any(elimination.tier == "rollouts" for elimination in decision.eliminated):
        return f"the evidence of this study puts {primary} first"
    return f"the metrics put {primary} first"


def shared_metric(aggregates: Aggregates) -> str | None:
    """The metric by which published figures are ranked; every variant must have it."""
    for name in PUBLISHED_METRICS:
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
