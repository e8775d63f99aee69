"""Tables of the page as files: CSV for programs, LaTeX (booktabs) for papers."""

from __future__ import annotations

import csv
import io
import re

from coordexp.report.numbers import MINUS, NONE
from coordexp.report.table import Cell, Part, Table

FORMULA = ("=", "+", "-", "@")

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "²": r"\textsuperscript{2}",
    "✓": r"$\surd$",
    "✗": r"$\times$",
    "…": r"\dots{}",
    "–": "--",
    "[": "{[}",  # after a line break, LaTeX would take it for the break's own argument
    "]": "{]}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_LATEX |= {character: f"\\{character}" for character in "&%$#_"}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def to_csv(table: Table) -> str:
    """One line for each row; lines of a cell are joined by `; `. A cell without a value is empty.

    The groups of a table are its first column. Minus signs are hyphens, as programs read them. A
    text that a spreadsheet would run as a formula stands behind an apostrophe.
    """
    grouped = any(row.group for row in table.rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heading = [as_text(plain(column.heading)) for column in table.columns]
    writer.writerow(["group", *heading] if grouped else heading)
    for row in table.rows:
        cells = [
            plain(cell) if column.numeric else as_text(plain(cell))
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        writer.writerow([as_text(row.group), *cells] if grouped else cells)
    return out.getvalue()


def as_text(words: str) -> str:
    """Words that no spreadsheet takes for a formula: a doubt may begin with the key of a log."""
    return f"'{words}" if words.startswith(FORMULA) else words


def plain(cell: Cell) -> str:
    """The words of a cell in one line, without arrows."""
    lines = ["".join(part.words for part in line).strip() for line in cell.lines]
    words = "; ".join(line for line in lines if line)
    words = words.replace(MINUS, "-").replace("↓", "").replace("↑", "").strip()
    return "" if words == NONE else words


def to_latex(table: Table) -> str:
    """A `table` environment that needs the package booktabs."""
    kinds = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    if table.caption:
        lines.append(rf"\caption{{{escaped(table.caption)}}}")
    lines += [rf"\label{{tab:{table.name}}}", rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    lines.append(" & ".join(latex_cell(c.heading, c.numeric) for c in table.columns) + r" \\")
    lines.append(r"\midrule")
    group = ""
    for row in table.rows:
        if row.group != group:
            if group:
                lines.append(r"\addlinespace")
            group = row.group
            lines.append(
                rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\textit{{{escaped(group)}}}}} \\"
            )
        cells = [
            latex_cell(cell, column.numeric)
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_cell(cell: Cell, numeric: bool) -> str:
    """The lines of a cell, one above the other; a best value is bold."""
    lines = ["".join(latex_part(part) for part in line) for line in cell.lines]
    if "best" in cell.tone.split():
        lines = [rf"\textbf{{{line}}}" for line in lines]
    if len(lines) < 2:
        return "".join(lines)
    side, stacked = "r" if numeric else "l", r" \\ ".join(lines)
    return rf"\shortstack[{side}]{{{stacked}}}"


def latex_part(part: Part) -> str:
    """Words in the style of their part."""
    words = escaped(part.words)
    if part.style == "bold":
        return rf"\textbf{{{words}}}"
    if part.style in ("code", "soft-code", "name"):
        return rf"\texttt{{{words}}}"
    if part.style in ("small", "soft"):
        return rf"{{\footnotesize {words}}}"
    return words


def escaped(words: str) -> str:
    """Text that LaTeX sets as it stands."""
    return _SPECIAL.sub(lambda found: _LATEX[found.group()], words)
