"""Tables on the origin of a study: its rule, earlier registrations, and its runs."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.metrics import METRICS
from coordexp.report.numbers import NONE, duration, moment, number
from coordexp.report.table import Part, Table, cell, code, name, numbers, words
from coordexp.study.preregistration import Preregistration
from coordexp.study.study_runs import StudyRun


def vote_table(preregistration: Preregistration) -> Table:
    """The metrics by which the rule ranks, in its order, with their margins."""
    table = Table("votes", [*words("metrics that decide, in this order"), *numbers("margin")])
    rule = preregistration.decision_rule
    for key in rule.metrics:
        metric = METRICS[key]
        margin = number(rule.margins.get(key), "g")
        table.add(
            cell((f"{metric.label} ", Part(key, "soft-code"))), cell(f"{margin} {metric.unit}")
        )
    return table


def earlier_table(preregistration: Preregistration) -> Table | None:
    """Earlier registrations of a study of this name, or of these runs; None where none is known."""
    if not preregistration.earlier_studies:
        return None
    columns = [*words("study", "written"), *numbers("seeds"), *words("rule", "what changed since")]
    caption = "Earlier registrations of a study of this name, or of these runs"
    table = Table("earlier", columns, caption=caption)
    for earlier in preregistration.earlier_studies:
        rule = "the same"
        if earlier.rule_sha256 != preregistration.rule_sha256:
            rule = f"another, {earlier.rule_sha256[:12]}"
        table.add(
            cell((f"{earlier.study} ", code(earlier.hash8))),
            cell(moment(earlier.written_at)),
            cell(str(earlier.seeds)),
            cell(rule),
            cell("; ".join(earlier.changed) or NONE),
        )
    return table


def trained_table(runs: Sequence[StudyRun]) -> Table | None:
    """The runs that have a manifest; None where none has."""
    trained = [run for run in runs if run.status is not None]
    if not trained:
        return None
    columns = [
        *words("variant"),
        *numbers("seed"),
        *words("hash", "status"),
        *numbers("steps", "tokens seen", "training", "evaluation"),
        *words("finished", "directory"),
    ]
    table = Table("trained", columns, tone="runs")
    for run in trained:
        table.add(
            cell(name(run.variant)),
            cell(str(run.seed)),
            cell(code(str(run.hash8)), tone="nowrap"),
            cell(str(run.status), tone="bad" if run.status == "diverged" else ""),
            cell(f"{number(run.step)} of {number(run.max_steps)}"),
            cell(number(run.tokens_seen)),
            cell(duration(run.train_wall_s)),
            cell(duration(run.eval_wall_s)),
            cell(moment(run.finished_at)),
            cell(code(str(run.directory))),
        )
    return table


def log_table(runs: Sequence[StudyRun]) -> Table | None:
    """The given runs without a manifest; None if there are none."""
    logs = [run for run in runs if run.status is None]
    if not logs:
        return None
    columns = [*words("variant"), *numbers("seed"), *words("kind", "path", "sha256")]
    table = Table("logs", columns, tone="runs")
    for run in logs:
        digest = code(str(run.sha256)[:12])
        table.add(
            cell(name(run.variant)),
            cell(str(run.seed)),
            cell(str(run.kind)),
            cell(code(str(run.log))),
            cell(digest, tone="nowrap"),
        )
    return table


def data_notes(runs: Sequence[StudyRun]) -> list[str]:
    """What the conversion of the runs' data noted, each line once."""
    return list(dict.fromkeys(line for run in runs for line in run.data_notes or ()))


def versions(runs: Sequence[StudyRun]) -> list[str]:
    """Each distinct set of versions that the runs were trained with."""
    lines: dict[str, None] = {}  # as an ordered set
    for run in runs:
        if run.versions:
            line = ", ".join(f"{package} {version}" for package, version in run.versions.items())
            lines[line] = None
    return list(lines)
