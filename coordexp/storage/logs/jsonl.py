"""Reading logs of one JSON object a line: this project, ms-swift, CoordExp, LLaMA-Factory.

ms-swift's files have extra keys, steps as strings, train and eval values in one row or in two, and
repeated steps after a restart. Rows that the reader leaves out are counted and give a warning.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from coordexp.errors import UserError, require_regular
from coordexp.storage.files import read_bytes
from coordexp.storage.logs.dialects import JSON_LINES, STEP_KEY
from coordexp.storage.logs.log import UNTOLD, Log, Told, shown_key
from coordexp.storage.logs.rows import RawRow, add_rows

# The key of the step as ms-swift, trainer states, Megatron-SWIFT and LLaMA-Factory write it, and
# LLaMA-Factory's key of the planned steps; the first one counts.
STEP_KEYS = (STEP_KEY, "global_step", "step", "iteration", "current_steps")
PLANNED_KEY = "total_steps"
NOT_A_LOG = {
    b"\x1f\x8b": "is gzip'ed: unpack it first",
    codecs.BOM_UTF16_LE: "is UTF-16: save it as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16: save it as UTF-8",
}
JsonRow: TypeAlias = dict[str, object]


def read_log(path: Path, told: Told = UNTOLD) -> Log:
    """Read a log of JSON lines; `add_rows` says which rows count.

    A last line without a line end that is not JSON is dropped with a warning. If a row gives a key
    twice, the last value counts, and a doubt names the first such row.

    Raises:
        UserError: the file cannot be read, a line before the last is broken (the message names the
            line), or the log holds several evaluation sets and none is chosen.
    """
    log = Log(path)
    return add_rows(log, _rows(path, log), JSON_LINES, told)


def read_log_if_any(path: Path, told: Told = UNTOLD) -> Log:
    """The log, or one without rows where the file does not exist.

    Raises:
        UserError: as `read_log` does.
    """
    return read_log(path, told) if path.exists() else Log(path, temperature=told.temperature)


def text_content(path: Path) -> bytes:
    """The bytes of a text file, without a byte order mark.

    Raises:
        UserError: it cannot be read, or is compressed, or UTF-16.
    """
    return _checked_start(path, read_bytes(path))


def _checked_start(path: Path, content: bytes) -> bytes:
    """The start of a text file, without a byte order mark. Raises UserError as `text_content`."""
    for magic, what in NOT_A_LOG.items():
        if content.startswith(magic):
            raise UserError(f"{path}: {what}")
    return content.removeprefix(codecs.BOM_UTF8)


def raw_row(line: int, row: JsonRow, planned: object = None) -> RawRow:
    """A row of JSON: its step under the first key that has one, and the rest."""
    step_key = next((key for key in STEP_KEYS if row.get(key) is not None), "")
    values = {key: value for key, value in row.items() if key not in STEP_KEYS}
    if step_key == "current_steps":
        planned = values.pop(PLANNED_KEY, planned)
    return RawRow(line, row.get(step_key), values, planned, step_key)


def _rows(path: Path, log: Log) -> Iterator[RawRow]:
    """The objects of a log with their line numbers.

    An incomplete last line becomes a doubt, and so do keys that are given twice.
    """
    repeated = 0  # the first line that gives a key twice
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            # Only the last line of a file has no line end.
            if line.endswith(b"\n"):
                raise UserError(
                    f"{path}: line {number} is broken ({error}): mend or remove that line"
                ) from error
            log.doubt(f"line {number} is torn (no line end) and was dropped", "not used")
        else:
            if not repeated and (key := _repeated_key(line, row)):
                repeated = number
                log.doubt(
                    f"line {number} gives {shown_key(key)} twice: the last value counts", "caps"
                )
            yield raw_row(number, row)


def _repeated_key(line: bytes, row: JsonRow) -> str:
    """A key that the object of a line gives twice with different values; "" if there is none."""
    if line.count(b'":') + line.count(b'" :') <= len(row):
        return ""  # no more colons behind a quote than keys

    found: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> JsonRow:
        values: JsonRow = {}
        for key, value in pairs:
            if key in values and values[key] != value:
                found.append(key)
            values[key] = value
        return values

    json.loads(line, object_pairs_hook=note)
    return found[0] if found else ""


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a log, read one after the other: a log can be larger than the memory."""
    require_regular(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                yield line if number else _checked_start(path, line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


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
