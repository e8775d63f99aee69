"""The recommendation: the rule applied to a comparison, with its reasons, doubts and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.confidence import Facts, confirmatory, ranking_confidence
from coordexp.analysis.recommendation.doubts import alerts, caveats, would_overturn, would_take
from coordexp.analysis.recommendation.reasons import (
    evidence,
    optional_reasons,
    primary_reasons,
    secondary_reasons,
)
from coordexp.analysis.recommendation.rule import (
    Values,
    choose_primary,
    choose_secondary,
    eligibility,
)
from coordexp.analysis.recommendation.verdict import (
    fitness_grade,
    fitness_verdict,
    parse_failures,
    reconsider,
)
from coordexp.config.digests import digest
from coordexp.config.package import package_data
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, Metric
from coordexp.storage.files import read_json, sha256_directory, write_json, write_text
from coordexp.study.inputs import RunData
from coordexp.study.preregistration import Preregistration

SCHEMA_VERSION = 2
SCHEMA = package_data("schemas") / "recommendation.schema.json"


def recommend(
    study: Preregistration,
    runs: Sequence[RunData],
    audit: Audit,
    comparison: Comparison,
    probe: dict[str, Any],
) -> dict[str, Any]:
    """The recommendation of a study, ready for recommendation.json.

    `study` is its preregistration. Roles are null where no run may hold them, and the reasons say why. The confirmatory
    family is always that of the Stage-1 choice, also where the probe puts another variant first.
    """
    rule = study.decision_rule
    names = rule.metrics
    rows: Values = {row.variant: row.values for row in comparison.decision_rows}
    verdicts = eligibility(runs, audit, rows, rule)
    for variant, reason in parse_failures(probe, rule.eligible.min_parse_rate).items():
        verdicts[variant].append(reason)
    eligible = {variant: rows[variant] for variant, reasons in verdicts.items() if not reasons}
    stage1, votes, decided_by = choose_primary(eligible, names)
    facts = Facts(study, rule, runs, audit, comparison, eligible, stage1)
    family = confirmatory(facts)
    changed = reconsider(stage1, eligible, family, probe, rule)
    primary = changed[0] if changed else stage1
    secondary = choose_secondary(primary, eligible, names)
    fitness = fitness_verdict(
        stage1, choose_secondary(stage1, eligible, names), eligible, probe, rule
    )
    rest = [variant for variant in eligible if variant not in (primary, secondary)]

    def entry(variant: str, reasons: list[str]) -> dict[str, Any]:
        return role_entry(variant, runs, eligible[variant], comparison, METRICS[names[0]], reasons)

    return {
        "schema_version": SCHEMA_VERSION,
        "study": {"name": study.study, "hash8": study.hash8, "seeds": study.seeds},
        "decision_step": comparison.decision_step,
        "confidence": {
            "stage1_ranking": ranking_confidence(facts, family),
            "stage2_fitness": fitness_grade(fitness, probe),
        },
        "primary": entry(
            primary,
            [
                *([changed[1]] if changed else []),
                *primary_reasons(primary, eligible, votes, decided_by),
            ],
        )
        if primary
        else None,
        "secondary": entry(secondary, secondary_reasons(secondary, primary, eligible, names))
        if primary and secondary
        else None,
        "optional": [entry(v, optional_reasons(v, primary, eligible, names)) for v in rest]
        if primary
        else [],
        "tied": [
            entry(v, ["no eligible variant is better than every other on a metric that votes"])
            for v in rest
            if not primary
        ],
        "ineligible": [
            {"variant": variant, "reasons": reasons}
            for variant, reasons in verdicts.items()
            if reasons
        ],
        "alerts": alerts(facts),
        "confirmatory": family,
        "stage2": None if fitness is None else fitness | {"changed_roles": changed is not None},
        "evidence": evidence(facts),
        "audit": {
            "passed": audit.passed,
            "verdicts": {entry.name: entry.verdict for entry in audit.runs},
        },
        "would_overturn": would_overturn(
            facts, probed=fitness is not None and not fitness["confounds"]
        ),
        "would_take": would_take(facts),
        "caveats": caveats(facts),
        "rule": {"text": rule_text(rule, comparison.decision_step), "sha256": digest(study.rule)},
    }


def role_entry(
    variant: str,
    runs: Sequence[RunData],
    row: Mapping[str, float],
    comparison: Comparison,
    first: Metric,
    reasons: list[str],
) -> dict[str, Any]:
    """A role: variant, and the checkpoint of its median seed by the rule's first metric (of two middle ones, the better)."""
    step = comparison.decision_step
    at_step = [r for r in comparison.curves if r.variant == variant and r.step == step]
    ordered = sorted(
        at_step,
        key=lambda r: (
            r.values.get(first.name, 0.0) * (1 if first.lower_is_better else -1),
            r.seed,
        ),
    )
    seed = ordered[(len(ordered) - 1) // 2].seed
    chosen = next(run for run in runs if (run.variant, run.seed) == (variant, seed))
    path = chosen.run.checkpoint(step) if chosen.run and step is not None else None
    kept = path is not None and path.exists()
    if path is not None and not kept:
        reasons = [
            *reasons,
            f"its checkpoint at step {step} was not kept (see train.checkpoint_steps)",
        ]
    return {
        "variant": variant,
        "seed": chosen.seed,
        "step": step,
        "checkpoint": str(path) if kept else None,
        "sha256": sha256_directory(path) if kept and path else None,
        "metrics": dict(row),
        "reasons": reasons,
    }


def rule_text(rule: RuleConfig, step: int | None) -> str:
    bars = rule.eligible
    resolved = f" (= {step})" if step is not None and rule.decision_step == "last_common" else ""
    return (
        f"Decision step {rule.decision_step}{resolved}, T = {rule.temperature}. Eligible: runs that pass the audit, with "
        f"coordinate mass ≥ {bars.min_coord_mass:g}, text accuracy ≥ {bars.min_text_token_acc:g}, MAE within "
        f"{bars.max_mae_over_best:g} x the best and, where they were probed, {bars.min_parse_rate:g} of their rollouts "
        f"parsed. Primary: best on most of {', '.join(rule.metrics)}, ties by that order. "
        "Secondary: the smoothest of the rest, if smoother than the primary. Optional: the rest."
    )


def write_recommendation(study_dir: Path, found: dict[str, Any]) -> None:
    """recommendation.json, checked against its JSON Schema, and recommendation.md, the card."""
    jsonschema.validate(found, read_json(SCHEMA))
    write_json(study_dir / "recommendation.json", found)
    write_text(study_dir / "recommendation.md", card(found, study_dir))
