"""Reading a report back: the page by its sections, a figure by its marks and, through the axis labels, their values."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from coordexp.report.figures import draw
from coordexp.report.html import page_values, read_study, write_report
from coordexp.study.inputs import load_runs

SVG = "{http://www.w3.org/2000/svg}"


class Drawing:
    """What a test asks of an SVG: its elements, their tooltips, where they stand."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        self.nodes = list(self.root.iter())

    def all(self, name: str, **attributes: str) -> list[ElementTree.Element]:
        wanted = {key.replace("_", "-"): content for key, content in attributes.items()}
        return [
            n
            for n in self.nodes
            if n.tag == SVG + name and all(n.get(k) == v for k, v in wanted.items())
        ]

    def texts(self) -> list[str]:
        return [node.text or "" for node in self.all("text")]

    def hinted(self, words: str) -> list[ElementTree.Element]:
        """Marks whose tooltip begins with these words."""
        return [
            n
            for n in self.nodes
            if n.tag != SVG + "text" and (n.findtext(SVG + "title") or "").startswith(words)
        ]


def centre(mark: ElementTree.Element) -> tuple[float, float]:
    """The middle of a circle or of a polygon's bounding box."""
    if mark.tag == SVG + "circle":
        return float(mark.get("cx", "")), float(mark.get("cy", ""))
    xs, ys = zip(*corners(mark), strict=True)
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def corners(mark: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in mark.get("points", "").split()]  # type: ignore[misc]


def figures(study: Path) -> dict[str, Drawing]:
    content = read_study(study)
    values = page_values(content)
    svgs = draw(content, load_runs(study), values["primary"], values["leads"], values["looks"])
    return {name: Drawing(svg) for name, svg in svgs.items()}


def axis(
    drawing: Drawing,
    x_between: tuple[float, float],
    y_between: tuple[float, float],
    log: bool = False,
) -> Callable[[float], float]:
    """A panel's y axis, read off two of its labels: px -> value."""
    labels = {
        float(n.text.replace("−", "-")): float(n.get("y", "")) - 4
        for n in drawing.all("text", text_anchor="end")
        if n.text and re.fullmatch(r"−?[\d.]+", n.text)
        and x_between[0] < float(n.get("x", "")) < x_between[1] and y_between[0] < float(n.get("y", "")) < y_between[1]
    }  # fmt: skip
    (low, y_low), (high, y_high) = min(labels.items()), max(labels.items())

    def read(y: float) -> float:
        share = (y - y_low) / (y_high - y_low)
        return low * (high / low) ** share if log else low + share * (high - low)

    return read


QUESTIONS = [
    "evidence",
    "snapshots",
    "curves",
    "audit",
    "temperature",
    "plateau",
    "slices",
    "losses",
    "rollouts",
    "caveats",
    "rule",
    "runs",
    "again",
]


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes, its text, its sections."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.words = html, [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words.append(
            " " if tag in ("td", "th", "tr", "br", "li", "p", "dt", "dd", "summary") else ""
        )

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def section(self, question: str) -> str:
        """The text of one question, without its figures."""
        start = self.html.index(f'<h2 id="{question}"')
        following = QUESTIONS[QUESTIONS.index(question) + 1 :]
        html = self.html[start : self.html.index(f'<h2 id="{following[0]}"') if following else None]
        return Page(re.sub(r"<svg.*?</svg>", "", html, flags=re.S)).text

    @property
    def card(self) -> str:
        return Page(self.html[: self.html.index("<nav")]).text


def page(study: Path) -> Page:
    return Page(write_report(study).read_text())
