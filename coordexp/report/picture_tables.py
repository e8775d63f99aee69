"""The table of what the picture contributes to each candidate, beside guesses without a picture."""

from __future__ import annotations

from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.report.numbers import number
from coordexp.report.table import Cell, Table, cell, column, name, numbers, small, words

CAPTION = (
    "What the picture contributes: each candidate before the fine-tune, with the right picture and "
    "with another image's picture of the same size, and guesses that see none. MAE in bins, "
    "teacher-forced, at {}; F1@.5 class-agnostic, of rollouts"
)
FITTED = "a temperature fitted on the other half of the images"
UNFITTED = "T = 1, since no image was left to fit a temperature"


def picture_table(probe: StudyProbe, none_to_fit: bool = False) -> Table | None:
    """A row for each candidate; None where no pictures were exchanged.

    none_to_fit: no validation image was left to fit a temperature.
    """
    shown = {v: values for v, values in probe.means.items() if "visual_contribution" in values}
    if not shown:
        return None
    columns = words("variant")
    columns += numbers("MAE, right picture", "MAE, another picture")
    columns.append(column("contribution", small("95 % interval"), numeric=True))
    columns += numbers("MAE, no picture", "MAE, no picture, box so far")
    columns += numbers("F1@.5, right picture", "F1@.5, another picture", "F1@.5, no picture")
    caption = CAPTION.format(UNFITTED if none_to_fit else FITTED)
    table = Table("pictures", columns, caption=f"{caption}{counted(probe)}")
    blind = probe.blind
    for variant, values in shown.items():
        table.add(
            cell(name(variant)),
            cell(number(values.get("mae_right"), ".1f")),
            cell(number(values.get("mae_swapped"), ".1f")),
            contribution_cell(values["visual_contribution"], probe.contributions.get(variant)),
            cell(number(blind.mae if blind else None, ".1f")),
            cell(number(blind.mae_given_box if blind else None, ".1f")),
            cell(number(values.get("f1_50_right"), ".3f")),
            cell(number(values.get("f1_50_swapped"), ".3f")),
            cell(number(blind.f1_50 if blind else None, ".3f")),
        )
    return table


def counted(probe: StudyProbe) -> str:
    """How many images the two kinds of figures are of, where the candidates share them."""
    if probe.blind is None:
        return ""
    return f" (MAE: {probe.blind.images} images; F1: {probe.blind.rolled_out} of them)"


def contribution_cell(value: float, estimate: Estimate | None) -> Cell:
    """MAE with another picture minus MAE with the right one, with its interval below it."""
    if estimate is None:
        return cell(number(value, "+.1f"))
    tone = "good" if estimate.low > 0 else "bad"
    if estimate.too_few_images:
        tone = ""
    interval = f"[{number(estimate.low, '+.1f')}, {number(estimate.high, '+.1f')}]"
    return cell(number(value, "+.1f"), small(interval), tone=tone)
