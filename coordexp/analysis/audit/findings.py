"""What the audit of a study found: the types of audit.json, its reader and its writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coordexp.storage.files import write_csv
from coordexp.storage.logs.log import Doubt
from coordexp.study.study_files import read_study_file, write_study_file


@dataclass(frozen=True)
class Check:
    """One check of one run. `passed` is None where there is something to know that sets no bar."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class RatioPair:
    """An eval row and the nearest train row before it, of one loss family.

    ratio: train over eval.
    subset_ratio: train over the evaluation of train images; None without such an evaluation.
    """

    step: int
    train_step: int
    ratio: float
    subset_ratio: float | None


@dataclass(frozen=True)
class FamilyRatios:
    """The train/eval ratios of one loss family.

    n, median, min, max: of the pairs from step `from_step` on; None where there are none.
    """

    pairs: list[RatioPair]
    from_step: int
    n: int
    median: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class RunAudit:
    """What was found for and against one run.

    grad_accumulation_steps: from the log, else from the configuration; None where neither says.
    families: the ratios of every loss family that the log holds, by the family's key.
    verdict, why: "not finite", "swapped" (the log of another variant), "missing", or a verdict on
        the ratios (`faults.judge`); and its reason.
    overfit_ratio: eval loss over that of the audited train images at the end; None without these.
    not_checked: what could not be judged, and for want of which file.
    doubts: what is doubtful about the run's figures, and what follows from each doubt.
    passed: the verdict is sound and no check failed; the run may be recommended.
    """

    variant: str
    seed: int
    grad_accumulation_steps: float | None
    families: dict[str, FamilyRatios]
    verdict: str
    why: str
    overfit_ratio: float | None
    checks: list[Check]
    not_checked: list[str]
    doubts: list[Doubt]
    passed: bool

    @property
    def name(self) -> str:
        return f"{self.variant} s{self.seed}"


@dataclass(frozen=True)
class Audit:
    """The audit of a study.

    differences: settings outside `variant` that are not the same in every candidate.
    passed: the names of the runs that may be recommended.
    control_differences: settings outside `variant` in which only controls differ. They confound
        what a control explains, and nothing else.
    """

    runs: list[RunAudit]
    differences: list[str]
    passed: list[str]
    control_differences: list[str] = field(default_factory=list)


def read_audit(study_dir: Path) -> Audit:
    """Raises UserError: audit.json is missing or of another form."""
    return read_study_file(study_dir / "audit.json", Audit)


def write_audit(study_dir: Path, audit: Audit) -> None:
    """Write audit.json, and audit.csv with a row per run and loss family."""
    rows = [
        {
            "variant": run.variant,
            "seed": run.seed,
            "family": family,
            "verdict": run.verdict,
            "passed": run.passed,
            "from_step": ratios.from_step,
            "n": ratios.n,
            "median": ratios.median,
            "min": ratios.min,
            "max": ratios.max,
        }
        for run in audit.runs
        for family, ratios in run.families.items()
    ]
    write_study_file(study_dir / "audit.json", audit)
    write_csv(study_dir / "audit.csv", rows)
