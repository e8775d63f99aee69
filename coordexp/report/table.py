"""Tables of the page as data: a header and rows of cells. Templates only lay them out.

A cell is built from lines, a line from parts: `cell(bold("+0.50"), "[+0.20, +0.80]")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordexp.report.numbers import NONE


@dataclass(frozen=True)
class Part:
    """Words of a cell, and how they are set.

    style: "" (plain), "bold", "small", "soft", "bad", "code", "soft-code", or "name": a variant,
        behind its marker.
    title: a tooltip.
    """

    words: str
    style: str = ""
    title: str = ""


Line = str | Part | tuple[str | Part, ...]


@dataclass(frozen=True)
class Cell:
    """Lines of parts.

    tone: classes of the style sheet, such as "best", "good", "bad" or "nowrap".
    """

    lines: tuple[tuple[Part, ...], ...]
    tone: str = ""

    @property
    def words(self) -> str:
        """The text of the cell, without its style."""
        return " ".join("".join(part.words for part in line) for line in self.lines)


@dataclass(frozen=True)
class Column:
    """The head of a column; columns of numbers are aligned right."""

    heading: Cell
    numeric: bool = False


@dataclass(frozen=True)
class Row:
    """A row; in a table with groups, rows follow a line with the name of their group."""

    cells: list[Cell]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A table. `name` is unique on the page; `tone` as in a cell."""

    name: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    caption: str = ""
    tone: str = ""

    def add(self, *cells: Cell, group: str = "") -> None:
        """Append a row.

        Raises:
            ValueError: the number of cells is not that of the columns.
        """
        if len(cells) != len(self.columns):
            raise ValueError(
                f"table {self.name}: {len(cells)} cells for {len(self.columns)} columns"
            )
        self.rows.append(Row(list(cells), group))


def cell(*lines: Line, tone: str = "") -> Cell:
    """A cell of these lines; one without lines is empty."""
    return Cell(tuple(_parts(line) for line in lines), tone)


def _parts(line: Line) -> tuple[Part, ...]:
    if not isinstance(line, tuple):
        line = (line,)
    return tuple(part if isinstance(part, Part) else Part(part) for part in line)


def empty() -> Cell:
    """A cell without a value."""
    return cell(NONE)


def column(*lines: Line, numeric: bool = False) -> Column:
    """The head of a column, in the same form as a cell."""
    return Column(cell(*lines), numeric)


def words(*headings: str) -> list[Column]:
    """Heads of columns that hold words."""
    return [column(heading) for heading in headings]


def numbers(*headings: str) -> list[Column]:
    """Heads of columns that hold numbers."""
    return [column(heading, numeric=True) for heading in headings]


def name(variant: str) -> Part:
    """A variant behind its marker."""
    return Part(variant, "name")


def small(text: str, title: str = "") -> Part:
    """Secondary words, smaller and soft."""
    return Part(text, "small", title)


def bold(text: str) -> Part:
    return Part(text, "bold")


def soft(text: str) -> Part:
    return Part(text, "soft")


def code(text: str) -> Part:
    return Part(text, "code")


def listed(parts: Sequence[Part]) -> tuple[str | Part, ...]:
    """Parts of one line, with commas between them."""
    line: list[str | Part] = []
    for part in parts:
        if line:
            line.append(", ")
        line.append(part)
    return tuple(line)
