"""The recommendation: the rule applied to a comparison, with reasons, grades and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison, CurveRow
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation import findings
from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.confidence import Facts, confirmatory, ranking_confidence
from coordexp.analysis.recommendation.findings import (
    AuditSummary,
    Claim,
    Confidence,
    Grade,
    Ineligible,
    ProbeFinding,
    Recommendation,
    Role,
    Rule,
    StudyName,
)
from coordexp.analysis.recommendation.probe_finding import (
    contradiction,
    names_decide,
    parse_failures,
    probe_finding,
    probe_grade,
    reconsider,
)
from coordexp.analysis.recommendation.reasons import (
    evidence,
    optional_reasons,
    primary_reasons,
    secondary_reasons,
)
from coordexp.analysis.recommendation.rehearsal import rehearsal
from coordexp.analysis.recommendation.rule import (
    Values,
    choose_primary,
    choose_secondary,
    competitive,
    eligibility,
    not_competitive,
)
from coordexp.analysis.recommendation.sensitivity import (
    alerts,
    caveats,
    would_overturn,
    would_take,
)
from coordexp.config.digests import digest
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, Metric
from coordexp.storage.files import sha256_directory, write_text
from coordexp.study.inputs import RunData
from coordexp.study.preregistration import Preregistration

NO_LEADER = "no eligible variant is better than every other on a metric that votes"


def recommend(
    study: Preregistration,
    runs: Sequence[RunData],
    audit: Audit,
    comparison: Comparison,
    probe: StudyProbe,
) -> Recommendation:
    """The recommendation of a study; `study` is its preregistration.

    A role is None if no run may hold it; the reasons say why. The confirmatory family always
    belongs to the Stage-1 choice, even if the probe puts another variant first.
    """
    rule = study.decision_rule
    rows: Values = {row.variant: row.values for row in comparison.decision_rows}
    refusals = eligibility(runs, audit, rows, rule)
    for variant, reason in parse_failures(probe, rule.eligible.min_parse_rate).items():
        refusals[variant].append(reason)
    eligible = {variant: rows[variant] for variant, reasons in refusals.items() if not reasons}

    # Stage-1 chooses; the probe may then put another variant first.
    near = competitive(eligible, rule.eligible.max_mae_over_best)
    stage1, votes, decided_by = choose_primary(near, rule.metrics)
    facts = Facts(study, rule, runs, audit, comparison, eligible, stage1)
    family = confirmatory(facts)
    changed = reconsider(stage1, near, family, probe, rule)
    stage1_secondary = choose_secondary(stage1, near, rule.metrics)
    finding = probe_finding(stage1, stage1_secondary, eligible, probe, rule)
    if finding is not None:
        finding = replace(finding, changed_roles=changed is not None)

    # The grade of Stage-1 is that of its own choice; all other statements are of the final primary.
    grade = ranking_confidence(facts, family)
    withheld = None
    if stage1 is not None and probe.aggregates is not None:
        withheld = contradiction(stage1, near, probe.aggregates, rule)
    if stage1 is not None and withheld is not None:
        rival, sentence = withheld
        reasons = primary_reasons(facts, near, votes, decided_by)
        facts = replace(facts, primary=None)
        roles = Roles(tied=[role(facts, stage1, reasons), role(facts, rival, [sentence])])
    elif stage1 is None:
        roles = Roles(tied=[role(facts, variant, [NO_LEADER]) for variant in near])
    else:
        primary, probe_reason = changed or (stage1, None)
        facts = replace(facts, primary=primary)
        reasons = primary_reasons(facts, near, votes, decided_by)
        if probe_reason is not None:
            reasons = [probe_reason, *reasons]
        roles = roles_beside(facts, role(facts, primary, reasons))
    refused = [Ineligible(variant, reasons) for variant, reasons in refusals.items() if reasons]
    claims = StageOne(stage1, family, grade)
    found = written(facts, roles, refused, claims, finding, probe)
    return found if withheld is None else withhold(found, withheld[1])


def withhold(found: Recommendation, why: str) -> Recommendation:
    """A recommendation without a primary, because two kinds of evidence contradict each other."""
    first, second = (entry.variant for entry in found.tied)
    settles = (
        f"rollouts of {first} and {second} on the same images, with a result per image: the "
        "Stage-2 probe, or `coordexp evaluate` for checkpoints trained elsewhere"
    )
    return replace(found, withheld=why, would_overturn=[], would_take=[settles])


@dataclass(frozen=True)
class StageOne:
    """The choice of Stage-1, before the probe: its leads and its grade."""

    primary: str | None
    family: list[Claim]
    grade: Grade


@dataclass(frozen=True)
class Roles:
    """The holder of each role; `tied` lists the eligible variants if none is primary."""

    primary: Role | None = None
    secondary: Role | None = None
    optional: Sequence[Role] = ()
    tied: Sequence[Role] = ()


def roles_beside(facts: Facts, primary: Role) -> Roles:
    """All roles, once the primary is chosen: the secondary, and every other variant as optional."""
    first, rows, names = primary.variant, facts.rows, facts.rule.metrics
    bar = facts.rule.eligible.max_mae_over_best
    far_behind = not_competitive(rows, bar)
    second = choose_secondary(first, competitive(rows, bar), names)
    secondary = None
    if second is not None:
        secondary = role(facts, second, secondary_reasons(second, first, rows, names))
    optional = []
    for variant in rows:
        if variant not in (first, second):
            reasons = optional_reasons(variant, first, rows, names)
            if variant in far_behind:
                reasons = [far_behind[variant], *reasons]
            optional.append(role(facts, variant, reasons))
    return Roles(primary, secondary, optional)


def role(facts: Facts, variant: str, reasons: list[str]) -> Role:
    """A role held by a variant, with the checkpoint of its median seed."""
    step = facts.comparison.decision_step
    assert step is not None  # the variant has a row at that step
    run = median_run(facts, variant, METRICS[facts.rule.metrics[0]])
    path = run.run.checkpoint(step) if run.run else None
    if path is not None and not path.exists():
        lost = f"its checkpoint at step {step} was not kept (see train.checkpoint_steps)"
        reasons, path = [*reasons, lost], None
    return Role(
        variant=variant,
        seed=run.seed,
        step=step,
        checkpoint=str(path) if path else None,
        sha256=sha256_directory(path) if path else None,
        metrics=dict(facts.rows[variant]),
        reasons=reasons,
    )


def median_run(facts: Facts, variant: str, first: Metric) -> RunData:
    """The run of a variant's median seed on the rule's first metric.

    With an even number of seeds, the better of the two middle ones.
    """
    sign = 1 if first.lower_is_better else -1

    def best_first(row: CurveRow) -> tuple[float, int]:
        return sign * row.values.get(first.name, 0.0), row.seed

    step = facts.comparison.decision_step
    at_step = [r for r in facts.comparison.curves if r.variant == variant and r.step == step]
    seed = sorted(at_step, key=best_first)[(len(at_step) - 1) // 2].seed
    return next(run for run in facts.runs if (run.variant, run.seed) == (variant, seed))


def written(
    facts: Facts,
    roles: Roles,
    refused: list[Ineligible],
    stage1: StageOne,
    finding: ProbeFinding | None,
    probe: StudyProbe,
) -> Recommendation:
    """The decision, together with everything that the card says about it."""
    study, step = facts.study, facts.comparison.decision_step
    return Recommendation(
        schema_version=findings.SCHEMA_VERSION,
        study=StudyName(study.study, study.hash8, study.seeds),
        decision_step=step,
        confidence=Confidence(
            stage1_ranking=stage1.grade,
            stage2_fitness=probe_grade(finding, probe, facts.rule.probe.signal),
        ),
        primary=roles.primary,
        secondary=roles.secondary,
        optional=list(roles.optional),
        tied=list(roles.tied),
        ineligible=refused,
        withheld=None,
        rehearsal=rehearsal(facts.rule, facts.runs, probe),
        alerts=alerts(facts),
        confirmatory=stage1.family,
        probe=finding,
        evidence=evidence(facts),
        audit=AuditSummary(
            passed=facts.audit.passed,
            verdicts={run.name: run.verdict for run in facts.audit.runs},
        ),
        would_overturn=would_overturn(facts, stage1.primary, finding, probe),
        would_take=would_take(facts),
        caveats=[*caveats(facts), *names_decide(probe, facts.rule.probe.signal)],
        rule=Rule(text=rule_text(facts.rule, step), sha256=digest(study.rule)),
    )


def rule_text(rule: RuleConfig, step: int | None) -> str:
    bars = rule.eligible
    resolved = ""
    if step is not None and rule.decision_step == "last_common":
        resolved = f" (= {step})"
    return (
        f"Decision step {rule.decision_step}{resolved}, T = {rule.temperature}. "
        f"Eligible: runs that pass the audit, with coordinate mass ≥ {bars.min_coord_mass:g}, "
        f"text accuracy ≥ {bars.min_text_token_acc:g} and, where they were probed, "
        f"{bars.min_parse_rate:g} of their rollouts parsed. "
        f"Primary: ahead on most of {', '.join(rule.metrics)}, ties by that order. "
        "Secondary: the smoothest of the rest with an MAE within "
        f"{bars.max_mae_over_best:g} x the best, if smoother than the primary. Optional: the rest."
    )


def write_recommendation(study_dir: Path, found: Recommendation) -> None:
    """Write recommendation.json, and the card as recommendation.md."""
    findings.write_recommendation(study_dir, found)
    write_text(study_dir / "recommendation.md", card(found, study_dir))
