"""The decision rule as functions on plain data: eligible variants, the primary, the secondary.

Choices depend on metric values only, never on the order in which variants are listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordexp.analysis.audit.findings import Audit
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, REGISTRY, Metric, metric
from coordexp.study.inputs import RunData, by_variant

Values = Mapping[str, Mapping[str, float]]  # variant -> its metrics at the decision step


def eligibility(
    runs: Sequence[RunData], audit: Audit, rows: Values, rule: RuleConfig
) -> dict[str, list[str]]:
    """For each variant, the reasons why it may not hold a role; empty if it may.

    A variant fails if any of its seeds diverged or failed the audit. A bar is not applied to a
    variant without its metric.
    """
    return {
        v: [*failures(v, mine, audit), *below_bars(v, rows, rule)]
        for v, mine in by_variant(runs).items()
    }


def not_competitive(rows: Values, max_over_best: float) -> dict[str, str]:
    """Eligible variants whose MAE is too far behind the best to be chosen, with the reason.

    They stay among the primary's rivals, so that a larger lead never lowers a grade.
    """
    maes = {v: row["expected_bin_mae"] for v, row in rows.items() if "expected_bin_mae" in row}
    found = {}
    for variant, mae in maes.items():
        best = min(maes.values())
        if mae > max_over_best * best:
            found[variant] = (
                f"not competitive: MAE {mae:.1f} bins is over {max_over_best:g} x the best, "
                f"{best:.1f}"
            )
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


def below_bars(variant: str, rows: Values, rule: RuleConfig) -> list[str]:
    if variant not in rows:
        return [f"{variant} has no evaluation at the decision step"]
    row = rows[variant]
    bars = (
        ("coord_mass", rule.eligible.min_coord_mass),
        ("text_token_acc", rule.eligible.min_text_token_acc),
    )
    reasons = []
    for name, bar in bars:
        if name in row and row[name] < bar:
            reasons.append(f"{REGISTRY[name].label} {row[name]:.3f} is below the bar {bar:g}")
    return reasons


def shared_metrics(rows: Values, names: Sequence[str]) -> list[Metric]:
    """The rule's metrics that every eligible variant has, in the declared order."""
    return [metric(name) for name in names if rows and all(name in row for row in rows.values())]


def choose_primary(
    rows: Values, names: Sequence[str]
) -> tuple[str | None, dict[str, list[str]], str]:
    """Choose the variant that is best on the most shared metrics (plurality).

    If several variants win equally many, the first metric in the declared order that one of them
    won decides. A metric on which the best variants are exactly equal has no winner.

    Returns:
        The variant (None if no variant is eligible or no metric has a winner), the metrics that
        each variant won, and how it was decided.
    """
    won: dict[str, list[str]] = {variant: [] for variant in rows}
    if not rows:
        return None, won, "no variant is eligible"
    if len(rows) == 1:
        return next(iter(rows)), won, "the only eligible variant"
    for m in shared_metrics(rows, names):
        if best := m.best({variant: row[m.name] for variant, row in rows.items()}):
            won[best].append(m.name)
    top = max(len(metrics) for metrics in won.values())
    leaders = [variant for variant, metrics in won.items() if len(metrics) == top]
    if top == 0:
        return None, won, "no metric has a single best variant"
    if len(leaders) == 1:
        return leaders[0], won, "plurality"
    first = next(name for name in names if any(name in won[variant] for variant in leaders))
    return (
        next(v for v in leaders if first in won[v]),
        won,
        f"tie in votes, decided by {METRICS[first].label}",
    )


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
    """The rows without those of `not_competitive`."""
    far_behind = not_competitive(rows, max_over_best)
    return {variant: row for variant, row in rows.items() if variant not in far_behind}


def choose_secondary(primary: str | None, rows: Values, names: Sequence[str]) -> str | None:
    """The smoothest of the other variants; None if it is not smoother than the primary.

    If several are equally smooth, the rule's votes choose among them.
    """
    measured = smoothness(rows)
    if primary is None or len(rows) < 2 or measured is None:
        return None
    flat = {variant: value for variant, value in measured[1].items() if variant != primary}
    smoothest = {
        variant: rows[variant] for variant, value in flat.items() if value == max(flat.values())
    }
    if max(flat.values()) <= measured[1][primary]:
        return None
    return choose_primary(smoothest, names)[0]
