"""What each folded part of the page answers, in a few words beside its question."""

from __future__ import annotations

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.report import curve_tables
from coordexp.report.study_files import StudyFiles
from coordexp.study.preregistration import Preregistration


def answers(study: StudyFiles) -> dict[str, str]:
    """By question; none where the part is no more than its numbers."""
    since = study.recommendation.decision.settled_from
    found = {
        "audit": of_audit(study.audit),
        "curves": "" if since is None else f"the same from step {since}",
        "temperature": of_temperature(study.comparison),
        "plateau": of_plateau(study.comparison),
        "rollouts": of_rollouts(study),
        "rule": of_rule(study.preregistration),
    }
    return {question: words for question, words in found.items() if words}


def of_audit(audit: Audit) -> str:
    """✓ only where every run was audited and passed."""
    n_runs, n_passed = len(audit.runs), sum(run.passed for run in audit.runs)
    if n_passed < n_runs:
        return f"✗ {n_runs - n_passed} of {n_runs} runs failed"
    return f"✓ {n_passed} of {n_runs} runs passed" if n_runs else ""


def of_temperature(comparison: Comparison) -> str:
    if len(curve_tables.temperatures_read(comparison)) < 2:
        return "not known: one temperature only"
    if curve_tables.temperature_disagreements(comparison):
        return "some metrics change their best variant"
    return "the same best variants at each"


def of_plateau(comparison: Comparison) -> str:
    """How many runs are flat on MAE."""
    rows = [row for row in comparison.plateau if row.metric == "expected_bin_mae"]
    if not rows:
        return ""
    return f"MAE is flat in {sum(row.flat for row in rows)} of {len(rows)} runs"


def of_rollouts(study: StudyFiles) -> str:
    if not study.probe.candidates and study.probe.probed_otherwise:
        return "probed with different settings"
    if not study.probe.candidates:
        return "not probed"
    finding = study.recommendation.probe
    return finding.outcome if finding else ""


def of_rule(plan: Preregistration) -> str:
    n_after = len(post_hoc(plan))
    return f"after {n_after} of {len(plan.runs)} runs" if n_after else "before"


def post_hoc(plan: Preregistration) -> list[str]:
    """The names of the runs whose results existed before the rule was written down."""
    return [run.name for run in plan.runs if run.existing and not run.registered]
