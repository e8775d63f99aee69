"""The decision rule as functions on plain data: who is eligible, who is competitive, the secondary.

Choices depend on metric values only, never on the order in which variants are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.recommendation.findings import Assertion, Statement
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, REGISTRY, Metric, best, metric
from coordexp.storage.logs.dialects import OWN
from coordexp.study.inputs import RunData, by_variant

Values = Mapping[str, Mapping[str, float]]  # variant -> its metrics at the decision step


def eligibility(
    runs: Sequence[RunData], audit: Audit, rows: Values, rule: RuleConfig
) -> dict[str, list[str]]:
    """For each variant, the reasons why it may not hold a role; empty if it may.

    A variant fails if any of its seeds diverged or failed the audit. A bar is not applied to a
    variant without its metric, nor on a value that may be of another quantity (`doubts.py`).
    """
    return {
        v: [*failures(v, mine, audit), *below_bars(v, mine, rows, rule)]
        for v, mine in by_variant(runs).items()
    }


def not_competitive(rows: Values, max_over_best: float) -> dict[str, Statement]:
    """Eligible variants whose MAE is too far behind the best for the secondary, with the reason.

    They stay among the primary's rivals, so that a larger lead never lowers a grade.
    """
    name = "expected_bin_mae"
    maes = {variant: row[name] for variant, row in rows.items() if name in row}
    lowest = min(maes.values(), default=0.0)
    found = {}
    for variant, mae in maes.items():
        if mae > max_over_best * lowest:
            text = (
                f"not competitive: MAE {mae:.1f} bins is over {max_over_best:g} x the best, "
                f"{lowest:.1f}"
            )
            assertions = [
                Assertion("value", variant, None, name, "=", mae),
                Assertion("best value", None, None, name, "=", lowest),
                Assertion("value", variant, None, name, ">", max_over_best * lowest),
                Assertion("max MAE over best", None, None, None, "=", max_over_best),
            ]
            found[variant] = Statement("reasons", text, assertions)
    return found


def failures(variant: str, runs: Sequence[RunData], audit: Audit) -> list[str]:
    """Seeds that diverged or failed the audit."""
    diverged = {run.seed: run.manifest.reason for run in runs if run.diverged and run.manifest}
    reasons = [f"seed {seed} {reason}" for seed, reason in diverged.items()]
    for entry in audit.runs:
        if entry.variant != variant or entry.passed or entry.seed in diverged:
            continue
        failed = [f"{c.name}: {c.detail}" for c in entry.checks if c.passed is False]
        why = "; ".join(failed) or f"{entry.verdict}, {entry.why}"
        reasons.append(f"seed {entry.seed} failed the audit: {why}")
    return reasons


def below_bars(variant: str, runs: Sequence[RunData], rows: Values, rule: RuleConfig) -> list[str]:
    """The bars that a variant fails.

    The text accuracy of another trainer's log is not judged: it may count coordinate tokens
    (`doubts.py`). A coordinate mass is judged whoever computed it.
    """
    if variant not in rows:
        return [f"{variant} has no metric that is compared at the decision step"]
    row = rows[variant]
    bars = {"coord_mass": rule.eligible.min_coord_mass}
    if own_definitions(runs):
        bars["text_token_acc"] = rule.eligible.min_text_token_acc
    reasons = []
    for name, bar in bars.items():
        if name in row and row[name] < bar:
            reasons.append(f"{REGISTRY[name].label} {row[name]:.3f} is below the bar {bar:g}")
    return reasons


def own_definitions(runs: Sequence[RunData]) -> bool:
    """Whether this project wrote the logs of these runs, so that values are as metrics.py defines.

    Other trainers write a text accuracy that counts every token where they do not find out which
    are coordinates.
    """
    return all(run.manifest is not None or run.log.dialect == OWN.name for run in runs)


def shared_metrics(rows: Values, names: Sequence[str]) -> list[Metric]:
    """The rule's metrics that every eligible variant has, in the declared order."""
    return [metric(name) for name in names if rows and all(name in row for row in rows.values())]


def won_metrics(rows: Values, names: Sequence[str]) -> dict[str, list[str]]:
    """The shared metrics on which each variant is ahead of all others.

    A metric on which the best variants are exactly equal is nobody's.
    """
    won: dict[str, list[str]] = {variant: [] for variant in rows}
    for m in shared_metrics(rows, names):
        winner = m.best({variant: row[m.name] for variant, row in rows.items()})
        if winner is not None:
            won[winner].append(m.name)
    return won


def smoothness(rows: Values) -> tuple[str, dict[str, float]] | None:
    """How flat each variant's coordinate distributions are: the metric used, and values by variant.

    The metric is the entropy or, if a variant has none, minus p(GT). Higher is flatter. None if
    neither metric is known for every variant.
    """
    if all("entropy" in row for row in rows.values()):
        return "entropy", {variant: row["entropy"] for variant, row in rows.items()}
    if all("p_gt_mean" in row for row in rows.values()):
        return "p_gt_mean", {variant: -row["p_gt_mean"] for variant, row in rows.items()}
    return None


def competitive(rows: Values, max_over_best: float) -> Values:
    """The rows without those of `not_competitive`, and without those that lack an MAE to judge."""
    far_behind = not_competitive(rows, max_over_best)
    judged = any("expected_bin_mae" in row for row in rows.values())
    return {
        variant: row
        for variant, row in rows.items()
        if variant not in far_behind and ("expected_bin_mae" in row or not judged)
    }


def choose_secondary(primary: str | None, rows: Values, rule: RuleConfig) -> str | None:
    """The smoothest competitive variant, if it is smoother than the primary beyond the margin.

    If several are equally smooth, the better on the rule's first metric. None if that is equal too.
    """
    measured = smoothness(rows)
    if primary is None or len(rows) < 2 or measured is None:
        return None
    name, flatness = measured
    near = competitive(rows, rule.eligible.max_mae_over_best)
    others = {v: flatness[v] for v in near if v != primary}
    if not others:
        return None
    smoothest = best(others, lower_is_better=False)
    if others[smoothest[0]] - flatness[primary] <= rule.margins.get(name, 0.0):
        return None
    if len(smoothest) == 1:
        return smoothest[0]
    first = METRICS[rule.metrics[0]]
    if not all(first.name in rows[variant] for variant in smoothest):
        return None
    return first.best({variant: rows[variant][first.name] for variant in smoothest})
