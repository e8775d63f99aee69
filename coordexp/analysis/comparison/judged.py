"""How many validation images judge the variants, and how many were left to fit a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coordexp.analysis.comparison.blind import first_table
from coordexp.analysis.comparison.findings import JudgedImages
from coordexp.storage.token_tables import read_columns
from coordexp.study.inputs import RunData


def judged_images(
    groups: Mapping[str, Sequence[RunData]], step: int | None, temperature: str
) -> JudgedImages | None:
    """Of the images with coordinates; None without a token table at the decision step.

    They are the same for every run, so the first token table is read.
    """
    table = first_table(groups, step)
    if table is None:
        return None
    columns = read_columns(table, ("image_id", "fit_half"))
    chosen = columns["fit_half"].astype(bool)
    fitted_on = len(np.unique(columns["image_id"][chosen]))
    judged = columns["image_id"][~chosen] if temperature == "fitted" else columns["image_id"]
    return JudgedImages(judged=len(np.unique(judged)), fitted_on=fitted_on)
