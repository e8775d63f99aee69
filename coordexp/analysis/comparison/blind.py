"""What is reached without any picture, on the coordinates that the variants are judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coordexp.analysis.comparison.findings import BlindMae
from coordexp.coords import BOX_SLOTS
from coordexp.detection.blind_coordinates import (
    WrittenCoordinates,
    cross_fitted,
    median_guess,
    regression_guess,
    written_coordinates,
)
from coordexp.storage.token_tables import in_fit_half, read_columns
from coordexp.study.inputs import RunData

if TYPE_CHECKING:
    from coordexp.data.records import Record

_COLUMNS = ("image_id", "object_index", "slot", "gt_bin", "fit_half")


@dataclass(frozen=True)
class BlindProbe:
    """What is reached without a picture on the images of the probe whose pictures were exchanged.

    mae, mae_given_box: see BlindMae.
    f1_50: class-agnostic F1@.5 of the most typical boxes, on the images that were rolled out with
        another picture; None if there are no boxes to take them from.
    images, coordinates: of the MAEs.  rolled_out: images of the F1.
    """

    mae: float
    mae_given_box: float
    f1_50: float | None
    images: int
    coordinates: int
    rolled_out: int


def blind_of_tables(
    groups: Mapping[str, Sequence[RunData]], step: int | None, temperature: str
) -> BlindMae | None:
    """The blind MAEs on the coordinates that the variants are judged on at the decision step.

    They are the same for every run, so the first token table is read. At the fitted temperature
    half of the images is judged, else all of them. None without a token table, or if one of the
    halves is empty.
    """
    table = first_table(groups, step)
    if table is None:
        return None
    columns = read_columns(table, _COLUMNS)
    order = np.argsort(columns["image_id"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    written = WrittenCoordinates(
        image=columns["image_id"],
        object_index=columns["object_index"],
        is_box=np.isin(columns["slot"], BOX_SLOTS),
        gt_bin=columns["gt_bin"].astype(np.int64),
    )
    half = columns["fit_half"].astype(bool)
    judged = ~half if temperature == "fitted" else np.ones(len(half), dtype=bool)
    return blind_mae(written, half, judged)


def first_table(groups: Mapping[str, Sequence[RunData]], step: int | None) -> Path | None:
    """The token table of the first run that has one at this step."""
    for runs in groups.values():
        for run in runs:
            if step is not None and run.run and run.run.table(step).exists():
                return run.run.table(step)
    return None


def blind_mae(written: WrittenCoordinates, half: np.ndarray, judged: np.ndarray) -> BlindMae | None:
    """The MAE of both guesses on the judged coordinates; None if there is nothing to fit on.

    Args:
        half, judged: [C] bool.
    """
    median = cross_fitted(median_guess, written, half, judged)
    regression = cross_fitted(regression_guess, written, half, judged)
    if median is None or regression is None or not judged.any():
        return None
    return BlindMae(
        mae=float(median[judged].mean()),
        mae_given_box=float(regression[judged].mean()),
        images=len(np.unique(written.image[judged])),
        coordinates=int(judged.sum()),
    )


def blind_of_records(
    records: Sequence[Record], exchanged: np.ndarray, rolled_out: Sequence[int]
) -> BlindProbe | None:
    """The blind baselines on the images of a probe; None if there is nothing to fit them on.

    Each image is judged by guesses fitted on the images in the other half of the validation set.

    Args:
        exchanged: ids of the images whose MAE is taken.
        rolled_out: ids of the images whose F1 is taken.
    """
    from coordexp.detection.blind_boxes import blind_scores
    from coordexp.detection.scores import figures

    written = written_coordinates(records)
    halves = np.array([in_fit_half(image) for image in range(len(records))], dtype=bool)
    found = blind_mae(written, halves[written.image], np.isin(written.image, exchanged))
    if found is None:
        return None
    scores = blind_scores(records, rolled_out, in_fit_half)
    return BlindProbe(
        mae=found.mae,
        mae_given_box=found.mae_given_box,
        f1_50=None if scores is None else float(figures(scores)["f1_50_agnostic"]),
        images=found.images,
        coordinates=found.coordinates,
        rolled_out=len(rolled_out),
    )
