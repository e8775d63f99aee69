"""Readers of a report for tests: the page by sections, tables and cells; a figure by its marks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from coordexp.report.html import write_report
from coordexp.report.svg import PAPER

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]

# --- figures ---


@dataclass(frozen=True)
class Mark:
    """An element of a figure that shows a number."""

    node: ElementTree.Element

    def data(self, key: str) -> str | None:
        return self.node.get(f"data-{key}")

    @property
    def tooltip(self) -> str:
        return self.node.findtext(SVG + "title") or ""

    @property
    def words(self) -> str:
        """Of a text; the whole text where it is cut."""
        return self.tooltip if "…" in (self.node.text or "") else self.node.text or ""

    @property
    def colour(self) -> str | None:
        """Of a line or of a filled shape."""
        fill = self.node.get("fill")
        return self.node.get("stroke") if fill in (None, "none", PAPER) else fill

    @property
    def hollow(self) -> bool:
        return self.node.get("fill") == PAPER

    @property
    def corners(self) -> list[Point]:
        """Of a line or polygon."""
        return corners(self.node)

    @property
    def centre(self) -> Point:
        """Of a circle, a text, or the bounding box of a polygon."""
        for x, y in (("cx", "cy"), ("x", "y")):
            if self.node.get(x):
                return float(self.node.get(x, "")), float(self.node.get(y, ""))
        xs, ys = zip(*self.corners, strict=True)
        return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2

    @property
    def top_and_bottom(self) -> Point:
        """Of a rectangle."""
        top = float(self.node.get("y", ""))
        return top, top + float(self.node.get("height", ""))


def corners(node: ElementTree.Element) -> list[Point]:
    """The points of a line or polygon; none for other elements."""
    points = []
    for pair in node.get("points", "").split():
        x, y = pair.split(",")
        points.append((float(x), float(y)))
    return points


class Drawing:
    """A figure, or one panel of it."""

    def __init__(self, root: ElementTree.Element) -> None:
        self.root = root
        self.nodes = list(root.iter())

    def panel(self, name: str, **data: str) -> Drawing:
        """The one panel of this name and these `data-` attributes."""
        (found,) = self.panels(panel=name, **data)
        return found

    def panels(self, **data: str) -> list[Drawing]:
        groups = [node for node in self.nodes if node.tag == SVG + "g"]
        return [Drawing(node) for node in groups if has_data(node, data)]

    def marks(self, kind: str, **data: str | int) -> list[Mark]:
        """The marks of a kind with these `data-` attributes, in the order they are drawn."""
        return [Mark(node) for node in self.nodes if has_data(node, {"mark": kind, **data})]

    def texts(self) -> list[str]:
        return [node.text or "" for node in self.nodes if node.tag == SVG + "text"]

    def axis_labels(self, axis: str = "y") -> list[Mark]:
        return [Mark(node) for node in self.nodes if has_data(node, {"axis": axis})]

    def y_axis(self, log: bool = False) -> Callable[[float], float]:
        """The y axis of a panel as its labels give it: px -> value."""
        labels = {}
        for label in self.axis_labels("y"):
            labels[float(label.words.replace("−", "-"))] = label.centre[1] - 4
        (low, y_low), (high, y_high) = min(labels.items()), max(labels.items())

        def read(y: float) -> float:
            share = (y - y_low) / (y_high - y_low)
            return low * (high / low) ** share if log else low + share * (high - low)

        return read


def has_data(node: ElementTree.Element, data: dict[str, str | int]) -> bool:
    return all(node.get(f"data-{key}") == str(value) for key, value in data.items())


def figures(study: Path) -> dict[str, Drawing]:
    """The figures of a study's report, by name."""
    report = write_report(study)
    files = report.parent.glob("figures/*.svg")
    return {file.stem: Drawing(ElementTree.fromstring(file.read_text())) for file in files}


# --- the page ---

VOID = {"br", "meta", "link", "img", "hr", "input"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BREAKS = {"td", "th", "tr", "br", "li", "p", "dt", "dd", "summary", "caption", *HEADINGS}
QUESTIONS = [
    "evidence",
    "snapshots",
    "curves",
    "audit",
    "temperature",
    "plateau",
    "rollouts",
    "rule",
    "runs",
    "again",
    "terms",
]


@dataclass
class Node:
    """An element of the page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This element and all within, in order."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, *tags: str) -> list[Node]:
        return [node for node in self.walk() if node.tag in tags]

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    @property
    def text(self) -> str:
        """Its words without those of figures; blanks are single."""
        return re.sub(r"\s+", " ", "".join(words_of(self))).strip()


def words_of(node: Node) -> Iterator[str]:
    if node.tag in ("svg", "style", "script"):
        return
    if node.tag in BREAKS:
        yield " "
    for child in node.children:
        if isinstance(child, str):
            yield child
        else:
            yield from words_of(child)


class TreeBuilder(HTMLParser):
    """Builds the elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@dataclass(frozen=True)
class PageTable:
    """A table of the page: cells by the first cell of their row and the heading of their column."""

    node: Node

    @property
    def caption(self) -> str:
        return " ".join(caption.text for caption in self.node.all("caption"))

    @property
    def headings(self) -> list[str]:
        """Without the small print: arrows, units and margins."""
        return [heading_of(cell) for cell in self.node.all("thead")[0].all("th")]

    @property
    def rows(self) -> list[list[Node]]:
        rows = []
        for body in self.node.all("tbody"):
            rows += [row.all("td") for row in body.all("tr") if row.all("td")]
        return rows

    @property
    def groups(self) -> dict[str, PageTable]:
        """The rows under each line that names a group."""
        found = {}
        for body in self.node.all("tbody"):
            title = body.all("th")[0].text
            found[title] = PageTable(Node("table", {}, [self.node.all("thead")[0], body]))
        return found

    def cell(self, row: str, column: str) -> Node:
        """The one cell in this row and column."""
        place = self.headings.index(column)
        (found,) = [cells[place] for cells in self.rows if cells[0].text == row]
        return found

    def text(self, row: str, column: str) -> str:
        return self.cell(row, column).text

    def row(self, first: str) -> list[str]:
        """The texts of a row behind its first cell."""
        (found,) = [cells[1:] for cells in self.rows if cells[0].text == first]
        return [cell.text for cell in found]


def heading_of(cell: Node) -> str:
    plain = [child for child in cell.children if isinstance(child, str) or child.tag != "small"]
    return Node("th", {}, plain).text


class Page:
    """A report: its elements, its sections and its tables."""

    def __init__(self, html: str) -> None:
        self.html = html
        self.root = TreeBuilder(html).root
        (self.body,) = self.root.all("body")

    @property
    def nodes(self) -> list[Node]:
        return list(self.root.walk())

    @property
    def tags(self) -> set[str]:
        return {node.tag for node in self.nodes}

    @property
    def text(self) -> str:
        return self.body.text

    @property
    def tables(self) -> dict[str, PageTable]:
        return tables_of(self.root)

    @property
    def card(self) -> Node:
        """All before the figures."""
        (header,) = self.root.all("header")
        return header

    @property
    def front(self) -> list[Node]:
        """The sections of the figures that stand in front."""
        return [node for node in self.root.all("section") if "front" in node.classes]

    @property
    def unfolded(self) -> Node:
        """The body without what is folded; the words on which one clicks stay."""
        return without_folds(self.body)

    def section(self, question: str) -> Node:
        """The folded part that answers a question, without the question."""
        assert question in QUESTIONS
        (fold,) = [node for node in self.nodes if node.attributes.get("id") == question]
        return fold


def without_folds(node: Node) -> Node:
    """A copy in which each `<details>` is no more than its summary."""
    children: list[Node | str] = []
    for child in node.children:
        if isinstance(child, str):
            children.append(child)
        elif child.tag == "details":
            children += [without_folds(part) for part in child.all("summary")[:1]]
        else:
            children.append(without_folds(child))
    return Node(node.tag, node.attributes, children)


def tables_of(node: Node) -> dict[str, PageTable]:
    """The tables within an element, by name."""
    named = {}
    for table in node.all("table"):
        named[str(table.attributes["id"]).removeprefix("table-")] = PageTable(table)
    return named


def bullets_of(node: Node) -> list[str]:
    return [item.text for item in node.all("li")]


def paragraphs_of(node: Node) -> list[str]:
    return [paragraph.text for paragraph in node.all("p")]


def page(study: Path) -> Page:
    """The report of a study, written and read."""
    return Page(write_report(study).read_text())
