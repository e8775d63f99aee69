"""The numbers of the page, and what its tables make of the study's files."""

from __future__ import annotations

import pytest

from coordexp.analysis.audit.findings import Audit, Check, RunAudit
from coordexp.report.log_tables import Statement, check_table, not_checked
from coordexp.report.numbers import (
    duration,
    lead_value,
    metric_value,
    moment,
    number,
    percent,
    probability,
)
from coordexp.report.table import Table, bold, cell, column, name, small, words


@pytest.mark.parametrize(
    ("value", "form", "written"),
    [
        (None, ",.0f", "–"),
        (float("nan"), ",.0f", "–"),
        (13756, ",.0f", "13,756"),
        (1.2e-7, ".1e", "1.2e−07"),
        (-3, "+.1f", "−3.0"),
        (-0.04, "+.1f", "0.0"),
        (0.04, "+.1f", "0.0"),
    ],
)
def test_number_has_a_true_minus_and_no_signed_zero(value, form: str, written: str) -> None:
    assert number(value, form) == written


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [(0.5, "bins", "+0.50"), (-0.001, "bins", "0.00"), (-0.00016, "", "−0.0002")],
)
def test_lead_has_a_sign(value: float, unit: str, written: str) -> None:
    assert lead_value(value, unit) == written


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [(None, "", "–"), (0.12345, "", "0.1235"), (12.345, "bins", "12.35")],
)
def test_metric_has_the_decimals_of_its_unit(value, unit: str, written: str) -> None:
    assert metric_value(value, unit) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0.0, "< 0.01"), (1.0, "> 0.99"), (0.985, "0.98")],
)
def test_probability_is_never_zero_or_one(value, written: str) -> None:
    assert probability(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(None, "–"), (13.4, "13 s"), (190, "3 min"), (9000, "2.5 h")],
)
def test_duration_has_the_unit_of_its_length(seconds, written: str) -> None:
    assert duration(seconds) == written


def test_moment_is_given_to_the_minute_in_utc() -> None:
    assert moment(None) == "–"
    assert moment("2026-11-23T19:22:14+00:00") == "2026-11-23 19:22 UTC"


def test_percent_is_a_whole_number() -> None:
    assert percent(0.256) == "26"


# --- tables ---


def test_cell_keeps_its_lines_and_styles() -> None:
    made = cell((name("pure_ce"), " s0"), bold("+0.5"), small("better"))
    assert [[part.style for part in line] for line in made.lines] == [
        ["name", ""],
        ["bold"],
        ["small"],
    ]
    assert made.words == "pure_ce s0 +0.5 better"


def test_row_of_another_length_is_refused() -> None:
    table = Table("some", [*words("one"), column("two", numeric=True)])
    table.add(cell("a"), cell("b"))
    with pytest.raises(ValueError, match="table some: 1 cells for 2 columns"):
        table.add(cell("a"))


def audited(*outcomes: tuple[bool | None, str]) -> Audit:
    """Runs of which each has one check with this outcome and detail, and one gap of that name."""
    runs = []
    for seed, (passed, detail) in enumerate(outcomes):
        runs.append(
            RunAudit(
                variant="v",
                seed=seed,
                grad_accumulation_steps=None,
                families={},
                verdict="consistent",
                why="",
                overfit_ratio=None,
                checks=[Check("same data", passed, detail)],
                not_checked=[detail],
                doubts=[],
                passed=True,
            )
        )
    return Audit(runs, differences=[], passed=[])


def checked(*outcomes: tuple[bool | None, str]) -> tuple[str, list[str]]:
    """The outcome and the findings of the one check."""
    (row,) = check_table(audited(*outcomes), with_manifests=True).rows
    title, outcome, findings = row.cells
    assert title.words == "same data"
    return outcome.words, ["".join(part.words for part in line) for line in findings.lines]


def test_finding_of_all_runs_is_told_once() -> None:
    assert checked((True, "x"), (True, "x")) == ("✓", ["x"])


def test_check_fails_where_any_run_fails() -> None:
    assert checked((True, "x"), (False, "y"), (None, "z")) == (
        "✗ 1 of 3",
        ["x v s0", "y v s1", "z v s2"],
    )


def test_check_without_a_bar_has_no_sign() -> None:
    assert checked((None, "x"), (None, "x")) == ("", ["x"])


def test_finding_without_words_is_its_outcome() -> None:
    assert checked((True, ""), (False, "y")) == ("✗ 1 of 2", ["passed v s0", "y v s1"])


def test_gaps_name_their_runs_unless_all_have_them() -> None:
    assert not_checked(audited((True, "x"), (True, "y"))) == [
        Statement("x", ["v s0"]),
        Statement("y", ["v s1"]),
    ]
    assert not_checked(audited((True, "x"), (True, "x"))) == [Statement("x", [])]
