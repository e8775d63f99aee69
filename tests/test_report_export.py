"""The files beside the page: tables as CSV and LaTeX, figures as SVG, each with a link."""

from __future__ import annotations

import csv
import io
import re
from contextlib import chdir
from pathlib import Path

import pytest
from report_readers import Page
from reports import change, study_files

from coordexp.report.export import escaped, to_csv, to_latex
from coordexp.report.html import write_report
from coordexp.report.table import Row, Table, bold, cell, column, name, numbers, small, words


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def small_table() -> Table:
    columns = [*words("variant"), column("MAE ", small("bins"), numeric=True), *numbers("T_1 & 2")]
    table = Table("some", columns, caption="50 % of the level")
    table.add(cell(name("pure_ce")), cell("−0.50", "[−1.00, +0.10]"), cell("–"), group="at T = 1")
    table.add(cell(name("mixed")), cell(bold("+2.00"), tone="best"), cell("3"), group="at own T")
    return table


def test_csv_has_groups_plain_minus_signs_and_empty_cells() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(small_table()))))
    assert rows == [
        ["group", "variant", "MAE; bins", "T_1 & 2"],
        ["at T = 1", "pure_ce", "-0.50; [-1.00, +0.10]", ""],
        ["at own T", "mixed", "+2.00", "3"],
    ]


def test_latex_is_a_booktabs_table_of_escaped_words() -> None:
    latex = to_latex(small_table())
    assert r"\caption{50 \% of the level}" in latex
    assert r"\begin{tabular}{lrr}" in latex
    for command in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert latex.count(command) == 1
    assert r"T\_1 \& 2 \\" in latex
    assert r"\texttt{pure\_ce} & \shortstack[r]{$-$0.50 \\ {[}$-$1.00, +0.10{]}} & -- \\" in latex
    assert r"\multicolumn{3}{l}{\textit{at own T}} \\" in latex
    assert r"\textbf{\textbf{+2.00}}" in latex


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    assert escaped(r"a\b{c}") == r"a\textbackslash{}b\{c\}"
    assert escaped("x_1 ≥ 5 % ↓") == r"x\_1 $\geq$ 5 \% $\downarrow$"


def test_table_without_rows_of_groups_has_no_column_for_them() -> None:
    table = Table("plain", words("a"), rows=[Row([cell("x")])])
    assert to_csv(table) == "a\nx\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study with its report."""
    root = tmp_path_factory.mktemp("export")
    with chdir(root):
        return root / write_report(study_files(seeds=3)).parent


def test_each_table_and_figure_of_the_page_is_a_linked_file(written: Path) -> None:
    found = Page((written / "report.html").read_text())
    links = [str(a.attributes["href"]) for a in found.root.all("a")]
    files = [str(path.relative_to(written)) for path in written.glob("*/*")]
    assert sorted(link for link in links if "/" in link) == sorted(files)
    for table in found.tables:
        assert {f"tables/{table}.csv", f"tables/{table}.tex"} <= set(links)
    buttons = {button.attributes["data-png"] for button in found.root.all("button")}
    assert buttons == {path.stem for path in written.glob("figures/*.svg")}


def test_latex_of_every_table_is_balanced_and_ascii_or_known(written: Path) -> None:
    for path in written.glob("tables/*.tex"):
        latex = path.read_text()
        bare = re.sub(r"\\[\\{}%&$#_]", "", latex)
        assert bare.count("{") == bare.count("}"), path.name
        assert not re.search(r"\\\\\s*\[", latex), f"{path.name}: a line break takes [ as its own"
        body = latex.partition(r"\midrule")[2].replace(r"\&", "")
        rows = [
            line for line in body.splitlines() if line.endswith(r"\\") and "multicol" not in line
        ]
        columns = re.search(r"begin\{tabular\}\{([lr]+)\}", latex)
        assert columns is not None
        assert {line.count("&") + 1 for line in rows} == {len(columns.group(1))}, path.name
        assert not re.search(r"[^\x00-\x7f]", latex), path.name


def test_tables_of_an_earlier_report_are_removed() -> None:
    study = study_files(("pure_ce", "mixed"))
    write_report(study)
    assert (study / "tables/stability.csv").exists()
    write_report(change(study, "comparison", lambda c: c.update(stability={})))
    assert not (study / "tables/stability.csv").exists()
