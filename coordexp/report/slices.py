"""The figure of MAE by coordinate slot and by box size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coordexp.analysis.comparison.findings import Comparison
from coordexp.report import plot
from coordexp.report.plot import SMALL, Figure, Panel
from coordexp.report.scales import Scale, y_scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import Data, group, text

SIZES = {"small": "small, < 32² px", "medium": "medium", "large": "large, ≥ 96² px"}
TOP, BOTTOM = 30.0, 210.0  # px, of both panels
SLOT_PANEL, SIZE_PANEL = (46.0, 360.0), (412.0, 700.0)  # px, left and right
KEY_LEFT, KEY_WIDTH = 720, 230  # px
CAPTION = (
    "MAE of the expected bin over the validation tokens of each slice, all seeds together. Box "
    "sizes are COCO's."
)


def slices(comparison: Comparison, looks: Mapping[str, Look]) -> Figure | None:
    """MAE in bins with the number of tokens behind each; None without token tables."""
    found = comparison.slices
    if not found:
        return None
    slots = slice_panel(
        {variant: of.by_slot for variant, of in found.items()},
        {variant: of.n_by_slot for variant, of in found.items()},
        "MAE by coordinate slot, bins",
        SLOT_PANEL,
        looks,
    )
    sizes = slice_panel(
        {variant: of.by_box_size for variant, of in found.items()},
        {variant: of.n_by_box_size for variant, of in found.items()},
        "MAE by box size, bins",
        SIZE_PANEL,
        looks,
    )
    shown = {variant: looks[variant] for variant in found}
    notes = [f"step {comparison.decision_step}, lower is better", "n: coordinate tokens"]
    parts = [
        group({"panel": "slots"}, slots),
        group({"panel": "sizes"}, sizes),
        *plot.key(KEY_LEFT, TOP, KEY_WIDTH, shown, notes, lines=False),
    ]
    label = "MAE by coordinate slot and by box size"
    return plot.figure("slices", label, CAPTION, BOTTOM + 40, parts)


def slice_panel(
    maes: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, Mapping[str, int]],
    title: str,
    left_and_right: tuple[float, float],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """A column of points for each slice, the variants side by side.

    `maes` and `counts` (of tokens) are given by variant and slice.
    """
    slices: dict[str, None] = {}  # as an ordered set
    values: list[float] = []
    for by_slice in maes.values():
        slices |= dict.fromkeys(by_slice)
        values += by_slice.values()
    n_slices, n_variants = max(1, len(slices)), len(maes)
    panel = Panel(Scale(0, n_slices, *left_and_right), y_scale(values, TOP, BOTTOM, from_zero=True))
    yield from plot.heading(panel, title)
    yield from plot.grid_y(panel)
    # The variants of a slice share four fifths of its width, at most 14 px apart.
    pitch = min(14.0, 0.8 * panel.width / n_slices / n_variants)
    for i, name in enumerate(slices):
        middle = panel.x(i + 0.5)
        data: Data = {"axis": "x", "slice": name}
        yield text(middle, BOTTOM + 17, SIZES.get(name, name), "middle", SMALL, data=data)
        n_tokens = token_count({of_variant.get(name, 0) for of_variant in counts.values()})
        data = {"mark": "count", "slice": name}
        yield text(middle, BOTTOM + 32, n_tokens, "middle", 11, opacity=0.7, data=data)
        for j, (variant, by_slice) in enumerate(maes.items()):
            if name in by_slice:
                x = middle + (j - (n_variants - 1) / 2) * pitch
                title = f"{variant}, {name}: {by_slice[name]:.2f} bins"
                data = {"mark": "point", "variant": variant, "slice": name}
                at = (x, panel.y(by_slice[name]))
                yield glyph(looks[variant], at, 4.2, title=title, data=data)


def token_count(counts: set[int]) -> str:
    """`n = 764`, or `n = 764 to 800` where the variants' counts differ."""
    if len(counts) == 1:
        return f"n = {min(counts):.0f}"
    return f"n = {min(counts):.0f} to {max(counts):.0f}"
