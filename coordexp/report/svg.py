"""The elements of a drawing: functions from numbers to SVG text, in px, y downwards.

Neutral strokes are INK on PAPER, so that the page can replace both and follow a dark screen. Text stays text
(searchable, and in the page's own font). The bytes depend on nothing but the numbers.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

INK = "#1b1f24"
PAPER = "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
CHARACTER_EM = 0.58  # mean width of a character, on the wide side of the fonts above
CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), "�")  # XML has no way to write them

Point = tuple[float, float]


def element(name: str, content: str = "", **attributes: str | float | None) -> str:
    """`_` in an attribute's name stands for `-`; None leaves it out; `content` is SVG already."""
    written = "".join(
        f' {key.replace("_", "-")}="{value_of(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def value_of(value: str | float) -> str:
    return quoted(value) if isinstance(value, str) else px(value)


def quoted(words: str) -> str:
    return html.escape(words.translate(CONTROLS))


def px(value: float) -> str:
    """To a hundredth of a pixel, as short as can be."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def picture(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """A whole SVG file; `label` is what a screen reader says of it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {px(width)} {px(height)}" width="{px(width)}" '
        f'height="{px(height)}" role="img" aria-label="{quoted(label)}" font-family="{quoted(FONT)}" font-size="12" '
        f'fill="{INK}">\n<rect width="100%" height="100%" fill="{PAPER}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def rule(
    start: Point, end: Point, opacity: float = 1.0, width: float = 1.0, dashes: str | None = None
) -> str:
    """A straight neutral line."""
    (x1, y1), (x2, y2) = start, end
    return element(
        "line",
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
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
) -> str:
    return element(
        "rect", hint(title), x=x, y=y, width=width, height=height, fill=fill, fill_opacity=opacity
    )


def path(
    points: Sequence[Point],
    colour: str,
    width: float = 1.6,
    dashes: str | None = None,
    opacity: float = 1.0,
) -> str:
    """An open line through the points."""
    return element(
        "polyline", points=joined(points), fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dashes,
        stroke_opacity=opacity, stroke_linejoin="round",
    )  # fmt: skip


def area(points: Sequence[Point], colour: str, opacity: float) -> str:
    """A filled polygon without an outline."""
    return element("polygon", points=joined(points), fill=colour, fill_opacity=opacity)


def joined(points: Sequence[Point]) -> str:
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
) -> str:
    """A line of text; `anchor` is start, middle or end, y its baseline."""
    return element(
        "text", quoted(words) + hint(title), x=x, y=y, text_anchor=None if anchor == "start" else anchor,
        font_size=None if size == 12 else size, font_weight=600 if bold else None, fill_opacity=None if opacity == 1 else opacity,
    )  # fmt: skip


def fitted(
    x: float,
    y: float,
    words: str,
    width: float,
    anchor: str = "start",
    size: float = 12,
    bold: bool = False,
) -> str:
    """A name cut to a width in its middle, whole in its tooltip."""
    n_characters = max(5, int(width / (CHARACTER_EM * size)))
    if len(words) <= n_characters:
        return text(x, y, words, anchor, size, bold)
    half = (n_characters - 1) // 2
    return text(x, y, f"{words[:half]}…{words[-half:]}", anchor, size, bold, title=words)


def text_width(words: str, size: float = 12) -> float:
    """About how wide a line of text is."""
    return CHARACTER_EM * size * len(words)


def hint(words: str) -> str:
    """A tooltip, as the content of an element; nothing for no words."""
    return element("title", quoted(words)) if words else ""
