"""The decision rule: who is eligible, who leads, which roles follow, and how sure that is.

Every reason is generated from the numbers at the decision step, and true of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from coordexp.analysis.card import card
from coordexp.analysis.confidence import caveats, ranking_confidence, stage2_confidence, would_overturn
from coordexp.analysis.inputs import RunData, by_variant
from coordexp.config import digest
from coordexp.files import read_json, sha256_directory, write_json, write_text
from coordexp.metrics import METRICS, Metric, metric

SCHEMA_VERSION = 1
SCHEMA = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "recommendation.schema.json"

Values = dict[str, dict[str, Any]]  # variant -> row of the decision snapshot


def recommend(
    study: dict[str, Any], runs: Sequence[RunData], audit: dict[str, Any], comparison: dict[str, Any]
) -> dict[str, Any]:
    """The recommendation of a study, ready for recommendation.json.

    `study` is its preregistration. Roles are null where no run may hold them, and the reasons say why.
    """
    rule = study["rule"]
    rows: Values = {row["variant"]: row for snapshot in comparison["snapshots"][:1] for row in snapshot["rows"]}
    verdicts = {variant: eligibility(variant, runs, audit, rows, rule) for variant in by_variant(runs)}
    eligible = {variant: rows[variant] for variant, reasons in verdicts.items() if not reasons}
    primary, votes, decided_by = choose_primary(eligible, rule["metrics"])
    tied = [] if primary or not eligible else sorted(eligible)
    rest = [variant for variant in eligible if variant != primary] if primary else []
    secondary = choose_secondary(primary, rest, eligible)
    step = comparison["decision_step"]

    def entry(variant: str, reasons: list[str]) -> dict[str, Any]:
        return role_entry(variant, runs, eligible, step, rule["metrics"][0], reasons)

    optional = [variant for variant in rest if variant != secondary]
    facts = {"rows": eligible, "primary": primary, "votes": votes, "comparison": comparison, "rule": rule, "runs": runs,
             "audit": audit, "study": study, "ineligible": {v: r for v, r in verdicts.items() if r}}  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "study": {"name": study["study"], "hash8": study["hash8"], "seeds": study["seeds"]},
        "decision_step": step,
        "confidence": {"stage1_ranking": ranking_confidence(facts), "stage2_fitness": stage2_confidence()},
        "primary": entry(primary, primary_reasons(primary, eligible, votes, decided_by)) if primary else None,
        "secondary": entry(secondary, secondary_reasons(secondary, primary, eligible)) if primary and secondary else None,
        "optional": [entry(v, optional_reasons(v, primary, eligible, rule["metrics"])) for v in optional] if primary else [],
        "tied": [entry(variant, ["equal to every other eligible variant on the votes that count"]) for variant in tied],
        "ineligible": [{"variant": variant, "reasons": reasons} for variant, reasons in verdicts.items() if reasons],
        "evidence": evidence(facts),
        "audit": {"passed": audit["passed"], "verdicts": {f"{e['variant']} s{e['seed']}": e["verdict"] for e in audit["runs"]}},
        "would_overturn": would_overturn(facts),
        "caveats": caveats(facts),
        "rule": {"text": rule_text(rule), "sha256": digest(rule)},
    }


def eligibility(variant: str, runs: Sequence[RunData], audit: dict[str, Any], rows: Values, rule: dict[str, Any]) -> list[str]:
    """Why a variant may not hold a role; empty if it may. A bar whose metric no log holds is not applied."""
    mine = [run for run in runs if run.variant == variant]
    diverged = {run.seed: run.manifest["reason"] for run in mine if run.diverged and run.manifest}
    reasons = [f"seed {seed} {reason}" for seed, reason in diverged.items()]
    for e in audit["runs"]:
        if e["variant"] == variant and not e["passed"] and e["seed"] not in diverged:
            failed = [f"{c['name']}: {c['detail']}" for c in e["checks"] if c["passed"] is False]
            reasons.append(f"seed {e['seed']} failed the audit: {'; '.join(failed) or e['verdict'] + ', ' + e['why']}")
    if variant not in rows:
        return reasons or [f"{variant} has no evaluation at the decision step"]
    row, bars = rows[variant], rule["eligible"]
    for name, bar in (("coord_mass", "min_coord_mass"), ("text_token_acc", "min_text_token_acc")):
        if row.get(name) is not None and row[name] < bars[bar]:
            reasons.append(f"{name} {row[name]:.3f} is below the bar {bars[bar]:g}")
    maes = [r["expected_bin_mae"] for r in rows.values() if "expected_bin_mae" in r]
    if "expected_bin_mae" in row and row["expected_bin_mae"] > bars["max_mae_over_best"] * min(maes):
        reasons.append(
            f"MAE {row['expected_bin_mae']:.1f} bins is over {bars['max_mae_over_best']:g} x the best, {min(maes):.1f}"
        )
    return reasons


def shared_metrics(rows: Values, names: Sequence[str]) -> list[Metric]:
    """The rule's metrics that every eligible variant has, in the declared order."""
    return [metric(name) for name in names if all(name in row for row in rows.values())]


def choose_primary(rows: Values, names: Sequence[str]) -> tuple[str | None, dict[str, list[str]], str]:
    """Plurality of the shared metrics; ties by the declared order; exact equality gives None.

    Returns the variant, the metrics each variant won, and how it was decided.
    """
    won: dict[str, list[str]] = {variant: [] for variant in rows}
    if not rows:
        return None, won, "no variant is eligible"
    for m in shared_metrics(rows, names):
        if best := m.best({variant: row[m.name] for variant, row in rows.items()}):
            won[best].append(m.name)
    top = max(len(metrics) for metrics in won.values())
    leaders = [variant for variant, metrics in won.items() if len(metrics) == top]
    if len(rows) == 1:
        return next(iter(rows)), won, "the only eligible variant"
    if top == 0:
        return None, won, "no metric has a single best variant"
    if len(leaders) == 1:
        return leaders[0], won, "plurality"
    first = next(name for name in names if any(name in won[variant] for variant in leaders))
    return next(v for v in leaders if first in won[v]), won, f"tie in votes, decided by {METRICS[first].label}"


def choose_secondary(primary: str | None, rest: Sequence[str], rows: Values) -> str | None:
    """The smoothest of the rest (highest entropy, else lowest p_gt), only if smoother than the primary."""
    if primary is None or not rest:
        return None
    if all(rows[v].get("entropy") is not None for v in (primary, *rest)):
        smoothness = {v: rows[v]["entropy"] for v in (primary, *rest)}
    elif all("p_gt_mean" in rows[v] for v in (primary, *rest)):
        smoothness = {v: -rows[v]["p_gt_mean"] for v in (primary, *rest)}
    else:
        return None
    best = max(rest, key=lambda v: smoothness[v])
    return best if smoothness[best] > smoothness[primary] else None


def role_entry(
    variant: str, runs: Sequence[RunData], rows: Values, step: int, first_metric: str, reasons: list[str]
) -> dict[str, Any]:
    """A role: variant, and the checkpoint of its median seed by the rule's first metric."""
    mine = [run for run in runs if run.variant == variant and step in run.log.evals]
    key = metric(first_metric).key
    ordered = sorted(mine, key=lambda r: next((v for k, v in r.log.evals[step].items() if k.endswith(key)), 0.0))
    chosen = ordered[(len(ordered) - 1) // 2]
    path = chosen.run.checkpoint(step) if chosen.run else None
    kept = path is not None and path.exists()
    if path is not None and not kept:
        reasons = [*reasons, f"its checkpoint at step {step} was not kept (see train.checkpoint_steps)"]
    return {
        "variant": variant,
        "seed": chosen.seed,
        "step": step,
        "checkpoint": str(path) if kept else None,
        "sha256": sha256_directory(path) if kept and path else None,
        "metrics": {name: value for name, value in rows[variant].items() if isinstance(value, float)},
        "reasons": reasons,
    }


def show(name: str, value: float) -> str:
    """A metric's value as the card prints it: `MAE 23.63 bins`, `coord acc 0.218`."""
    m = METRICS[name]
    return f"{m.label} {value:.2f} {m.unit}" if m.unit else f"{m.label} {value:.4f}"


def primary_reasons(primary: str, rows: Values, votes: dict[str, list[str]], decided_by: str) -> list[str]:
    n_metrics = sum(len(won) for won in votes.values())
    won = ", ".join(show(name, rows[primary][name]) for name in votes[primary])
    reasons = [f"best on {len(votes[primary])} of {n_metrics} decided metrics: {won}"] if votes[primary] else []
    reasons += [f"{variant} is best on {', '.join(show(n, rows[variant][n]) for n in names)}" for variant, names in votes.items()
                if names and variant != primary]  # fmt: skip
    return reasons + ([decided_by] if decided_by != "plurality" else [])


def secondary_reasons(secondary: str, primary: str, rows: Values) -> list[str]:
    if rows[secondary].get("entropy") is not None:
        smoother = f"entropy {rows[secondary]['entropy']:.2f} against {rows[primary]['entropy']:.2f} nats"
    else:
        smoother = f"p(GT) {rows[secondary]['p_gt_mean']:.3f} against {rows[primary]['p_gt_mean']:.3f}"
    return [f"smoother than the primary ({smoother}): a hypothesis for Stage-2's continuous losses, to be tested there"]


def optional_reasons(variant: str, primary: str, rows: Values, names: Sequence[str]) -> list[str]:
    """What choosing it instead of the primary costs or gains, metric by metric."""
    parts = []
    for m in shared_metrics(rows, names):
        gap = rows[variant][m.name] - rows[primary][m.name]
        word = "equal" if gap == 0 else "better" if (gap < 0) == m.lower_is_better else "worse"
        parts.append(f"{m.label} {gap:+.2f} {m.unit}".strip() + f" ({word})" if m.unit else f"{m.label} {gap:+.3f} ({word})")
    return ["against the primary: " + ", ".join(parts)]


def evidence(facts: dict[str, Any]) -> list[str]:
    """The numbers behind the ranking: each pair with the primary on each metric of the rule."""
    lines = []
    for d in facts["comparison"]["differences"]:
        if facts["primary"] not in (d["first"], d["second"]):
            continue
        m = METRICS[d["metric"]]
        sign = 1 if d["second"] == facts["primary"] else -1
        other = d["first"] if sign == 1 else d["second"]
        line = f"{m.label}: {facts['primary']} minus {other} = {sign * d['difference']:+.3f}{' ' + m.unit if m.unit else ''}"
        if d["interval"]:
            low, high = sorted((sign * d["interval"]["low"], sign * d["interval"]["high"]))
            line += f", 95 % interval over images [{low:+.3f}, {high:+.3f}]"
        lines.append(line)
    return lines


def rule_text(rule: dict[str, Any]) -> str:
    bars = rule["eligible"]
    return (
        f"Decision step {rule['decision_step']}, T = {rule['temperature']}. Eligible: runs that pass the audit, with coordinate "
        f"mass ≥ {bars['min_coord_mass']:g}, text accuracy ≥ {bars['min_text_token_acc']:g} and MAE within "
        f"{bars['max_mae_over_best']:g} x the best. Primary: best on most of {', '.join(rule['metrics'])}, ties by that order. "
        "Secondary: the smoothest of the rest, if smoother than the primary. Optional: the rest."
    )


def write_recommendation(study_dir: Path, found: dict[str, Any]) -> None:
    """recommendation.json, checked against its JSON Schema, and recommendation.md, the card."""
    jsonschema.validate(found, read_json(SCHEMA))
    write_json(study_dir / "recommendation.json", found)
    write_text(study_dir / "recommendation.md", card(found, study_dir))
