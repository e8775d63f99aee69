"""Where the errors are: MAE by coordinate slot and by box size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from coordexp.analysis.comparison.findings import Slices
from coordexp.metrics import METRICS
from coordexp.storage.token_tables import TokenColumns, read_tokens
from coordexp.study.inputs import RunData

# Smallest and largest area of a box in px², by COCO's name of the size.
AREA_EDGES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, math.inf),
}


def slices(
    groups: Mapping[str, Sequence[RunData]], step: int | None, temperature: str
) -> dict[str, Slices]:
    """MAE in bins over the tokens of all seeds, by variant; empty without token tables."""
    found = {}
    for variant, runs in groups.items():
        paths = [run.run.table(step) for run in runs if run.run and step is not None]
        if len(paths) == len(runs) and all(path.exists() for path in paths):
            mae = METRICS["expected_bin_mae"]
            tables = [read_tokens(path, temperature, [mae], slices=True) for path in paths]
            found[variant] = slices_of(tables)
    return found


def slices_of(tables: Sequence[TokenColumns]) -> Slices:
    """MAE and number of tokens of each slice; a slice without tokens is left out."""
    errors = np.concatenate([table.values["expected_bin_mae"] for table in tables])  # [C]
    slot = np.concatenate([table.slot for table in tables])
    area = np.concatenate([table.box_area_px for table in tables])
    by_slot = {str(name): slot == name for name in dict.fromkeys(slot.tolist())}
    by_size = {name: (area >= low) & (area < high) for name, (low, high) in AREA_EDGES.items()}
    return Slices(
        by_slot=means(errors, by_slot),
        n_by_slot=counts(by_slot),
        by_box_size=means(errors, by_size),
        n_by_box_size=counts(by_size),
    )


def means(values: np.ndarray, masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of the values under each mask  # [C], {name: [C]}"""
    return {name: float(values[mask].mean()) for name, mask in masks.items() if mask.any()}


def counts(masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items() if mask.any()}
