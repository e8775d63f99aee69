"""The workflow's single steps. Each reads the files of the step before it and writes its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coordexp.errors import UserError
from coordexp.storage.files import point_link
from coordexp.study.preregistration import preregister, read_preregistration


def preregister_study(settings: str) -> None:
    """Write down which runs a study consists of and the rule that decides, before training.

    Raises:
        UserError: the settings are not a JSON object, or no study can be made of them.
    """
    from coordexp.study.plan import plan_study

    try:
        config = json.loads(settings)
    except (ValueError, RecursionError) as error:
        raise UserError(f"step preregister: the --config is not JSON: {settings}") from error
    if not isinstance(config, dict):
        raise UserError(f"step preregister: the --config must be an object: {settings}")
    print(preregister(plan_study(config)))


def audit_study(study: Path) -> None:
    """Collect the finished runs of a study (runs.json) and audit them (audit.json, audit.csv)."""
    from coordexp.analysis.audit.audit import audit
    from coordexp.analysis.audit.findings import write_audit
    from coordexp.study.inputs import collect

    write_audit(study, audit(collect(study)))


def compare_study(study: Path) -> None:
    """Compare the runs of a study (comparison.json, comparison.csv)."""
    from coordexp.analysis.comparison.compare import compare
    from coordexp.analysis.comparison.findings import write_comparison
    from coordexp.study.inputs import load_runs

    plan = read_preregistration(study)
    write_comparison(study, compare(load_runs(study), plan.decision_rule, plan.vision))


def collect_probes(study: Path) -> None:
    """Collect the probes of a study's runs, or the rollouts handed over (probe.json)."""
    from coordexp.analysis.comparison.findings import read_comparison
    from coordexp.analysis.comparison.handed_over import handed_over_study
    from coordexp.analysis.comparison.log_aggregates import log_aggregates
    from coordexp.analysis.comparison.probe_findings import write_study_probe
    from coordexp.analysis.comparison.probes import probe_directories, probe_study, read_probes
    from coordexp.study.inputs import candidates, load_runs

    step = read_comparison(study).decision_step
    plan = read_preregistration(study)
    runs = candidates(load_runs(study))
    if rollouts := plan.rollouts:
        unused = list(probe_directories(runs, step, plan.probe))
        found = handed_over_study(runs, rollouts, step, unused)
    else:
        found = probe_study(runs, read_probes(runs, step, plan.probe), step, plan.probe)
    write_study_probe(study, replace(found, aggregates=log_aggregates(runs, step)))


def recommend_study(study: Path) -> None:
    """Apply the decision rule (recommendation.json, recommendation.md)."""
    from coordexp.analysis.audit.findings import read_audit
    from coordexp.analysis.comparison.findings import read_comparison
    from coordexp.analysis.comparison.probe_findings import read_study_probe
    from coordexp.analysis.recommendation.recommend import recommend, write_recommendation
    from coordexp.study.inputs import load_runs

    plan = read_preregistration(study)
    audit, comparison = read_audit(study), read_comparison(study)
    write_recommendation(
        study, recommend(plan, load_runs(study), audit, comparison, read_study_probe(study))
    )


def report_study(study: Path) -> None:
    """Draw the figures and write the self-contained report.html."""
    from coordexp.report.html import write_report

    write_report(study)


def track_study(study: Path) -> None:
    """Import a study's runs, comparison and recommended checkpoints into MLflow (mlflow.json)."""
    from coordexp.analysis.recommendation.findings import read_recommendation
    from coordexp.tracking.mlflow_import import create_database
    from coordexp.tracking.study_import import import_study

    read_recommendation(study)  # before a database is made for a study that is refused
    create_database()
    print(import_study(study).ui_link)


def publish_study(study: Path) -> None:
    """Point results/<study>/latest at this study.

    Raises:
        UserError: a file of the study has changed since it was decided.
    """
    from coordexp.analysis.recommendation.findings import read_recommendation

    read_recommendation(study)
    point_link(study.parent / "latest", study)


STUDY_STEPS: dict[str, Callable[[Path], None]] = {
    "audit": audit_study,
    "compare": compare_study,
    "collect-probes": collect_probes,
    "recommend": recommend_study,
    "report": report_study,
    "track": track_study,
    "publish": publish_study,
}
STEP_NAMES = ("preregister", *STUDY_STEPS)


def run_step(name: str, argument: str) -> None:
    """Run a step by its name.

    Args:
        name: one of STEP_NAMES.
        argument: the study directory; of `preregister` the settings as JSON.
    """
    if name == "preregister":
        preregister_study(argument)
    else:
        STUDY_STEPS[name](Path(argument))
