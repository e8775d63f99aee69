"""Reading logging.jsonl, as this project and ms-swift write it.

ms-swift's files have extra keys, steps as strings, train and eval values in one row or in two, and
repeated steps after a restart. Rows that the reader leaves out are counted and give a warning.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from coordexp.errors import UserError
from coordexp.metrics import BESIDE, METRICS, TEMPERATURE_PREFIX, log_key
from coordexp.storage.files import read_bytes
from coordexp.storage.logs.log import EVAL, SUMMARY_KEYS, Log, Row, warn_of_repeats

STEP_KEY = "global_step/max_steps"
# The key of the step as ms-swift, trainer states and Megatron-SWIFT write it; the first one counts.
STEP_KEYS = (STEP_KEY, "global_step", "step", "iteration")
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
# Values that variants are compared on: one that is not a number is worth a warning.
COMPARED_KEYS = {
    EVAL + log_key(m.name, temperature)
    for m in (*METRICS.values(), *BESIDE.values())
    for temperature in TEMPERATURE_PREFIX
}
LARGEST = 1e100
JsonRow: TypeAlias = dict[str, object]

_STEP = re.compile(r"\s*(\d{1,15})\s*(?:/\s*(-?\d{1,15})\s*)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|nan|-?(Infinity|inf)", re.ASCII)


def read_log(path: Path) -> Log:
    """Read a log written by this project or by ms-swift.

    A last line without a line end that is not JSON is dropped with a warning. A row is left out if
    it has no step, a step that is not a whole number, or neither a numeric loss nor an `eval_`
    value: it is counted in `dropped`, and each reason gives one warning. The summary rows at the
    end of a log are counted only. If rows repeat a step, or a row repeats a key, the last value of
    each key counts. Numbers written as strings ("0.53") are numbers; other values ("1h 2m", "25%",
    null) are left out, with a warning if variants are compared on them.

    Raises:
        UserError: the file cannot be read, or a line before the last is broken (the message names
            the line).
    """
    log = Log(path)
    repeated: set[int] = set()
    left_out: dict[str, list[int]] = {}  # reason -> line numbers
    no_numbers: dict[str, list[int]] = {}  # key -> line numbers
    last_step = 0
    for number, row in _rows(path, log):
        for key in COMPARED_KEYS & row.keys():
            if _number(row[key]) is None:
                no_numbers.setdefault(key, []).append(number)
        train, evals = _split(row)
        step, max_steps = _step_of(row)
        has_values = bool(train or evals)
        if step is None or not has_values:
            left_out.setdefault(_why_left_out(row, has_values), []).append(number)
            continue
        last_step = step
        log.max_steps = max_steps or log.max_steps
        log.rows += 1
        for rows, values in ((log.train, train), (log.evals, evals)):
            if values:
                known = rows.setdefault(step, {})
                if not known.keys().isdisjoint(values):
                    repeated.add(step)
                known.update(values)
    for reason, numbers in left_out.items():
        log.dropped[reason] = len(numbers)
        if reason in LEFT_OUT:
            log.doubt(_warning(LEFT_OUT[reason], numbers), "not used")
    for key, numbers in sorted(no_numbers.items()):
        log.doubt(
            f"{key} is not a number in {len(numbers)} rows, the first is line {numbers[0]}: "
            "these values were left out",
            "not used",
        )
    warn_of_repeats(log, repeated, last_step)
    return log


def read_log_if_any(path: Path) -> Log:
    """The log, or one without rows where the file does not exist.

    Raises:
        UserError: as `read_log` does.
    """
    return read_log(path) if path.exists() else Log(path)


def _rows(path: Path, log: Log) -> Iterator[tuple[int, JsonRow]]:
    """The objects of a log with their line numbers; an incomplete last line becomes a doubt."""
    lines = _content(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            # Only the last element of the split has no line end after it.
            if number < len(lines):
                raise UserError(
                    f"{path}: line {number} is broken ({error}): mend or remove that line"
                ) from error
            log.doubt(f"line {number} is torn (no line end) and was dropped", "not used")
        else:
            yield number, row


def _content(path: Path) -> bytes:
    content = read_bytes(path)
    for magic, what in NOT_A_LOG.items():
        if content.startswith(magic):
            raise UserError(f"{path}: {what}")
    return content.removeprefix(codecs.BOM_UTF8)


def _parse(line: bytes) -> JsonRow:
    """The object of a line. Raises ValueError, saying in a few words what is wrong with it."""
    try:
        text = line.decode()
        row = json.loads(text)
        if "\\u" in text and isinstance(row, dict):
            # An escape can stand for half a surrogate pair, which cannot be encoded as UTF-8.
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


def _split(row: JsonRow) -> tuple[Row, Row]:
    """The train and the eval values of a row.

    Without a loss there are no train values: eval rows repeat a few train keys.
    """
    train: Row = {}
    evals: Row = {}
    for key, value in row.items():
        number = _number(value)
        if number is None or key in STEP_KEYS or key == EVAL:
            continue
        if key.startswith(EVAL):
            evals[key.removeprefix(EVAL)] = number
        else:
            train[key] = number
    if "loss" not in train:
        train = {}
    return train, evals


def _why_left_out(row: JsonRow, has_values: bool) -> str:
    if not has_values:
        return "no values" if SUMMARY_KEYS.isdisjoint(row) else "summary"
    return "no step" if all(row.get(key) is None for key in STEP_KEYS) else "bad step"


def _step_of(row: JsonRow) -> tuple[int | None, int | None]:
    """(step, planned steps) from `640/720`, from `640` or from a number."""
    value = next((row[key] for key in STEP_KEYS if row.get(key) is not None), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    match = _STEP.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None:
        return None, None
    planned = int(match[2] or 0)  # a trainer that does not know the number writes -1
    return int(match[1]), planned if planned > 0 else None


def _number(value: object) -> float | None:
    """A number of a row, or None. One above LARGEST has overflowed: such values have no sum."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) > LARGEST:
        return math.inf if value > 0 else -math.inf
    return float(value)


def _warning(what: str, numbers: list[int]) -> str:
    warning = f"line {numbers[0]} {what} and was left out"
    if len(numbers) > 1:
        warning += f", and so were {len(numbers) - 1} rows more like it"
    return warning
