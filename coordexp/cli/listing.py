"""`coordexp list`: the studies, runs, data and base models below results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordexp.analysis.recommendation.card import headline
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.columns import columns, size
from coordexp.cli.overview import InputEntry, Overview, RunEntry, StudyEntry, overview
from coordexp.metrics import METRICS, log_key
from coordexp.storage.files import files_below
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.manifest import require_recorded

SHOWN_METRIC = "expected_bin_mae"
HEADLINE_WIDTH = 100


def listing(results: Path) -> list[str]:
    """The lines of `coordexp list`.

    Raises:
        UserError: a manifest below `results` is damaged, or a log that one records has changed.
    """
    found = overview(results)
    lines = titled("studies, the newest first", [study_row(study) for study in found.studies])
    lines += titled("runs", [run_row(run, found) for run in found.runs])
    inputs = [input_row(entry, len(found.runs_of_data(entry))) for entry in found.data]
    inputs += [input_row(entry, len(found.runs_of_base(entry))) for entry in found.bases]
    lines += titled("data and base models", inputs)
    if found.aside:
        lines += titled("set aside (`coordexp clean` lists them)", [[str(p)] for p in found.aside])
    return lines or [f"{results}: holds no results"]


def titled(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [f"{title}:", *(f"  {line}" for line in columns(rows))]


def study_row(study: StudyEntry) -> list[str]:
    registration = study.registration
    cells = [str(study.path), registration.written_at[:16].replace("T", " ")]
    cells.append(counted(len(registration.runs), "run"))
    if not (study.path / "recommendation.json").exists():
        return [*cells, "not decided", ""]
    decided = read_recommendation(study.path)
    grades = (decided.confidence.stage1_ranking.grade, decided.confidence.stage2_fitness.grade)
    told = headline(decided)
    if len(told) > HEADLINE_WIDTH:
        told = f"{told[: HEADLINE_WIDTH - 1].rstrip()}…"
    return [*cells, " / ".join(dict.fromkeys(grades)), told]


def run_row(entry: RunEntry, found: Overview) -> list[str]:
    names = ", ".join(
        f"{s.registration.study}/{s.registration.hash8}" for s in found.studies_of(entry)
    )
    return [str(entry.path), status_of(entry), last_evaluation(entry), names or "no study"]


def status_of(entry: RunEntry) -> str:
    """An evaluation of a checkpoint from outside has no manifest: nothing was trained."""
    if entry.manifest:
        return entry.manifest.status
    if entry.path.parent.name != "evaluated":
        return "not finished"
    return "evaluated" if entry.run.log.exists() else "not evaluated yet"


def last_evaluation(entry: RunEntry) -> str:
    """The step of the last evaluation, with one metric."""
    require_recorded(entry.run, entry.run.log)
    evals = read_log(entry.run.log).evals if entry.run.log.exists() else {}
    if not evals:
        return "no evaluation"
    step = max(evals)
    value = evals[step].get(log_key(SHOWN_METRIC, "1"))
    metric = METRICS[SHOWN_METRIC]
    return f"step {step}" + ("" if value is None else f", {metric.label} {value:.2f} {metric.unit}")


def input_row(entry: InputEntry, n_runs: int) -> list[str]:
    n_bytes = sum(file.stat().st_size for file in files_below(entry.path))
    return [str(entry.path), size(n_bytes), f"of {counted(n_runs, 'run')}"]


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
