"""The figure of what the picture is worth: each candidate with the right one, and with another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.report import plot
from coordexp.report.numbers import number
from coordexp.report.plot import DOTTED, SMALL, WIDTH, Figure, Panel
from coordexp.report.scales import Scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import Data, fitted, group, path, rule, text, text_width

TOP, ROW = 58.0, 44.0  # px: of the first row; height of a row
MAX_LABEL_WIDTH, GAP, AXIS_ROOM = 190.0, 34.0, 26.0  # px
GUESS = "a guess without any picture"


def sight(probe: StudyProbe, looks: Mapping[str, Look]) -> Figure | None:
    """F1 and MAE of each candidate with the right picture (filled) and another one (hollow).

    None where no pictures were exchanged.
    """
    shown = {v: values for v, values in probe.means.items() if "visual_contribution" in values}
    if not shown:
        return None
    label_width = min(MAX_LABEL_WIDTH, 14 + max(text_width(variant) for variant in shown))
    column = (WIDTH - label_width) / 2
    bottom = TOP + ROW * len(shown)
    blind = probe.blind
    panels = (
        ("f1_50", "boxes found: class-agnostic F1@.5", blind.f1_50 if blind else None, True),
        ("mae", "error of a coordinate: MAE, bins", blind.mae_given_box if blind else None, False),
    )
    parts = []
    for i, variant in enumerate(shown):
        y = TOP + ROW * (i + 0.5) + 4
        parts.append(fitted(label_width - 12, y, variant, label_width - 12, "end"))
    for i, (key, title, guess, higher) in enumerate(panels):
        left = label_width + i * column + GAP
        pairs = {
            variant: (values[f"{key}_right"], values[f"{key}_swapped"])
            for variant, values in shown.items()
            if f"{key}_right" in values and f"{key}_swapped" in values
        }
        if not pairs:
            continue
        most = max([value for pair in pairs.values() for value in pair] + [guess or 0.0])
        end = min(1.0, max(0.1, 1.15 * most)) if higher else 1.08 * most or 1.0
        x = Scale(0, end, left, left + column - 2 * GAP)
        panel = Panel(x, Scale(0, len(shown), TOP, bottom))
        rows = {variant: row for row, variant in enumerate(shown)}
        drawn = sight_panel(panel, title, higher, pairs, guess, rows, looks)
        parts.append(group({"panel": key}, drawn))
    label = "Each candidate with the right picture, with another one, and without any"
    words = (
        "Filled: the right picture. Hollow: the picture of another image. Where both coincide, the "
        "candidate does not look. Rollouts (left) and teacher forcing (right), before the fine-tune"
    )
    if blind:
        words += f"; {blind.rolled_out} and {blind.images} images"
    return plot.figure("sight", label, words + ".", bottom + AXIS_ROOM, parts)


def sight_panel(
    panel: Panel,
    title: str,
    higher: bool,
    pairs: Mapping[str, tuple[float, float]],
    guess: float | None,
    rows: Mapping[str, int],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """A row for each variant: (right picture, another picture), joined by a line."""
    side = "higher" if higher else "lower"
    yield text(panel.left, 16, title, size=13, bold=True)
    yield text(panel.right, 16, f"{side} is better", "end", SMALL, opacity=0.7)
    yield from plot.grid_x(panel)
    form = ".2f" if higher else ".0f"
    if guess is not None:
        x = panel.x(guess)
        yield rule((x, panel.top - 8), (x, panel.bottom), 0.7, 1.4, DOTTED, data={"mark": "guess"})
        half = text_width(GUESS, SMALL) / 2 + 12
        middle = min(max(x, panel.left + half), panel.right - half)
        words = f"{GUESS}: {number(guess, form)}"
        yield text(middle, panel.top - 14, words, "middle", SMALL, opacity=0.8)
    for variant, (right, swapped) in pairs.items():
        y = panel.y(rows[variant] + 0.5)
        look = looks[variant]
        at, other = (panel.x(right), y), (panel.x(swapped), y)
        data: Data = {"mark": "worth", "variant": variant}
        yield path([at, other], look.colour, 2.4, opacity=0.5, data=data)
        for name, point, value in (("swapped", other, swapped), ("right", at, right)):
            data = {"mark": name, "variant": variant}
            title = f"{variant}, {name} picture: {number(value, form)}"
            yield glyph(look, point, 5, hollow=name == "swapped", title=title, data=data)
        beyond = 9 if right >= swapped else -9
        yield text(
            at[0] + beyond, y + 4, number(right, form), "start" if beyond > 0 else "end", SMALL
        )
        if abs(at[0] - other[0]) > 12:
            yield text(
                other[0] - beyond,
                y + 4,
                number(swapped, form),
                "end" if beyond > 0 else "start",
                SMALL,
                opacity=0.75,
            )
