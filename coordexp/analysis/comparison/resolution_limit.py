"""The best MAE in pixels and in cells of a visual token: may the size of a cell be the limit?

One study cannot tell a coarse vision model from too few pictures or too short a training: all three
leave the variants close together. The answer is a hypothesis, never a finding. Bins are converted
to pixels as in the note's section "Interpreting the Floor": px = bins / 999 * (side - 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.comparison.findings import (
    BlindMae,
    Drift,
    ResolutionLimit,
    SnapshotRow,
)
from coordexp.coords import LAST_BIN
from coordexp.study.inputs import RunData
from coordexp.study.study import Vision

NEAR_HALF_A_CELL = (0.35, 0.65)  # errors in cells that are reported as "about half of one"
# A model whose error is more than this share of a blind guess's is not held against the cell: most
# of its error is of another kind.
LOOKS_BELOW = 0.5
EXPERIMENT = (
    "train the variants on larger pictures (data.image_size of scenes, data.pixel_budget of real "
    "ones), so that a cell covers less of an object: were the cell the limit, MAE in bins would "
    "fall in proportion to the side. And train longer, or on more pictures of the same size: were "
    "the cell the limit, MAE would stay"
)


def bins_to_px(bins: float, side_px: float) -> float:
    return bins / LAST_BIN * (side_px - 1)


def resolution_limit(
    rows: Sequence[SnapshotRow],
    drifts: Sequence[Drift],
    sides_px: Sequence[float] | None,
    cell_px: int | None,
    blind: BlindMae | None = None,
) -> ResolutionLimit | None:
    """The best MAE (and its p90) in bins, pixels and cells; None without image sizes or MAE.

    Args:
        rows: the variants at the decision step.
        sides_px: the smallest, median and largest image side.
        cell_px: the side of what one visual token covers.
        blind: the error of guesses without a picture, on the same coordinates.
    """
    with_mae = [row for row in rows if "expected_bin_mae" in row.values]
    if not with_mae or not sides_px:
        return None
    best = min(with_mae, key=lambda row: row.values["expected_bin_mae"]).values
    mae, p90 = best["expected_bin_mae"], best.get("expected_bin_abs_err_p90")
    median_side = sides_px[1]
    cells = bins_to_px(mae, median_side) / cell_px if cell_px else None
    of_mae = [drift for drift in drifts if drift.metric == "expected_bin_mae"]
    return ResolutionLimit(
        best_mae_bins=mae,
        side_px=list(sides_px),
        best_mae_px=[bins_to_px(mae, side) for side in sides_px],
        cell_px=cell_px,
        best_mae_cells=cells,
        p90_bins=p90,
        p90_px=None if p90 is None else bins_to_px(p90, median_side),
        sentence=suggestion(mae, cells, of_mae[0].differ if of_mae else None, blind),
        test=EXPERIMENT,
    )


def suggestion(
    mae: float, cells: float | None, variants_differ: bool | None, blind: BlindMae | None
) -> str:
    """What the best MAE suggests about the size of a cell, in one sentence that claims no cause.

    Args:
        mae: the best one, in bins.
        cells: the same in cells.
        variants_differ: whether the variants differ by more than a single run drifts on its
            plateau; None if that is not known.
        blind: None if it is not known what a guess without a picture reaches.
    """
    if blind is not None and mae > LOOKS_BELOW * blind.mae_given_box:
        return (
            f"nothing about the cell: the best MAE, {mae:.1f} bins, is "
            f"{mae / blind.mae_given_box:.2f} of that of a guess without any picture, from the "
            f"coordinates written before ({blind.mae_given_box:.1f} bins): the pictures contribute "
            "too little yet"
        )
    if cells is None:
        return "the size of a visual cell is not known here, so the error cannot be held against it"
    low, high = NEAR_HALF_A_CELL
    size = f"the best MAE is {cells:.2f} of a visual cell"
    if cells > high:
        return (
            f"{size}, well above half of one: the cell alone does not explain an error of this size"
        )
    if cells < low:
        return (
            f"{size}, below half of one: localisation is already finer than the cell, which is "
            "then not what limits it"
        )
    drift = {
        None: "whether the variants have come to rest cannot be said",
        True: "the variants still differ by more than each drifts",
        False: "the variants differ by less than each drifts",
    }[variants_differ]
    looks = "" if blind is not None else ", if the model looks at its pictures at all"
    return (
        f"{size}, about half of one, and {drift}: the size of a cell may be the limit{looks}; "
        "too few pictures or too short a training fit these numbers as well"
    )


def vision_facts(
    runs: Sequence[RunData], given: Vision | None
) -> tuple[list[float] | None, int | None]:
    """Image sides (smallest, median, largest, in px) and the cell's side in px.

    Taken from the first manifest that has them, else from `given`; None if neither has them.
    """
    for run in runs:
        if run.manifest and run.manifest.val_sides_px:
            sides = run.manifest.val_sides_px
            smallest = min(sides.width[0], sides.height[0])
            median = (sides.width[1] + sides.height[1]) / 2
            largest = max(sides.width[2], sides.height[2])
            return [smallest, median, largest], run.manifest.cell_px
    if given:
        return [given.side_px] * 3, given.cell_px
    return None, None
