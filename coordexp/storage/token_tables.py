"""Token tables: a row per supervised coordinate token of the validation set, a file per eval step.

The trainer writes them; the analysis reads only the columns it needs, one table at a time, so that
its memory does not grow with the number of runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coordexp.config.schema import is_temperature
from coordexp.errors import UserError, first_line, require_regular
from coordexp.metrics import COLUMN_RANGES, TEMPERATURE_LABEL, Metric
from coordexp.storage.files import replacing

if TYPE_CHECKING:  # pandas takes half a second to import, and only the trainer holds a DataFrame
    import pandas as pd

# The columns of a token table, in their order.
TOKEN_COLUMNS = (
    "image_id",  # index of the record in the validation set
    "object_index",  # in the record
    "slot",  # x1, y1, x2, y2 of a box, or vertex of a polygon
    "box_area_px",
    "gt_bin",
    "argmax_bin",  # most probable bin
    "hit",  # whether the most probable token of the whole vocabulary is the GT bin
    "coord_mass",  # probability of all coordinate tokens, over the whole vocabulary
    "fit_half",  # whether the image served to fit the fitted temperature
)
# Each of these once per temperature label: expected_bin_t1, expected_bin_own, …
DISTRIBUTION_COLUMNS = ("expected_bin", "nll", "crps", "w1_to_delta", "p_gt", "entropy")
# A table that has neither of these was written before they were added. Metrics that read them are
# then left out.
_LATER_COLUMNS = ("nll", "crps")

# What pyarrow raises for a damaged file.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
_TEXT = "slot"  # the only column of text
_ADVICE = "restore it, or remove the run directory and train again"


@dataclass(frozen=True)
class TokenColumns:
    """The values that some metrics need from one token table: C tokens of I images, by image."""

    images: np.ndarray  # [I] image ids, ascending
    image_index: np.ndarray  # [C] into images, ascending
    values: dict[str, np.ndarray]  # metric -> [C] value of each token
    slot: np.ndarray = field(default_factory=lambda: np.empty(0))  # [C], with `slices` only
    box_area_px: np.ndarray = field(default_factory=lambda: np.empty(0))  # [C], with `slices` only


def in_fit_half(image_id: int) -> bool:
    """Whether the temperature is fitted on this image; the other half of the images judges it."""
    return hashlib.sha256(str(image_id).encode()).digest()[0] % 2 == 0


def column_names() -> list[str]:
    """Every column of a token table."""
    names = list(TOKEN_COLUMNS)
    for label in TEMPERATURE_LABEL.values():
        names += [f"{name}_{label}" for name in DISTRIBUTION_COLUMNS]
    return names


def write_table(
    table: pd.DataFrame, path: Path, own_temperature: float, fitted_temperature: float
) -> None:
    """Write a token table atomically; the temperatures go into the file's metadata.

    Raises:
        ValueError: the table's columns are not those of `column_names`.
    """
    if set(table.columns) != set(column_names()):
        different = sorted(set(table.columns) ^ set(column_names()))
        raise ValueError(f"not the columns of a token table: {', '.join(different)}")
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {
            "own_temperature": repr(float(own_temperature)),
            "fitted_temperature": repr(float(fitted_temperature)),
        }
    )
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def read_fitted_temperature(path: Path) -> float:
    """The temperature that was fitted on one half of the table's images.

    Raises:
        UserError: the file is broken, or does not name it, or no temperature.
    """
    require_regular(path)
    try:
        metadata = pq.read_schema(path).metadata or {}
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}): {_ADVICE}"
        ) from error
    if b"fitted_temperature" not in metadata:
        raise UserError(f"{path}: names no fitted temperature: {_ADVICE}")
    found = metadata[b"fitted_temperature"].decode(errors="replace")
    if not is_temperature(found):
        raise UserError(f"{path}: its fitted temperature is {found!a}: {_ADVICE}")
    return float(found)


def read_tokens(
    path: Path, temperature: str, metrics: Sequence[Metric], slices: bool = False
) -> TokenColumns:
    """Read the columns that the given metrics need at a temperature, and no others.

    A metric is left out if it reads a column that tables of this age do not have.
    `temperature` is "1", "own" or "fitted". At the fitted temperature, the images that it was
    fitted on are left out. With `slices`, the slot and the box area are also read.

    Raises:
        UserError: the file is missing or broken, lacks a column, holds empty or non-finite values,
            or has fewer than two images.
    """
    label = TEMPERATURE_LABEL[temperature]
    wanted = {"image_id"}
    for m in metrics:
        if m.per_token:
            wanted |= set(m.per_token.columns(label))
    if temperature == "fitted":
        wanted.add("fit_half")
    if slices:
        wanted |= {"slot", "box_area_px"}
    later = {f"{name}_{label}" for name in _LATER_COLUMNS}
    columns = read_columns(path, sorted(wanted), later)

    # The fitted temperature is evaluated only on images that it was not fitted on.
    if temperature == "fitted":
        judged = ~columns.pop("fit_half").astype(bool)
        columns = {name: values[judged] for name, values in columns.items()}
    ids = columns["image_id"]
    if (ids[1:] < ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        ids = columns["image_id"]
    is_first_of_image = np.ones(len(ids), dtype=bool)
    is_first_of_image[1:] = ids[1:] != ids[:-1]
    images = ids[is_first_of_image]
    if len(images) < 2:
        raise UserError(
            f"{path}: fewer than two images at temperature {temperature}: "
            "enlarge the validation set"
        )

    values = {
        m.name: m.per_token(columns, label)
        for m in metrics
        if m.per_token and columns.keys() >= set(m.per_token.columns(label))
    }
    tokens = TokenColumns(images, np.cumsum(is_first_of_image) - 1, values)
    if slices:
        tokens = replace(tokens, slot=columns["slot"], box_area_px=columns["box_area_px"])
    return tokens


def read_columns(
    path: Path,
    names: Sequence[str],
    later: Set[str] = frozenset(),
    gaps: Set[str] = frozenset(),
    advice: str = _ADVICE,
) -> dict[str, np.ndarray]:
    """Columns of a table, complete and finite: name -> [C].

    Args:
        later: left out where the table has none of them.
        gaps: may have values that are missing or not finite.
        advice: what to do about a broken table, the end of the message.

    Raises:
        UserError: the file is missing or broken, lacks a column, or has empty or non-finite values.
    """
    require_regular(path)
    try:
        with pq.ParquetFile(path) as file:
            held = set(file.schema_arrow.names)
            if not held & later:
                names = [name for name in names if name not in later]
            missing = sorted(set(names) - held)
            if missing:
                raise UserError(
                    f"{path}: no column {', '.join(missing)}: not a table of this version; {advice}"
                )
            table = file.read(columns=list(names), use_threads=False)
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}): {advice}"
        ) from error
    for name in names:
        if not (name == _TEXT or _is_number(table[name].type)):
            raise UserError(f"{path}: column {name} holds {table[name].type}, no numbers: {advice}")
        if name not in gaps and not _is_complete(table[name]):
            raise UserError(f"{path}: column {name} holds empty or non-finite values: {advice}")
        if name not in gaps:
            refuse_impossible(path, name, table[name])
    return {name: _as_numpy(table[name]) for name in names}


def refuse_impossible(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Raises UserError: the column holds what its metric cannot be, such as a probability of 7."""
    possible = COLUMN_RANGES.get(name) or COLUMN_RANGES.get(name.rpartition("_")[0])
    if possible is None or not len(column):
        return
    extremes = pc.min_max(column).as_py()
    for value in (extremes["min"], extremes["max"]):
        if not isinstance(value, int | float) or not possible.holds(value):
            raise UserError(f"{path}: column {name} holds {value}, not {possible}: {_ADVICE}")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_complete(column: pa.ChunkedArray) -> bool:
    """Whether every value is there and finite."""
    if column.null_count:
        return False
    if not pa.types.is_floating(column.type):
        return True
    return bool(pc.all(pc.is_finite(column)).as_py())


def _as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """The values [C]. Text becomes fixed-width; converting only its dictionary is much faster."""
    values: np.ndarray
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        encoded = column.combine_chunks().dictionary_encode()
        words = np.array(encoded.dictionary.to_pylist(), dtype=str)
        values = words[encoded.indices.to_numpy()]
    else:
        values = column.to_numpy()
    return values
