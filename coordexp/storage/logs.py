"""logging.jsonl: flat JSON rows, appended while training, read by everything after it.

A row carries `"global_step/max_steps": "640/720"`. Eval rows have `eval_` before each key. Files of ms-swift
are read too: extra keys, steps as strings, train and eval in one row or two, restarts that repeat steps. What is
left out is counted and said.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.files import naming_full_disk

STEP_KEY = "global_step/max_steps"
STEP_KEYS = (
    STEP_KEY,
    "global_step",
    "step",
    "iteration",
)  # ms-swift, trainer states, Megatron-SWIFT; the first counts
EVAL = "eval_"
# A row with one of these and without a loss sums up the whole run: Hugging Face and ms-swift end every log with some.
SUMMARY_KEYS = {
    "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos",
    "last_model_checkpoint", "best_model_checkpoint", "model_parameter_info", "log_history",
}  # fmt: skip
LEFT_OUT = {
    "no step": "carries no step",
    "bad step": "carries a step that is not a whole number",
    "no values": "carries neither a numeric loss nor eval_ values",
}
NOT_A_LOG = {
    b"\x1f\x8b": "is gzip'ed: unpack it first",
    codecs.BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
}
_STEP = re.compile(r"\s*(\d{1,15})\s*(?:/\s*(-?\d{1,15})\s*)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|nan|-?(Infinity|inf)", re.ASCII)

Row = dict[str, float]


@dataclass
class Log:
    """Rows by step, numbers only. Train keys as written; eval keys without `eval_`."""

    path: Path
    train: dict[int, Row] = field(default_factory=dict)
    evals: dict[int, Row] = field(default_factory=dict)
    max_steps: int | None = None
    warnings: list[str] = field(default_factory=list)  # one a reason
    rows: int = 0  # lines that were taken
    dropped: dict[str, int] = field(
        default_factory=dict
    )  # reason (LEFT_OUT, or "summary") -> lines left out
    repeated_steps: int = 0  # steps logged more than once, by a restart


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
        row = {
            STEP_KEY: f"{step}/{self.max_steps}",
            **{prefix + key: value for key, value in values.items()},
        }
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

    An unterminated last line that is not JSON is dropped with a warning. A row without a step, with a step that is
    not a whole number, or without any numeric loss or `eval_` value is left out, counted in `dropped`, and named in
    one warning a reason; the summary rows that end a log are counted only. Of rows that repeat a step, and of a key
    that one row names twice, the last wins, key by key. Numbers written as strings ("0.53") are numbers; other
    values ("1h 2m", "25%", null) are left out.

    Raises:
        UserError: the file cannot be read, or a line in the middle is broken (the message names the line).
    """
    log = Log(path)
    repeated: set[int] = set()
    left_out: dict[str, list[int]] = {}  # reason -> line numbers
    last_step = 0
    for number, row in _rows(path, log.warnings):
        train, evals = _split(row)
        step, max_steps = _step_of(row)
        if step is None or not (train or evals):
            left_out.setdefault(_why_left_out(row, bool(train or evals)), []).append(number)
            continue
        last_step, log.max_steps, log.rows = step, max_steps or log.max_steps, log.rows + 1
        for rows, values in ((log.train, train), (log.evals, evals)):
            if values:
                known = rows.setdefault(step, {})
                if not known.keys().isdisjoint(values):
                    repeated.add(step)
                known.update(values)
    log.dropped = {reason: len(numbers) for reason, numbers in left_out.items()}
    log.warnings += [
        _warning(LEFT_OUT[reason], numbers)
        for reason, numbers in left_out.items()
        if reason in LEFT_OUT
    ]
    note_repeats(log, repeated, last_step)
    return log


def note_repeats(log: Log, repeated: set[int], last_step: int) -> None:
    """Say which steps came more than once, and whether what stands last in the log is older than the restart."""
    log.repeated_steps = len(repeated)
    if not repeated:
        return
    first, last, newest = min(repeated), max(repeated), max([*log.train, *log.evals])
    which = (
        f"step {first} was"
        if first == last
        else f"{len(repeated)} steps from {first} to {last} were"
    )
    log.warnings.append(f"{which} logged more than once: the last values count")
    if last_step < newest:
        log.warnings.append(
            f"the log ends at step {last_step}: what it holds up to step {newest} is from before a restart"
        )


def _rows(path: Path, warnings: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a log and their line numbers; a torn last line becomes a warning."""
    lines = _content(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            if number < len(lines):
                raise UserError(
                    f"{path}: line {number} is broken ({error}): mend or remove that line"
                ) from error
            warnings.append(f"line {number} is torn (no line end) and was dropped")
        else:
            yield number, row


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for magic, what in NOT_A_LOG.items():
        if content.startswith(magic):
            raise UserError(f"{path}: {what}")
    return content.removeprefix(codecs.BOM_UTF8)


def _parse(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises ValueError, saying in a few words what is wrong with it."""
    try:
        text = line.decode()
        row = json.loads(text)
        if "\\u" in text and isinstance(row, dict):
            "".join(row).encode()
    except UnicodeError as error:
        raise ValueError("not valid Unicode") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError("a whole number of thousands of digits") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _split(row: dict[str, Any]) -> tuple[Row, Row]:
    """(train, eval) values of a row. Without a loss there are no train values: eval rows repeat a few train keys."""
    train, evals = {}, {}
    for key, value in row.items():
        number = _number(value)
        if number is None or key in STEP_KEYS or key == EVAL:
            continue
        if key.startswith(EVAL):
            evals[key.removeprefix(EVAL)] = number
        else:
            train[key] = number
    return (train if "loss" in train else {}), evals


def _why_left_out(row: dict[str, Any], has_values: bool) -> str:
    if not has_values:
        return "no values" if SUMMARY_KEYS.isdisjoint(row) else "summary"
    return "no step" if all(row.get(key) is None for key in STEP_KEYS) else "bad step"


def _step_of(row: dict[str, Any]) -> tuple[int | None, int | None]:
    """(step, planned steps) from `640/720`, from `640` or from a number."""
    value = next((row[key] for key in STEP_KEYS if row.get(key) is not None), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = _STEP.fullmatch(str(value)) if isinstance(value, int | str) else None
    if found is None:
        return None, None
    planned = int(found[2] or 0)  # -1 where a trainer does not know
    return int(found[1]), planned if planned > 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        return float(value)
    return None


def _warning(what: str, numbers: list[int]) -> str:
    others = f", and so were {len(numbers) - 1} rows more like it" if len(numbers) > 1 else ""
    return f"line {numbers[0]} {what} and was left out{others}"
