"""The figure of the audit: train over eval loss at each evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from coordexp.analysis.audit.findings import FamilyRatios, RunAudit
from coordexp.analysis.audit.ratios import CONSISTENT, FAMILIES
from coordexp.report import plot
from coordexp.report.plot import WIDTH, Figure, Panel
from coordexp.report.scales import Scale, step_scale, ticks
from coordexp.report.style import Look, glyph
from coordexp.report.svg import Data, box, fitted, group, path, rule, text, text_width

# The expected ratios of correct logs. They are not exactly 1: a train row is the mean over the
# steps since the previous row, an eval row is the mean over the whole validation set.
EXPECTED = (0.95, 1.05)

TOP, ROW = 34.0, 96.0  # px: top of the first row, height of a row
AXIS_ROOM = 26.0  # px under the last row
MAX_LABEL_WIDTH = 190.0  # px, of the variants' names
LABEL_LINE = 17.0  # px from one line of a label to the next
BAND_OPACITY = 0.07
FAINT = 0.35  # opacity before the collapse ends
CAPTION = (
    f"Train over eval loss at each evaluation. Dark band: {EXPECTED[0]} to {EXPECTED[1]}, what "
    f"sound logs show; light band: {CONSISTENT[0]} to {CONSISTENT[1]}, what the verdict accepts of "
    "a median. Faint, before the collapse ends, does not count."
)


def ratios(runs: Sequence[RunAudit], looks: Mapping[str, Look]) -> Figure | None:
    """A row for each variant with its verdicts, a column for each loss family.

    None where no train row precedes an evaluation.
    """
    by_variant: dict[str, list[RunAudit]] = {}
    steps: list[int] = []
    counted: list[float] = []
    for run in runs:
        by_variant.setdefault(run.variant, []).append(run)
        for ratios_of_run in main_families(run):
            for pair in ratios_of_run.pairs:
                steps.append(pair.step)
                if pair.step >= ratios_of_run.from_step:
                    counted.append(pair.ratio)
    if not steps:
        return None
    low, high, log = ratio_limits(counted)
    label_width = width_of_labels(runs)
    column = (WIDTH - label_width) / len(FAMILIES)

    parts: list[str] = []
    for i, (variant, mine) in enumerate(by_variant.items()):
        top = TOP + i * ROW
        bottom = top + ROW - 16
        parts += row_label(variant, [run.verdict for run in mine], label_width, top + ROW / 2 - 10)
        for j, family in enumerate(FAMILIES):
            left = label_width + j * column + 34
            x = step_scale(steps, left, left + column - 46)
            panel = Panel(x, Scale(low, high, bottom, top, log))
            if i == 0:
                parts.append(fitted(left, 16, family, column - 46, size=13, bold=True))
            drawn = ratio_panel(panel, ratios_of(mine, family), looks[variant])
            parts.append(group({"panel": family, "variant": variant}, drawn))
            if i == len(by_variant) - 1:
                parts += plot.steps_axis(panel, None)
    height = TOP + ROW * len(by_variant) + AXIS_ROOM
    label = "Train over eval loss at each evaluation"
    return plot.figure("ratios", label, CAPTION, height, parts)


def main_families(run: RunAudit) -> list[FamilyRatios]:
    """The ratios of the objective and of its two parts, where the log has them."""
    return [run.families[name] for name in FAMILIES if name in run.families]


def ratios_of(runs: Sequence[RunAudit], family: str) -> list[FamilyRatios]:
    """The ratios of one loss family in those runs that have it."""
    return [run.families[family] for run in runs if family in run.families]


def width_of_labels(runs: Sequence[RunAudit]) -> float:
    """The width of the longest name or verdict."""
    longest = 0.0
    for run in runs:
        with_count = f"{run.verdict} × 9"
        longest = max(longest, text_width(run.variant), text_width(with_count))
    return min(MAX_LABEL_WIDTH, 24 + longest)


def row_label(variant: str, verdicts: Sequence[str], width: float, y: float) -> Iterator[str]:
    """The variant, and below it the audit's verdicts on its runs."""
    yield fitted(0, y, variant, width - 12, bold=True)
    for verdict, n_runs in Counter(verdicts).items():
        y += LABEL_LINE
        words = f"{verdict} × {n_runs}" if n_runs > 1 else verdict
        yield fitted(0, y, words, width - 12, data={"mark": "verdict", "variant": variant})


def ratio_panel(panel: Panel, seeds: Sequence[FamilyRatios], look: Look) -> Iterator[str]:
    """The ratios of one family, one line for each seed, on top of the bands of correct ratios."""
    for low, high in (CONSISTENT, EXPECTED):
        top, bottom = panel.y(min(high, panel.y.high)), panel.y(max(low, panel.y.low))
        yield box(panel.left, top, panel.width, bottom - top, opacity=BAND_OPACITY)
    if panel.y.log:
        yield from plot.grid_y(panel, ticks(panel.y, 5))
    else:
        yield from plot.grid_y(panel, (0.9, 1, 1.1))
    yield rule(panel.at(panel.x.low, 1), panel.at(panel.x.high, 1), 0.6)
    if not seeds:
        y = panel.y(1) - 8
        data = {"mark": "not-applicable"}
        yield text(panel.middle, y, "not applicable", "middle", opacity=0.75, data=data)
    opacity = 1.0 if len(seeds) == 1 else 0.75
    for seed in seeds:
        yield from ratio_lines(panel, seed, look, opacity)


def ratio_lines(panel: Panel, seed: FamilyRatios, look: Look, opacity: float) -> Iterator[str]:
    """The line of one seed: faint before `from_step`, where ratios do not count, then marked."""
    before, counted = [], []
    for pair in seed.pairs:
        # Values outside the limits are drawn at the panel's edge.
        at = panel.at(pair.step, min(max(pair.ratio, panel.y.low), panel.y.high))
        if pair.step >= seed.from_step:
            counted.append((pair, at))
        else:
            before.append(at)
    data: Data = {"mark": "before-collapse"}
    yield path(before, look.colour, 1.2, opacity=FAINT, data=data)
    data = {"mark": "counted"}
    yield path([at for _, at in counted], look.colour, 1.2, opacity=opacity, data=data)
    for pair, at in counted:
        title = f"step {pair.step}: {pair.ratio:.3f}"
        data = {"mark": "ratio", "step": pair.step}
        yield glyph(look, at, 2.6, title=title, data=data)


def ratio_limits(ratios: Sequence[float]) -> tuple[float, float, bool]:
    """Lowest and highest value of the axis, and whether it is logarithmic.

    The axis is wide enough to judge ±10 %. It is logarithmic if a ratio is off by a factor, as with
    an error in the loss's scale.
    """
    finite = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    low, high = min(0.85, *finite), max(1.15, *finite)
    if low < 0.5 or high > 2:
        return low / 1.2, high * 1.2, True
    return low - 0.02, high + 0.02, False
