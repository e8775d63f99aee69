"""SVG elements: functions from numbers to SVG text, in px, y downwards.

Neutral strokes are INK on PAPER, so that the page can replace both colours in dark mode. Text stays
text: it is searchable and uses the page's font. Equal numbers give equal bytes.

Elements that show a number have `data-` attributes (`data-mark`, `data-variant`, `data-step`, …),
so that a script or a test can find them. They do not change the appearance.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

INK = "#1b1f24"
PAPER = "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CHARACTER_EM = 0.58  # mean width of a character in em, a high estimate for the fonts above

# XML cannot hold these control characters, not even escaped.
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), "�")

Point = tuple[float, float]
Data = Mapping[str, str | int]  # name -> value of `data-` attributes


def element(
    name: str, content: str = "", data: Data | None = None, **attributes: str | float | None
) -> str:
    """One element with its attributes.

    Args:
        name: the tag.
        content: the SVG inside the element.
        data: `data-` attributes, named without that prefix.
        attributes: `_` in a name becomes `-`; an attribute that is None is left out.
    """
    written = []
    for key, value in attributes.items():
        if value is not None:
            written.append(f' {key.replace("_", "-")}="{_attribute_value(value)}"')
    for key, datum in (data or {}).items():
        written.append(f' data-{key}="{quoted(str(datum))}"')
    opening = name + "".join(written)
    return f"<{opening}>{content}</{name}>" if content else f"<{opening}/>"


def _attribute_value(value: str | float) -> str:
    return quoted(value) if isinstance(value, str) else px(value)


def quoted(words: str) -> str:
    """Escaped for text and for attributes."""
    return html.escape(words.translate(_CONTROLS))


def px(value: float) -> str:
    """To a hundredth of a pixel, without trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def document(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """A complete SVG file; `label` is its description for screen readers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {px(width)} {px(height)}" '
        f'width="{px(width)}" height="{px(height)}" role="img" aria-label="{quoted(label)}" '
        f'font-family="{quoted(FONT)}" font-size="12" fill="{INK}">\n'
        f'<rect width="100%" height="100%" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def group(data: Data, parts: Iterable[str]) -> str:
    """Elements that belong together, such as those of one panel."""
    return element("g", "\n" + "\n".join(parts) + "\n", data)


def rule(
    start: Point,
    end: Point,
    opacity: float = 1.0,
    width: float = 1.0,
    dashes: str | None = None,
    data: Data | None = None,
) -> str:
    """A straight neutral line."""
    return element(
        "line",
        data=data,
        x1=start[0],
        y1=start[1],
        x2=end[0],
        y2=end[1],
        stroke=INK,
        stroke_width=width,
        stroke_opacity=opacity,
        stroke_dasharray=dashes,
    )


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str = INK,
    opacity: float = 1.0,
    title: str = "",
    data: Data | None = None,
) -> str:
    """A filled rectangle; `title` is its tooltip."""
    return element(
        "rect",
        tooltip(title),
        data,
        x=x,
        y=y,
        width=width,
        height=height,
        fill=fill,
        fill_opacity=opacity,
    )


def path(
    points: Sequence[Point],
    colour: str,
    width: float = 1.6,
    dashes: str | None = None,
    opacity: float = 1.0,
    data: Data | None = None,
) -> str:
    """An open line through the points."""
    return element(
        "polyline",
        data=data,
        points=joined(points),
        fill="none",
        stroke=colour,
        stroke_width=width,
        stroke_dasharray=dashes,
        stroke_opacity=opacity,
        stroke_linejoin="round",
    )


def area(points: Sequence[Point], colour: str, opacity: float, data: Data | None = None) -> str:
    """A filled polygon without an outline."""
    return element("polygon", data=data, points=joined(points), fill=colour, fill_opacity=opacity)


def joined(points: Sequence[Point]) -> str:
    """Points in the form of the attribute `points` of a line or polygon."""
    return " ".join(f"{px(x)},{px(y)}" for x, y in points)


def text(
    x: float,
    y: float,
    words: str,
    anchor: str = "start",
    size: float = 12,
    bold: bool = False,
    opacity: float = 1.0,
    title: str = "",
    data: Data | None = None,
) -> str:
    """A line of text; `anchor` is start, middle or end, `y` its baseline, `title` its tooltip."""
    # Attributes with the document's defaults (start, 12 px, opaque) are not written.
    attributes: dict[str, str | float] = {"x": x, "y": y}
    if anchor != "start":
        attributes["text_anchor"] = anchor
    if size != 12:
        attributes["font_size"] = size
    if bold:
        attributes["font_weight"] = 600
    if opacity != 1:
        attributes["fill_opacity"] = opacity
    return element("text", quoted(words) + tooltip(title), data, **attributes)


def fitted(
    x: float,
    y: float,
    words: str,
    width: float,
    anchor: str = "start",
    size: float = 12,
    bold: bool = False,
    data: Data | None = None,
) -> str:
    """Text shortened in its middle to a width in px; the full text is then its tooltip."""
    n_characters = max(5, int(width / (CHARACTER_EM * size)))
    if len(words) <= n_characters:
        return text(x, y, words, anchor, size, bold, data=data)
    half = (n_characters - 1) // 2
    cut = f"{words[:half]}…{words[-half:]}"
    return text(x, y, cut, anchor, size, bold, title=words, data=data)


def text_width(words: str, size: float = 12) -> float:
    """The approximate width of a line of text, in px."""
    return CHARACTER_EM * size * len(words)


def tooltip(words: str) -> str:
    """A tooltip, as the content of an element; nothing for no words."""
    return element("title", quoted(words)) if words else ""
