"""The holder of each role: its sentences, and the checkpoint of its median seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.analysis.comparison.findings import CurveRow
from coordexp.analysis.recommendation.confidence import Facts
from coordexp.analysis.recommendation.findings import Decision, Role, Statement
from coordexp.analysis.recommendation.reasons import (
    optional_reasons,
    primary_reasons,
    secondary_reasons,
)
from coordexp.analysis.recommendation.rule import choose_secondary, not_competitive
from coordexp.analysis.recommendation.statements import texts
from coordexp.metrics import METRICS, Metric
from coordexp.storage.digest_store import known_sha256_directory
from coordexp.storage.manifest import require_checkpoint
from coordexp.study.inputs import RunData


@dataclass(frozen=True)
class Roles:
    """The holder of each role, and the sentences that say why.

    tied: both candidates, where the primary is withheld.
    """

    primary: Role | None = None
    secondary: Role | None = None
    optional: Sequence[Role] = ()
    tied: Sequence[Role] = ()
    statements: Sequence[Statement] = ()


def roles_of(facts: Facts, decision: Decision) -> Roles:
    """All roles: the primary, the secondary, and every other eligible variant as optional."""
    first, rows = facts.primary, facts.rows
    if first is None:
        return Roles()
    far_behind = not_competitive(rows, facts.rule.eligible.max_mae_over_best)
    second = choose_secondary(first, rows, facts.rule)
    reasons = primary_reasons(facts, decision)
    primary, said = role(facts, first, reasons), list(reasons)
    secondary = None
    if second is not None:
        reasons = secondary_reasons(second, facts)
        secondary, said = role(facts, second, reasons), said + reasons
    optional = []
    for variant in rows:
        if variant not in (first, second):
            reasons = optional_reasons(variant, facts)
            if variant in far_behind:
                reasons = [far_behind[variant], *reasons]
            optional.append(role(facts, variant, reasons))
            said += reasons
    return Roles(primary, secondary, optional, statements=said)


def role(facts: Facts, variant: str, statements: Sequence[Statement]) -> Role:
    """A role held by a variant, with the checkpoint of its median seed."""
    step = facts.comparison.decision_step
    assert step is not None  # the variant has a row at that step
    run = median_run(facts, variant, METRICS[facts.rule.metrics[0]])
    path = run.run.checkpoint(step) if run.run else None
    if path is not None and path.exists() and run.run and run.manifest:
        require_checkpoint(run.run, run.manifest, step)
    reasons = texts(statements)
    if path is not None and not path.exists():
        lost = f"its checkpoint at step {step} was not kept (see train.checkpoint_steps)"
        reasons, path = [*reasons, lost], None
    return Role(
        variant=variant,
        seed=run.seed,
        step=step,
        checkpoint=str(path) if path else None,
        sha256=known_sha256_directory(path) if path else None,
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
