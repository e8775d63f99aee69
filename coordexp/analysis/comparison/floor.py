"""From bins to pixels to the cells a vision model sees, and what that suggests: a hypothesis, never a finding.

Source: note, section "Interpreting the Floor": px = bins / 999 * (side - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordexp.coords import LAST_BIN
from coordexp.study.inputs import RunData

NEAR_HALF_A_CELL = (0.35, 0.65)  # of a cell: where an error is said to be about half of one


def bins_to_px(bins: float, side_px: float) -> float:
    return bins / LAST_BIN * (side_px - 1)


def floor(
    rows: Sequence[Mapping[str, Any]],
    drifts: Sequence[dict[str, Any]],
    sides_px: Sequence[float] | None,
    cell_px: int | None,
) -> dict[str, Any] | None:
    """The best MAE (and its p90) in bins, pixels and cells; None where image sizes or MAE are not known.

    `sides_px` are the smallest, median and largest image side; `cell_px` is what one visual token covers.
    """
    maes = {row["variant"]: row["expected_bin_mae"] for row in rows if "expected_bin_mae" in row}
    if not maes or not sides_px:
        return None
    best = min(maes, key=lambda variant: maes[variant])
    p90 = next(row for row in rows if row["variant"] == best).get("expected_bin_abs_err_p90")
    at_median = bins_to_px(maes[best], sides_px[1])
    cells = at_median / cell_px if cell_px else None
    return {
        "best_mae_bins": maes[best],
        "side_px": list(sides_px),
        "best_mae_px": [bins_to_px(maes[best], side) for side in sides_px],
        "cell_px": cell_px,
        "best_mae_cells": cells,
        "p90_bins": p90,
        "p90_px": None if p90 is None else bins_to_px(p90, sides_px[1]),
        "sentence": suggestion(
            cells, next((d for d in drifts if d["metric"] == "expected_bin_mae"), None)
        ),
        "test": "train the variants on larger pictures (data.image_size of scenes, data.pixel_budget of real ones), so that a "
        "cell covers less of an object: were the cell the limit, MAE in bins would fall in proportion to the side; were it the "
        "loss or the training length, it would not",
    }


def suggestion(cells: float | None, drifted: dict[str, Any] | None) -> str:
    """What the floor looks like, in one sentence that claims no cause."""
    if cells is None:
        return "the size of a visual cell is not known here, so the error cannot be held against it"
    low, high = NEAR_HALF_A_CELL
    alike = drifted is not None and not drifted["differ"]
    where = f"the best MAE is {cells:.2f} of a visual cell"
    if cells > high:
        return f"{where}, well above half of one: the cell alone does not explain an error of this size"
    if cells < low:
        return f"{where}, below half of one: localisation is already finer than the cell, which is then not what limits it"
    if drifted is None:
        return f"{where}, about half of one; whether the variants have come to rest cannot be said"
    if alike:
        return f"{where}, and the variants differ by less than each drifts: this looks like a floor of the vision, not of the loss"
    return f"{where}, about half of one, but the variants still differ by more than each drifts: a floor of the vision is possible"


def vision_facts(
    runs: Sequence[RunData], given: Mapping[str, Any] | None
) -> tuple[list[float] | None, int | None]:
    """Image sides (smallest, median, largest, in px) and cell size: from the manifests, else as they were given."""
    manifests = [run.manifest for run in runs if run.manifest and run.manifest.get("val_sides_px")]
    if manifests:
        sides = manifests[0]["val_sides_px"]
        low, middle, high = zip(sides["width"], sides["height"], strict=True)
        return [min(low), sum(middle) / 2, max(high)], manifests[0].get("cell_px")
    if given and given.get("side_px"):
        return [given["side_px"]] * 3, given.get("cell_px")
    return None, None
