"""The input of a report: the typed files of a study directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.analysis.audit.findings import Audit, read_audit
from coordexp.analysis.comparison.findings import Comparison, read_comparison
from coordexp.analysis.comparison.probe_findings import StudyProbe, read_study_probe
from coordexp.analysis.recommendation.card import headline
from coordexp.analysis.recommendation.findings import Recommendation, read_recommendation
from coordexp.study.preregistration import Preregistration, read_preregistration
from coordexp.study.study_runs import StudyRun, read_study_runs
from coordexp.study.tracked import TrackedStudy, read_tracked_study


@dataclass(frozen=True)
class StudyFiles:
    """The files of a study.

    mlflow: None before the study's import into MLflow, which comes after the report.
    """

    audit: Audit
    comparison: Comparison
    probe: StudyProbe
    recommendation: Recommendation
    runs: list[StudyRun]
    preregistration: Preregistration
    mlflow: TrackedStudy | None

    @property
    def headline(self) -> str:
        """The headline of the card."""
        return headline(self.recommendation)

    @property
    def primary(self) -> str | None:
        """The recommended variant."""
        return self.recommendation.primary.variant if self.recommendation.primary else None

    @property
    def stage1_primary(self) -> str | None:
        """The variant that Stage-1 puts first, even if the probe puts another one first."""
        if self.recommendation.probe:
            return self.recommendation.probe.stage1_ranking[0]
        return self.primary

    @property
    def n_seeds(self) -> int:
        """Seeds per variant."""
        return self.recommendation.study.seeds


def read_study(study_dir: Path) -> StudyFiles:
    """Read the files of a study.

    Raises:
        UserError: one of them is missing or damaged.
    """
    return StudyFiles(
        audit=read_audit(study_dir),
        comparison=read_comparison(study_dir),
        probe=read_study_probe(study_dir),
        recommendation=read_recommendation(study_dir),
        runs=read_study_runs(study_dir),
        preregistration=read_preregistration(study_dir),
        mlflow=read_tracked_study(study_dir),
    )
