"""The recommendation: the rule applied to a comparison, with reasons, grades and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation import findings
from coordexp.analysis.recommendation.by_values import settled_from
from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.caveats import alerts, caveats, contradicting
from coordexp.analysis.recommendation.confidence import Facts, confirmatory, ranking_confidence
from coordexp.analysis.recommendation.control import control_statements
from coordexp.analysis.recommendation.deciding_signal import deciding_signal
from coordexp.analysis.recommendation.elimination import (
    Criterion,
    contradictions,
    criteria,
    eliminate,
)
from coordexp.analysis.recommendation.few_images import few_images
from coordexp.analysis.recommendation.findings import (
    AuditSummary,
    Claim,
    Confidence,
    Decision,
    Grade,
    Ineligible,
    ProbeFinding,
    Recommendation,
    Rule,
    Statement,
    StudyName,
)
from coordexp.analysis.recommendation.handed_over import handed_over_caveats, step_confounds
from coordexp.analysis.recommendation.preference import preferred
from coordexp.analysis.recommendation.probe_finding import (
    names_decide,
    parse_failures,
    probe_finding,
    probe_grade,
    probed,
    smoothness_outcome,
)
from coordexp.analysis.recommendation.published import (
    aggregate_finding,
    contradiction,
    published_beside,
)
from coordexp.analysis.recommendation.reasons import (
    evidence,
    primary_reasons,
)
from coordexp.analysis.recommendation.rehearsal import rehearsal
from coordexp.analysis.recommendation.roles import Roles, role, roles_of
from coordexp.analysis.recommendation.rule import (
    Values,
    eligibility,
)
from coordexp.analysis.recommendation.rule_text import rule_text
from coordexp.analysis.recommendation.sensitivity import would_overturn
from coordexp.analysis.recommendation.sight import (
    blind_variants,
    nobody_sees,
    sight_caveats,
)
from coordexp.analysis.recommendation.statements import texts
from coordexp.analysis.recommendation.surer import would_take
from coordexp.config.digests import digest
from coordexp.config.schema import RuleConfig
from coordexp.storage.files import write_text
from coordexp.study.inputs import RunData, candidates
from coordexp.study.preregistration import Preregistration


def recommend(
    study: Preregistration,
    runs: Sequence[RunData],
    audit: Audit,
    comparison: Comparison,
    probe: StudyProbe,
) -> Recommendation:
    """The recommendation of a study; `study` is its preregistration.

    A role is None if no run may hold it; the reasons say why. The confirmatory family and the grade
    of Stage-1 belong to the choice of the metrics alone; all other statements to the final primary.
    Controls take no part; `control.py` says what they explain.
    """
    rule = study.decision_rule
    signal, before_fine_tune = deciding_signal(probe, rule)
    judged_by = replace(rule, probe=replace(rule.probe, signal=signal))
    plan = replace(study, runs=[run for run in study.runs if not run.control])
    found = of_candidates(plan, judged_by, candidates(runs), audit, comparison.of_candidates, probe)
    explained = [
        *before_fine_tune,
        *handed_over_caveats(probe, rule, comparison.decision_step, signal),
        *control_statements(runs, audit, comparison, found, rule),
    ]
    return replace(
        found,
        caveats=[*found.caveats, *texts(explained)],
        statements=[*found.statements, *explained],
    )


def of_candidates(
    study: Preregistration,
    rule: RuleConfig,
    runs: Sequence[RunData],
    audit: Audit,
    comparison: Comparison,
    probe: StudyProbe,
) -> Recommendation:
    """The recommendation among the candidates: the study without its controls.

    `rule` is the study's, with the probe's metric that decides.
    """
    rows: Values = {row.variant: row.values for row in comparison.decision_rows}
    refusals = eligibility(runs, audit, rows, rule)
    for variant, reason in parse_failures(probe, rule.eligible.min_parse_rate).items():
        refusals[variant].append(reason)
    for variant, reason in blind_variants(probe, rule).items():
        refusals[variant].append(reason)
    eligible = {variant: rows[variant] for variant, reasons in refusals.items() if not reasons}

    # What the metrics alone would choose, and what all evidence chooses.
    found = criteria(rule, eligible, comparison.differences, probe)
    of_metrics = [criterion for criterion in found if criterion.tier != "rollouts"]
    stage1, first_decision = choose(eligible, of_metrics, found, runs, rule)
    primary, decision = stage1, first_decision
    if rule.probe.may_change_roles:
        primary, decision = choose(eligible, found, found, runs, rule)
    decision = replace(decision, settled_from=settled_from(rule, comparison, eligible))

    facts = Facts(
        study, rule, runs, audit, comparison, eligible, stage1, first_decision.contradictions
    )
    family = confirmatory(facts)
    grade = ranking_confidence(facts, family)
    if stage1 != primary and stage1 is not None:
        grade = replace(grade, reason=f"{stage1} is the choice of the metrics; {grade.reason}")
    stage_one = StageOne(stage1, family, grade)
    facts = replace(facts, primary=primary, contradictions=decision.contradictions)
    withheld = None
    if primary is not None and probe.aggregates is not None:
        withheld = contradiction(primary, decision, eligible, probe.aggregates, rule)
        own = {v for criterion in found if criterion.tier == "rollouts" for v in criterion.values}
        if withheld is not None and rule.probe.may_change_roles and {primary, withheld[0]} <= own:
            withheld = None  # the study's own rollouts of both, with a result per image, are closer
    refused = [Ineligible(variant, reasons) for variant, reasons in refusals.items() if reasons]
    if withheld is not None:
        return withheld_recommendation(facts, decision, withheld, refused, stage_one, probe)
    return written(facts, decision, roles_of(facts, decision), refused, stage_one, probe)


def choose(
    eligible: Values,
    deciding: Sequence[Criterion],
    shown: Sequence[Criterion],
    runs: Sequence[RunData],
    rule: RuleConfig,
) -> tuple[str | None, Decision]:
    """The primary by the deciding evidence, and how it was chosen.

    Args:
        shown: all evidence, among which contradictions are looked for.
    """
    dropped, left = eliminate(eligible, deciding)
    if not left:
        return None, Decision([], [], None, [])
    primary, preference = left[0], None
    if len(left) > 1:
        primary, preference = preferred(left, runs, rule.prefer)
    return primary, Decision(dropped, left, preference, contradictions(primary, dropped, shown))


@dataclass(frozen=True)
class StageOne:
    """The choice of the metrics alone: its leads and its grade."""

    primary: str | None
    family: list[Claim]
    grade: Grade


def withheld_recommendation(
    facts: Facts,
    decision: Decision,
    withheld: tuple[str, Statement],
    refused: list[Ineligible],
    stage_one: StageOne,
    probe: StudyProbe,
) -> Recommendation:
    """A recommendation without a primary, because two kinds of evidence contradict each other."""
    first, (second, why) = facts.primary, withheld
    assert first is not None
    reasons = primary_reasons(facts, decision)
    tied = [role(facts, first, reasons), role(facts, second, [why])]
    roles = Roles(tied=tied, statements=[*reasons, why])
    found = written(replace(facts, primary=None), decision, roles, refused, stage_one, probe)
    settles = (
        f"rollouts of {first} and {second} on the same images, with a result per image: the "
        "Stage-2 probe, `coordexp evaluate` for checkpoints trained elsewhere, or files of theirs "
        "(`--rollouts`)"
    )
    return replace(found, withheld=why.text, would_overturn=[], would_take=[settles])


def written(
    facts: Facts,
    decision: Decision,
    roles: Roles,
    refused: list[Ineligible],
    stage_one: StageOne,
    probe: StudyProbe,
) -> Recommendation:
    """The decision, together with everything that the card says about it."""
    study, step, rule = facts.study, facts.comparison.decision_step, facts.rule
    finding, of_probe = finding_of(facts, roles, stage_one, probe)
    overturn = would_overturn(facts, decision, stage_one.primary, finding, probe)
    surer, of_leads = would_take(facts), evidence(facts)
    warnings = [
        *few_images(facts.comparison.differences, probe.differences, facts.rows),
        *caveats(facts),
        *names_decide(probe, rule.probe.signal),
    ]
    named = [name for name in probe.not_probed if name.rpartition(" s")[0] in facts.rows]
    of_eligible = replace(probe, not_probed=named)  # a run that diverged is never probed
    warnings += sight_caveats(of_eligible, rule)
    if finding is not None and probe.aggregates and own_rollouts(facts, probe):
        warnings += published_beside(probe.aggregates, facts.primary, rule)
    blind = nobody_sees(of_eligible, rule)
    headline = [blind] if blind else []
    if facts.primary is not None:
        warnings += contradicting(decision, facts.primary)
    return Recommendation(
        schema_version=findings.SCHEMA_VERSION,
        study=StudyName(study.study, study.hash8, study.seeds),
        decision_step=step,
        confidence=Confidence(
            stage1_ranking=stage_one.grade,
            stage2_fitness=probe_grade(finding, probe, rule.probe.signal),
        ),
        primary=roles.primary,
        secondary=roles.secondary,
        optional=list(roles.optional),
        tied=list(roles.tied),
        ineligible=refused,
        withheld=None,
        rehearsal=rehearsal(rule, facts.runs, probe),
        alerts=alerts(facts),
        decision=decision,
        confirmatory=stage_one.family,
        probe=finding,
        evidence=texts(of_leads),
        audit=AuditSummary(
            passed=facts.audit.passed,
            verdicts={run.name: run.verdict for run in facts.audit.runs},
        ),
        would_overturn=texts(overturn),
        would_take=texts(surer),
        caveats=texts(warnings),
        statements=[
            *headline,
            *roles.statements,
            *of_probe,
            *of_leads,
            *overturn,
            *surer,
            *warnings,
        ],
        rule=Rule(
            text=rule_text(study.decision_rule, step, facts.comparison.logged_at),
            sha256=digest(study.rule),
        ),
        blind=blind.text if blind else None,
    )


def finding_of(
    facts: Facts, roles: Roles, stage_one: StageOne, probe: StudyProbe
) -> tuple[ProbeFinding | None, list[Statement]]:
    """What the probe, or published rollouts, say of the Stage-1 choice and of the final roles."""
    if probe.aggregates and not own_rollouts(facts, probe):
        found = aggregate_finding(stage_one.primary, facts.rows, probe.aggregates, facts.rule)
    else:
        found = probe_finding(stage_one.primary, facts.rows, probe, facts.rule)
    if found is None:
        return None, []
    finding, statements = found
    first = roles.primary.variant if roles.primary else None
    second = roles.secondary.variant if roles.secondary else None
    smoothness = smoothness_outcome(first, second, probe, facts.rule)
    if smoothness is not None:
        statements = [*statements, smoothness]
    changed = first is not None and first != stage_one.primary
    told = smoothness.text if smoothness else None
    confounds = [*finding.confounds]
    if own_rollouts(facts, probe) or not probe.aggregates:
        confounds += step_confounds(probe, facts.comparison.decision_step)
    return (
        replace(finding, smoothness=told, changed_roles=changed, confounds=confounds),
        statements,
    )


def own_rollouts(facts: Facts, probe: StudyProbe) -> bool:
    """Whether two variants or more have rollouts with a result per image."""
    return len(probed(facts.rows, probe, facts.rule)) >= 2


def write_recommendation(study_dir: Path, found: Recommendation) -> None:
    """Write recommendation.json, and the card as recommendation.md."""
    findings.write_recommendation(study_dir, found)
    write_text(study_dir / "recommendation.md", card(found, study_dir))
