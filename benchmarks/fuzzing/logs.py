"""Logs of every dialect, the settings beside them, and token tables."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import dialect_files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from log_files import record
from studies import eval_row, token_table

from coordexp.metrics import METRICS
from coordexp.storage.logs.settings import settings_beside
from coordexp.storage.logs.tensorboard import event_files, intact_records
from coordexp.storage.token_tables import read_fitted_temperature, read_tokens
from coordexp.study.sources import parse_sources, read_source
from fuzzing.kind import Kind, file_kind, json_trees, keys_in
from fuzzing.mutations import dumped, of_bytes, of_json, of_lines, of_text

N_ROWS = 16
WRITERS = dialect_files.WRITERS | {
    "ours": dialect_files.ours,
    "llama_factory": dialect_files.llama_factory,
}
SETTINGS = {
    "gradient_accumulation_steps": 8,
    "temperature": 0.1,
    "training": {"coord_soft_ce_w1": {"temperature": 0.7, "enabled": True}, "lr": "1e-4"},
}


def kinds() -> Iterator[Kind]:
    folder = Path("in/logs")
    folder.mkdir()
    rows = dialect_files.rows_of(folder, "mixed")[:N_ROWS]
    for name, write in WRITERS.items():
        place = file_of(write(folder / name, rows))
        mutate = of_events if "event" in name else of_text if place.suffix == ".csv" else of_lines
        if place.suffix == ".json":
            mutate = of_json
        content = place.read_bytes()
        trees = json_trees(keys_in([content])) if mutate is of_lines else None
        yield file_kind(
            f"log: {name.replace('_', ' ')}", place, [content], mutate, read_log, 8_000, trees
        )
    settings = dumped(SETTINGS)
    yield file_kind("settings beside a log", "in/beside/args.json", [settings], of_json, beside)
    yield from of_tables()


def file_of(path: Path) -> Path:
    """The file that a writer's path stands for."""
    if path.is_file():
        return path
    if events := event_files(path):
        return events[-1]
    return max(path.rglob("*.json*"), key=lambda file: file.stat().st_size)


def read_log(path: Path) -> object:
    (source,) = parse_sources([f"a={path}"])
    return read_source(source)


def beside(path: Path) -> object:
    return settings_beside(path.with_name("logging.jsonl"))


def of_events(content: bytes, rng: Random) -> bytes:
    """Events in another order, repeated, left out, damaged within; or damaged bytes."""
    if rng.random() < 0.3:
        return of_bytes(content, rng)
    records, _ = intact_records(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(records))
        change = rng.choice(("swap", "drop", "repeat", "damage"))
        if change == "swap":
            other = rng.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        elif change == "drop" and len(records) > 1:
            del records[at]
        elif change == "repeat":
            records.insert(at, records[rng.randrange(len(records))])
        else:
            records[at] = of_bytes(records[at], rng)
    return b"".join(map(record, records))


def of_tables() -> Iterator[Kind]:
    path = Path("in/tables/step-000040.parquet")
    path.parent.mkdir(parents=True)
    token_table(path, eval_row(20.0, 40.0, 0.02, 0.01, 18.0, 4.0), n_images=6)
    content = path.read_bytes()

    def read(path: Path) -> object:
        temperature = read_fitted_temperature(path)
        metrics = list(METRICS.values())
        return temperature, [read_tokens(path, t, metrics, True) for t in ("1", "own", "fitted")]

    def changed(content: bytes, rng: Random) -> bytes:
        """A parquet file with a column of another type, with gaps, or gone; or damaged bytes."""
        if rng.random() < 0.4:
            return of_bytes(content, rng)
        table = pq.read_table(io.BytesIO(content))
        at = rng.randrange(table.num_columns)
        column = other_column(table, rng)
        name = table.column_names[at]
        table = table.remove_column(at)
        if column is not None:
            table = table.append_column(name, column)
        if rng.random() < 0.3:
            told = rng.choice((b"x", b"nan", b"-1", b"1e999", b"", b"0", b"\xff"))
            table = table.replace_schema_metadata({b"fitted_temperature": told})
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()

    yield file_kind("token table", path, [content], changed, read, 3_000)


def other_column(table: pa.Table, rng: Random) -> pa.Array | None:
    """What may stand in place of a column; None where it is gone."""
    n = table.num_rows
    floats = np.random.default_rng(rng.randrange(2**32)).normal(size=n) * 1e300
    return rng.choice(
        (
            None,
            pa.nulls(n),
            pa.array(floats),
            pa.array(["a"] * n),
            pa.array([b"\xff"] * n),
            pa.array([[1]] * n),
            pa.array([{"a": 1}] * n),
            pa.array([None, *floats[1:]]),
            pa.array([2**63 - 1] * n),
            pa.array([-1] * n, pa.int8()),
            pa.array([True] * n),
        )
    )
