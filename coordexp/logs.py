"""logging.jsonl: flat JSON rows, appended while training, read by everything after it.

A row carries `"global_step/max_steps": "640/720"`. Eval rows have `eval_` before each key. Files of ms-swift
are read too: extra keys, steps as strings, train and eval in one row or two, restarts that repeat steps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.files import naming_full_disk
from coordexp.schema import UserError

STEP_KEY = "global_step/max_steps"
EVAL = "eval_"

Row = dict[str, float]


@dataclass
class Log:
    """Rows by step, numbers only. Train keys as written; eval keys without `eval_`."""

    path: Path
    train: dict[int, Row] = field(default_factory=dict)
    evals: dict[int, Row] = field(default_factory=dict)
    max_steps: int | None = None
    warnings: list[str] = field(default_factory=list)


class LogWriter:
    """Append rows to a log; a row that is there already is not written again.

    Opening cuts a torn last line, the trace of a kill in the middle of a write, and nothing else.
    """

    def __init__(self, path: Path, max_steps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.max_steps = path, max_steps
        cut_torn_line(path)
        log = read_log(path) if path.exists() else Log(path)
        self.written = {("train", s) for s in log.train} | {("eval", s) for s in log.evals}

    def has_eval(self, step: int) -> bool:
        return ("eval", step) in self.written

    def append(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """`kind` is train or eval; eval keys get their prefix here."""
        if (kind, step) in self.written:
            return
        prefix = EVAL if kind == "eval" else ""
        row = {STEP_KEY: f"{step}/{self.max_steps}", **{prefix + key: value for key, value in values.items()}}
        with naming_full_disk(self.path), open(self.path, "ab") as handle:
            handle.write(json.dumps(row).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.written.add((kind, step))


def cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as handle:
            handle.truncate(content.rfind(b"\n") + 1)
            os.fsync(handle.fileno())


def read_log(path: Path) -> Log:
    """Read a log written by this project or by ms-swift.

    An unterminated last line that is not JSON is dropped with a warning. Of rows that repeat a step the last
    wins, key by key. Values that are not numbers are left out.

    Raises:
        UserError: the file cannot be read, or a line in the middle is broken (the message names the line).
    """
    log = Log(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                log.warnings.append(f"line {number} is torn (no line end) and was dropped")
                continue
            raise UserError(f"{path}: line {number} is broken ({error}): mend or remove that line") from error
        _take(row, number, log)
    return log


def _take(row: dict[str, Any], number: int, log: Log) -> None:
    step, max_steps = _step_of(row)
    if step is None:
        log.warnings.append(f"line {number} carries no step and was left out")
        return
    log.max_steps = max_steps or log.max_steps
    numbers = {key: float(value) for key, value in row.items() if _is_number(value) and key not in ("step", "global_step")}
    evals = {key.removeprefix(EVAL): value for key, value in numbers.items() if key.startswith(EVAL)}
    train = {key: value for key, value in numbers.items() if not key.startswith(EVAL)}
    if evals:
        log.evals.setdefault(step, {}).update(evals)
    if "loss" in train:
        log.train.setdefault(step, {}).update(train)


def _step_of(row: dict[str, Any]) -> tuple[int | None, int | None]:
    """(step, planned steps) from `640/720`, from `640` or from a number."""
    value = row.get(STEP_KEY, row.get("global_step", row.get("step")))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    parts = str(value).split("/")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 else None
    except ValueError:
        return None, None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
