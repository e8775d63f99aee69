"""How far a difference between two variants can be trusted.

Estimand: the difference between variants given base weights, data and hyper-parameters, over validation images.
One seed (or the same seeds on both sides, averaged) with token tables gives a paired bootstrap clustered by
image. It does not see what another seed would have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from coordexp.config import digest

DRAWS = 2000
LEVEL = 0.95
P90_BINS = np.arange(0, 1001.0)  # errors are below 1000 bins

TABLE_LABEL = {"1": "t1", "own": "own", "fitted": "fitted"}


def token_frame(path: Path, temperature: str) -> pd.DataFrame:
    """Per-token quantities of the comparable metrics, from a token table.

    Columns image_id, abs_err (bins), w1_to_delta (bins), hit, p_gt, slot, box_area_px. At the fitted temperature
    only the half of the images that did not fit it.
    """
    label = TABLE_LABEL[temperature]
    table = pq.read_table(path).to_pandas()
    if temperature == "fitted":
        table = table[~table["fit_half"]]
    return pd.DataFrame(
        {
            "image_id": table["image_id"],
            "abs_err": (table[f"expected_bin_{label}"].astype(float) - table["gt_bin"]).abs(),
            "w1_to_delta": table[f"w1_to_delta_{label}"].astype(float),
            "hit": table["hit"].astype(float),
            "p_gt": table[f"p_gt_{label}"].astype(float),
            "slot": table["slot"],
            "box_area_px": table["box_area_px"],
        }
    )


COLUMN_OF = {"expected_bin_mae": "abs_err", "w1_to_delta": "w1_to_delta", "coord_token_acc": "hit", "p_gt_mean": "p_gt"}


def paired_bootstrap(first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame], metric: str) -> dict[str, float]:
    """Interval of metric(second) - metric(first), images resampled together on both sides.

    Each side is a list of token frames (one a seed, over the same images); metrics are averaged over the seeds.
    Means are ratios of per-image sums. p90 is the 0.9 quantile over resampled tokens, on a 1-bin histogram.
    """
    images = np.unique(first[0]["image_id"])
    rng = np.random.default_rng(int(digest([metric, len(images), DRAWS])[:8], 16))
    weights = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=DRAWS)  # [D, I]
    sides = [np.mean([_draws(frame, images, weights, metric) for frame in frames], axis=0) for frames in (first, second)]
    draws = sides[1] - sides[0]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": float(low), "high": float(high), "share_above_0": float(np.mean(draws > 0))}


def _draws(frame: pd.DataFrame, images: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """The metric in each resample  # [I], [D, I] -> [D]"""
    index = np.searchsorted(images, frame["image_id"])
    if metric == "expected_bin_abs_err_p90":
        histogram = np.zeros((len(images), len(P90_BINS)))
        np.add.at(histogram, (index, np.minimum(frame["abs_err"].astype(int), len(P90_BINS) - 1)), 1)
        cumulative = (weights @ histogram).cumsum(1)
        return P90_BINS[(cumulative < 0.9 * cumulative[:, -1:]).sum(1)] + 0.5
    sums = np.bincount(index, frame[COLUMN_OF[metric]], len(images))
    counts = np.bincount(index, minlength=len(images))
    return (weights @ sums) / (weights @ counts)
