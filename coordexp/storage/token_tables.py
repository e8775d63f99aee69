"""Token tables, one a run and eval step, read column by column and summed up image by image.

A table is read, reduced and let go: memory is that of one table's few columns, however many runs there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import ndtri

from coordexp.errors import UserError
from coordexp.metrics import REGISTRY, TEMPERATURE_LABEL, Metric
from coordexp.storage.files import replacing

if TYPE_CHECKING:  # half a second to import, and only the writer holds one
    import pandas as pd


@dataclass(frozen=True)
class TokenColumns:
    """What some metrics need of one token table: C tokens of I images, sorted by image."""

    images: np.ndarray  # [I] image ids, rising
    image_index: np.ndarray  # [C] into images, rising
    values: dict[str, np.ndarray]  # metric -> [C] per-token value
    slot: np.ndarray = field(default_factory=lambda: np.empty(0))  # [C], where asked for
    box_area_px: np.ndarray = field(default_factory=lambda: np.empty(0))  # [C], where asked for


@dataclass(frozen=True)
class ImageInfluence:
    """The metrics of one table, and how much each image moves them.

    In a resample that takes image i w_i times, metric ≈ values[metric] + Σ_i (w_i - 1) influence[metric][i].
    """

    images: np.ndarray  # [I] image ids, rising
    values: dict[str, float]  # metric -> over all tokens
    influence: dict[str, np.ndarray]  # metric -> [I], sums to about 0


def read_tokens(
    path: Path, temperature: str, metrics: Sequence[Metric], slices: bool = False
) -> TokenColumns:
    """The columns that those of `metrics` with `per_token` need at temperature "1", "own" or "fitted", and no others.

    At the fitted temperature only the half of the images that did not fit it. `slices` reads slot and box area too.

    Raises:
        UserError: the file is missing or broken, lacks a column, holds empty or non-finite values, or has fewer than two images.
    """
    label = TEMPERATURE_LABEL[temperature]
    readers = {m.name: m.per_token for m in metrics if m.per_token}
    wanted = {"image_id", *(name for reader in readers.values() for name in reader.columns(label))}
    wanted |= {"fit_half"} if temperature == "fitted" else set()
    wanted |= {"slot", "box_area_px"} if slices else set()
    columns = read_columns(path, sorted(wanted))
    if temperature == "fitted":
        judged = ~columns.pop("fit_half").astype(bool)
        columns = {name: values[judged] for name, values in columns.items()}
    ids = columns["image_id"]
    if (ids[1:] < ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        ids = columns["image_id"]
    new_image = ids != np.append(ids[:1] - 1, ids[:-1])
    if new_image.sum() < 2:
        raise UserError(
            f"{path}: fewer than two images at temperature {temperature}: enlarge the validation set"
        )
    values = {name: reader(columns, label) for name, reader in readers.items()}
    slot, box_area_px = (
        columns[name] if slices else np.empty(0) for name in ("slot", "box_area_px")
    )
    return TokenColumns(ids[new_image], np.cumsum(new_image) - 1, values, slot, box_area_px)


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a parquet file, complete and finite  # name -> [C]

    Raises:
        UserError: the file is missing or broken, lacks a column, or holds empty or non-finite values.
    """
    advice = "restore it, or remove the run directory and train again"
    try:
        with pq.ParquetFile(path) as file:
            if missing := sorted(set(names) - set(file.schema_arrow.names)):
                raise UserError(
                    f"{path}: no column {', '.join(missing)}: not a token table of this version; {advice}"
                )
            table = file.read(columns=list(names), use_threads=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet file ({str(error).splitlines()[0]}): {advice}"
        ) from error
    for name in names:
        if table[name].null_count or (
            pa.types.is_floating(table[name].type) and not pc.all(pc.is_finite(table[name])).as_py()
        ):
            raise UserError(f"{path}: column {name} holds empty or non-finite values: {advice}")
    return {name: as_numpy(table[name]) for name in names}


def as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """[C]; text becomes fixed-width, by way of its dictionary."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.to_numpy()
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), dtype=str)[encoded.indices.to_numpy()]


def image_influence(tokens: TokenColumns) -> ImageInfluence:
    """Each metric over all tokens (their mean, or their exact quantile), and each image's influence on it.

    The mean is a ratio of sums over images, so image i with n_i of the N tokens and sum s_i moves it by
    (s_i - n_i mean) / N (Cochran, Sampling Techniques, 6.3).
    """
    counts = np.bincount(tokens.image_index, minlength=len(tokens.images))  # [I]
    values, influence = {}, {}
    for name, per_token in tokens.values.items():
        q = REGISTRY[name].quantile
        if q is None:
            sums = np.bincount(tokens.image_index, per_token, len(tokens.images))
            values[name] = float(sums.sum() / counts.sum())
            influence[name] = (sums - counts * values[name]) / counts.sum()
        else:
            values[name], influence[name] = quantile_influence(
                per_token, tokens.image_index, counts, q
            )
    return ImageInfluence(tokens.images, values, influence)


def quantile_influence(
    per_token: np.ndarray, image_index: np.ndarray, counts: np.ndarray, q: float
) -> tuple[float, np.ndarray]:
    """The quantile Q at level q over all tokens (linear interpolation, as the trainer logs it) and its influence  # [I]

    An image moves it by (q n_i - #{its tokens ≤ Q}) / (f N), where the density f at Q is a difference quotient of the
    empirical quantile function over q ± h, h as Hall & Sheather (1988) choose it (see Koenker, Quantile Regression, 3.4.2).
    """
    n = len(per_token)
    z = ndtri(q)  # of the standard normal, whose density there is φ
    phi = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    h = n ** (-1 / 3) * ndtri(0.975) ** (2 / 3) * (1.5 * phi**2 / (2 * z**2 + 1)) ** (1 / 3)
    low, high = max(q - h, 0.0), min(q + h, 1.0)
    at_low, at_q, at_high = np.quantile(per_token, [low, q, high])
    below = np.bincount(image_index[per_token <= at_q], minlength=len(counts))
    return float(at_q), (q * counts - below) / n * (at_high - at_low) / (high - low)


def write_table(table: pd.DataFrame, path: Path, metadata: dict[str, float]) -> None:
    """A row a token; `metadata` are the temperatures that the columns were judged at."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {name: repr(float(value)) for name, value in metadata.items()}
    )
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")
