"""Tables of other steps, temperatures and the plateau, from hand-made rows."""

from __future__ import annotations

from dataclasses import replace

from coordexp.analysis.comparison.findings import Plateau, Stability
from coordexp.report.curve_tables import blocks_line, plateau_table, span

FIRST = Plateau(
    run="v s0",
    variant="v",
    seed=0,
    metric="w1_to_delta",
    collapse_ends=80,
    from_step=520,
    level=40.0,
    spread=1.0,
    slope_percent_per_100_steps=-3.0,
    flat=False,
)
SECOND = replace(
    FIRST,
    run="v s1",
    seed=1,
    collapse_ends=120,
    level=42.0,
    slope_percent_per_100_steps=0.0,
    flat=True,
)


def test_plateau_is_averaged_over_seeds() -> None:
    table = plateau_table([FIRST, SECOND], n_seeds=2)
    assert table is not None
    (row,) = table.rows
    assert [cell.words for cell in row.cells] == [
        "v",
        "80 to 120",
        "520",
        "41.00 −3.0 to 0.0, 1 of 2 flat",
    ]


def test_plateau_columns_are_in_the_order_of_the_registry() -> None:
    table = plateau_table([FIRST, replace(FIRST, metric="expected_bin_mae")], n_seeds=1)
    assert table is not None
    headings = [column.heading.words for column in table.columns[3:]]
    assert headings == ["MAE bins", "W1 to GT bins"]


def test_plateau_of_a_missing_metric_is_empty() -> None:
    other = replace(FIRST, variant="w", metric="expected_bin_mae")
    table = plateau_table([FIRST, other], n_seeds=1)
    assert table is not None
    assert [row.cells[3].words for row in table.rows] == ["–", "40.00 −3.0, moving"]


def test_no_plateau_gives_no_table() -> None:
    assert plateau_table([], n_seeds=1) is None


def test_span_of_equal_ends_is_one_value() -> None:
    assert span([3, 1, 2], "d") == "1 to 3"
    assert span([2, 2], "d") == "2"
    assert span([-3.01, -2.99], "+.1f") == "−3.0"


def test_changed_winners_without_a_block_are_named_once() -> None:
    stability = Stability(
        winners=[],
        last_winner="a",
        settled_from=None,
        leave_one_block_out=["b", "a", "b", None],
        share=1.0,
    )
    words = [part if isinstance(part, str) else part.words for part in blocks_line(stability)]
    assert "".join(words) == "3 of 4 change it, to b, a tie"
