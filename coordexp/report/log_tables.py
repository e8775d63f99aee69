"""Tables of the audit: the verdict on each run, the ratios behind it, and the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordexp.analysis.audit.audit import PASSING
from coordexp.analysis.audit.findings import Audit, Check, FamilyRatios, RunAudit
from coordexp.analysis.audit.ratios import FAMILIES
from coordexp.report.numbers import NONE, number
from coordexp.report.table import Cell, Part, Table, cell, column, name, numbers, small, words


@dataclass(frozen=True)
class Statement:
    """A statement about runs. `runs` are their names; empty if it is true of every run."""

    words: str
    runs: list[str]


def families_of(audit: Audit) -> list[str]:
    """The loss families of any run, in order of appearance."""
    families: dict[str, None] = {}  # as an ordered set
    for run in audit.runs:
        families |= dict.fromkeys(run.families)
    return list(families)


def audit_table(audit: Audit) -> Table:
    """The verdict on each run, and the ratios of the objective and its two parts."""
    logged = families_of(audit)
    families = [family for family in FAMILIES if family in logged]
    with_overfit = any(run.overfit_ratio is not None for run in audit.runs)
    columns = [*words("run", "verdict"), *numbers("GAS", "pairs")]
    for family in families:
        columns.append(column(family, small("median [range]"), numeric=True))
    if with_overfit:
        heading = small("same loss of train images")
        columns.append(column("eval over", heading, numeric=True))
    table = Table("audit", columns)
    for run in audit.runs:
        n_pairs = next(iter(run.families.values())).n
        cells = [
            run_cell(run),
            verdict_cell(run),
            cell(number(run.grad_accumulation_steps, "g")),
            cell(str(n_pairs)),
        ]
        cells += [ratio_cell(run.families.get(family)) for family in families]
        if with_overfit:
            cells.append(cell(number(run.overfit_ratio, ".3f")))
        table.add(*cells)
    return table


def run_cell(run: RunAudit) -> Cell:
    return cell((name(run.variant), f" s{run.seed}"), tone="nowrap")


def verdict_cell(run: RunAudit) -> Cell:
    """The verdict on the ratios; a run may still fail because of another check."""
    if run.passed:
        return cell(f"✓ {run.verdict}", tone="nowrap good")
    because = ", failed a check" if run.verdict in PASSING else ""
    return cell(f"✗ {run.verdict}{because}", tone="nowrap bad")


def ratio_cell(ratios: FamilyRatios | None) -> Cell:
    """Median and range of one family's ratios."""
    if ratios is None:
        return cell(small("not applicable"))
    if ratios.median is None:
        return cell(small("missing"))
    spread = f"[{number(ratios.min, '.3f')}, {number(ratios.max, '.3f')}]"
    return cell(number(ratios.median, ".3f"), small(spread))


def term_table(audit: Audit) -> Table | None:
    """The ratios of the terms whose sums are the families; None if no log has any."""
    terms = [family for family in families_of(audit) if family not in FAMILIES]
    if not terms:
        return None
    columns = words("run")
    for term in terms:
        group, slash, own = term.rpartition("/")
        columns.append(column(small(group + slash), own, numeric=True))
    caption = "The same ratios of the terms these losses are made of: median [range]"
    table = Table("terms", columns, caption=caption)
    for run in audit.runs:
        table.add(run_cell(run), *[ratio_cell(run.families.get(term)) for term in terms])
    return table


def check_table(audit: Audit, with_manifests: bool) -> Table:
    """A row for each check: failed if any run fails it, with its findings."""
    source = "log and manifest" if with_manifests else "the logs"
    caption = (
        f"Checks from {source}: ✓ passed, ✗ failed, without a sign what is to be known and sets "
        "no bar"
    )
    by_check: dict[str, dict[str, Check]] = {}
    for run in audit.runs:
        for check in run.checks:
            by_check.setdefault(check.name, {})[run.name] = check
    table = Table("checks", words("check", "", "finding"), caption=caption)
    for title, by_run in by_check.items():
        outcome = outcome_cell([check.passed for check in by_run.values()], len(audit.runs))
        table.add(cell(title), outcome, findings_cell(by_run, len(audit.runs)))
    return table


def outcome_cell(outcomes: Sequence[bool | None], n_runs: int) -> Cell:
    """✗ with the number of runs that fail, ✓ where some pass and none fails, else nothing."""
    n_failed = outcomes.count(False)
    if n_failed:
        return cell(f"✗ {n_failed} of {n_runs}", tone="nowrap bad")
    if True in outcomes:
        return cell("✓", tone="nowrap good")
    return cell("", tone="nowrap")


def findings_cell(by_run: Mapping[str, Check], n_runs: int) -> Cell:
    """Each distinct finding once, with the names of its runs unless it is true of all runs."""
    runs_of: dict[tuple[bool | None, str], list[str]] = {}
    for run, check in by_run.items():
        runs_of.setdefault((check.passed, check.detail), []).append(run)
    lines = []
    for (passed, detail), runs in runs_of.items():
        finding = Part(detail or ("passed" if passed else NONE))
        if passed is False:
            finding = Part(finding.words, "bad")
        line: tuple[str | Part, ...] = (finding,)
        if len(runs) < n_runs:
            line = (finding, " ", small(", ".join(runs)))
        lines.append(line)
    return cell(*lines)


def not_checked(audit: Audit) -> list[Statement]:
    """What could not be checked, each line with the runs that it concerns."""
    runs_of: dict[str, list[str]] = {}
    for run in audit.runs:
        for line in dict.fromkeys(run.not_checked):
            runs_of.setdefault(line, []).append(run.name)
    statements = []
    for line, runs in runs_of.items():
        concerned = runs if len(runs) < len(audit.runs) else []
        statements.append(Statement(line, concerned))
    return statements
