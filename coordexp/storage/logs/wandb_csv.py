"""Reading the CSV files that Weights & Biases exports: a run's history, or the data of charts.

The first line names the columns. A history has the keys as they were logged (`train/loss`,
`eval/loss`, `_step`); a chart has its horizontal axis, and for each run `RUN - KEY` with
`RUN - KEY__MIN` and `RUN - KEY__MAX` beside it. A cell is empty where a row lacks the value.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from coordexp.errors import UserError
from coordexp.storage.logs.dialects import WANDB
from coordexp.storage.logs.eval_sets import listed
from coordexp.storage.logs.jsonl import text_content
from coordexp.storage.logs.log import UNTOLD, Log, Told
from coordexp.storage.logs.rows import RawRow, add_rows

# Columns of the step, the best first. W&B's own step counts the calls of `wandb.log`.
STEP_COLUMNS = ("train/global_step", "trainer/global_step", "global_step", "Step", "_step")
OWN_STEPS = ("Step", "_step")
NOT_VALUES = ("__MIN", "__MAX")
SEPARATOR = " - "  # between the name of a run and a key


def read_wandb(path: Path, told: Told = UNTOLD, run: str = "") -> Log:
    """Read the rows of one run.

    Args:
        run: the run to read if the file holds several.

    Raises:
        UserError: it cannot be read as CSV, has no column of steps, holds several runs and none of
            them is `run`, or several evaluation sets of which none is chosen.
    """
    log = Log(path)
    table = _table(path)
    header = next(table, [])
    runs = list(dict.fromkeys(name for name, _ in map(_run_and_key, header) if name))
    chosen = runs[0] if runs else ""
    if len(runs) > 1:
        if run not in runs:
            raise UserError(
                f"{path}: holds {len(runs)} runs, {listed(runs)}: give the one to read as the NAME "
                "of NAME=PATH, or export one alone"
            )
        chosen = run
    columns = _columns(header, chosen)
    step_key = next((key for key in STEP_COLUMNS if key in columns.values()), None)
    if step_key is None:
        raise UserError(f"{path}: has no column of steps: none of {', '.join(STEP_COLUMNS)}")
    if step_key in OWN_STEPS:
        log.doubt(
            f"its steps are those of the column {step_key}, which counts what was sent to W&B: "
            "they are optimizer steps only if each of them was logged once"
        )
    return add_rows(log, _rows(table, len(header), columns, step_key, log), WANDB, told)


def _table(path: Path) -> Iterator[list[str]]:
    """The lines of a CSV file as lists of cells."""
    try:
        text = text_content(path).decode()
        yield from csv.reader(text.splitlines(keepends=True), strict=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid Unicode: save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: not readable as CSV ({error})") from error


def _run_and_key(column: str) -> tuple[str, str]:
    run, _, key = column.rpartition(SEPARATOR)
    return run, key


def _columns(header: Sequence[str], run: str) -> dict[int, str]:
    """The key of each column that is read: those of one run, and those that all runs share."""
    columns: dict[int, str] = {}
    for index, column in enumerate(header):
        name, key = _run_and_key(column)
        if name in ("", run) and not key.endswith(NOT_VALUES):
            columns[index] = key
    return columns


def _rows(
    table: Iterator[list[str]], width: int, columns: dict[int, str], step_key: str, log: Log
) -> Iterator[RawRow]:
    torn: list[int] = []
    for line, cells in enumerate(table, start=2):
        if not cells:
            continue
        if len(cells) != width:
            torn.append(line)
            continue
        row = {key: cells[index] for index, key in columns.items() if cells[index]}
        values = {key: value for key, value in row.items() if not _is_bookkeeping(key)}
        if values:
            yield RawRow(line, row.get(step_key), values, step_key=step_key)
    if torn:
        log.dropped["torn"] = len(torn)
        log.doubt(f"{len(torn)} rows, the first in line {torn[0]}, lack cells", "not used")


def _is_bookkeeping(key: str) -> bool:
    return key in STEP_COLUMNS or key.startswith("_")
