"""Where the errors are: MAE by coordinate slot and by box size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordexp.report import plot
from coordexp.report.plot import Panel, Scale
from coordexp.report.style import Look, glyph
from coordexp.report.svg import text

SIZES = {"small": "small, < 32² px", "medium": "medium", "large": "large, ≥ 96² px"}
TOP, BOTTOM = 30.0, 210.0


def slices(found: dict[str, Any], step: int | None, look: dict[str, Look]) -> str | None:
    """MAE by slot and box size, in bins, with the number of tokens behind each."""
    if not found:
        return None

    def draw() -> Iterator[str]:
        for part, title, left, right in (
            ("by_slot", "MAE by coordinate slot, bins", 46.0, 360.0),
            ("by_box_size", "MAE by box size, bins", 412.0, 700.0),
        ):
            yield from slice_panel(found, part, title, (left, right), look)
        shown = {variant: look[variant] for variant in found}
        yield from plot.key(
            720,
            TOP,
            230,
            shown,
            [f"step {step}, lower is better", "n: coordinate tokens"],
            lines=False,
        )

    return plot.sheet(BOTTOM + 40, "MAE by coordinate slot and by box size", draw())


def slice_panel(
    found: dict[str, Any],
    part: str,
    title: str,
    between: tuple[float, float],
    look: dict[str, Look],
) -> Iterator[str]:
    """A column of points a slice, the variants side by side."""
    names = list(dict.fromkeys(name for variant in found.values() for name in variant[part]))
    values = [value for variant in found.values() for value in variant[part].values()]
    panel = Panel(
        Scale(0, max(1, len(names)), *between), plot.y_scale(values, TOP, BOTTOM, from_zero=True)
    )
    yield plot.heading(panel, title)
    yield from plot.grid_y(panel)
    pitch = min(14.0, 0.8 * (panel.right - panel.left) / max(1, len(names)) / len(found))
    for i, name in enumerate(names):
        middle = panel.x(i + 0.5)
        counts = {variant[f"n_{part}"].get(name, 0) for variant in found.values()}
        n_tokens = f"n = {min(counts):.0f}" + (f" to {max(counts):.0f}" if len(counts) > 1 else "")
        yield text(middle, BOTTOM + 17, SIZES.get(name, name), "middle", 11.5)
        yield text(middle, BOTTOM + 32, n_tokens, "middle", 11, opacity=0.7)
        for j, (variant, values_of) in enumerate(found.items()):
            if name in values_of[part]:
                x = middle + (j - (len(found) - 1) / 2) * pitch
                value = values_of[part][name]
                yield glyph(
                    look[variant],
                    (x, panel.y(value)),
                    4.2,
                    title=f"{variant}, {name}: {value:.2f} bins",
                )
