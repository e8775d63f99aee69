"""Raw rows of any format to a `Log`: numbers by step, keys named as in this project."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import intern

from coordexp.errors import UserError
from coordexp.storage.logs.dialects import COMPARED_KEYS, COORD_MASS, Dialect, Format, recognise
from coordexp.storage.logs.doubts import examine
from coordexp.storage.logs.eval_sets import keep_one_eval_set
from coordexp.storage.logs.log import BY_USER, EVAL, LARGEST, SUMMARY_KEYS, Log, Told
from coordexp.storage.logs.number_rows import Row
from coordexp.storage.logs.resembling import doubt_resembling_keys
from coordexp.storage.logs.rollout_figures import set_rollouts_aside

LEFT_OUT = {
    "no step": "carries no step",
    "bad step": "carries a step that is not a whole number",
    "no values": "carries neither a numeric loss nor eval_ values",
    "beyond the plan": "carries a step beyond the planned number",
}
# Values that variants are compared on: one that is not a number is worth a doubt.
COMPARED = {EVAL + key for key in COMPARED_KEYS}

_STEP = re.compile(r"\s*(\d{1,15})\s*(?:/\s*(-?\d{1,15})\s*)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|nan|-?(Infinity|inf)", re.ASCII)


@dataclass(frozen=True)
class RawRow:
    """A row as a file has it.

    line: its number in the file, from 1.
    step, planned: as they are written; None where the row has none.
    values: the rest of the row. Keys of evaluations start with `eval_` or `eval/`.
    step_key: the key of the step.
    """

    line: int
    step: object
    values: Mapping[str, object]
    planned: object = None
    step_key: str = ""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers of a row.

    why_left_out: the reason, where it does not count for what it holds; else empty.
    beyond: its step lies beyond the planned number.
    """

    line: int
    step: int | None
    planned: int | None
    step_key: str
    train: Row
    evals: Row
    why_left_out: str
    beyond: bool


def add_rows(log: Log, rows: Iterable[RawRow], file_format: Format, told: Told) -> Log:
    """Fill a log with rows, in the order in which they were written. Returns the log.

    A row is left out if it has no step, a step that is not a whole number or (where most rows keep
    to it) beyond the planned number, or neither a numeric loss nor an evaluation's value: it is
    counted in `dropped`, and each reason gives one doubt. The summary rows at the end of a log are
    counted only. If rows repeat a step, the last value of each key counts, but for what `examine`
    leaves out. Numbers written as text ("0.53") are numbers; other values ("1h 2m", "25%", null)
    are left out, with a doubt if variants are compared on them.

    Raises:
        UserError: the log holds several evaluation sets and none is chosen, or not the chosen one,
            or a temperature was told that is not the log's.
    """
    left_out: dict[str, list[int]] = {}  # reason -> line numbers
    no_numbers: dict[str, list[int]] = {}  # key -> line numbers
    step_keys: set[str] = set()
    for row, beyond in _beyond_a_plan_that_holds(_numbers_of(raw, no_numbers) for raw in rows):
        if row.step is None or row.why_left_out or beyond:
            reason = "beyond the plan" if beyond else row.why_left_out
            left_out.setdefault(reason, []).append(row.line)
            continue
        step_keys.add(row.step_key)
        log.max_steps = row.planned or log.max_steps
        log.rows += 1
        log.add(row.step, row.train, row.evals)
    _doubt_left_out(log, left_out, no_numbers)
    # Before keys are renamed: these look at the evaluations as they were written.
    examine(log)
    set_rollouts_aside(log)
    keys = {key for by_step in (log.train, log.evals) for row in by_step.values() for key in row}
    interpret(log, recognise(file_format, keys | step_keys), told)
    return log


def _beyond_a_plan_that_holds(rows: Iterable[_Numbers]) -> Iterator[tuple[_Numbers, bool]]:
    """Each row, and whether its step lies beyond the plan while most rows keep to the plan.

    A log can be large: rows wait for the last one only from the first that lies beyond.
    """
    n, n_beyond = 0, 0
    waiting: list[_Numbers] = []
    for row in rows:
        n, n_beyond = n + 1, n_beyond + row.beyond
        if n_beyond:
            waiting.append(row)
        else:
            yield row, False
    plan_holds = 2 * n_beyond < n
    for row in waiting:
        yield row, plan_holds and row.beyond


def _doubt_left_out(
    log: Log, left_out: Mapping[str, list[int]], no_numbers: Mapping[str, list[int]]
) -> None:
    """Count the rows that were left out, and tell of them and of values that are no numbers.

    Args:
        left_out: line numbers by reason.
        no_numbers: line numbers by key.
    """
    for reason, lines in left_out.items():
        log.dropped[reason] = log.dropped.get(reason, 0) + len(lines)
        if reason in LEFT_OUT:
            log.doubt(_warning(LEFT_OUT[reason], lines), "not used")
    for key, lines in sorted(no_numbers.items()):
        log.doubt(
            f"{key} is not a number in {len(lines)} rows, the first is line {lines[0]}: "
            "these values were left out",
            "not used",
        )


def interpret(log: Log, dialect: Dialect, told: Told) -> None:
    """Give the eval rows of a log our keys, and note what the log says of itself.

    Raises:
        UserError: as `add_rows` does.
    """
    log.dialect = dialect.name
    keep_one_eval_set(log, told.eval_set)
    renamed = _rename(log, dialect.names)
    doubt_resembling_keys(log)
    log.temperature, log.temperature_by = dialect.temperature, None
    if dialect.temperature is None:
        log.temperature, log.temperature_by = told.temperature, told.temperature_by
    elif told.temperature_by == BY_USER and told.temperature != dialect.temperature:
        raise UserError(
            f"{log.path}: a log of {dialect.name} holds coord_diag/ at T = "
            f"{dialect.temperature:g}: leave out its --temperature"
        )
    mass = renamed.get(COORD_MASS)
    if mass and log.temperature != 1.0:
        log.doubt(
            f"the coordinate mass is {EVAL}{mass}, which CoordExp computes at the temperature of "
            "the loss, not at T = 1"
        )
    log.accumulation = told.accumulation


def flat_keys(values: Mapping[str, object]) -> Mapping[str, object]:
    """Keys as in a logging.jsonl: `eval/<key>`, of TensorBoard and W&B, becomes `eval_<key>`.

    `train/<key>` becomes `<key>`, unless the row is a train row without that: CoordExp has keys of
    this form beside its `loss`.
    """
    strip = "loss" not in values
    if not any(key.startswith(("eval/", "train/")) for key in values):
        return values
    flat: dict[str, object] = {}
    for key, value in values.items():
        if key.startswith("eval/"):
            key = EVAL + key.removeprefix("eval/")
        elif strip:
            key = key.removeprefix("train/")
        flat[key] = value
    return flat


def number_of(value: object) -> float | None:
    """A number of a row, or None; one beyond LARGEST is infinite."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) > LARGEST:
        return math.inf if value > 0 else -math.inf
    return float(value)


def _rename(log: Log, names: Mapping[str, str]) -> dict[str, str]:
    """Give the eval rows our keys. Returns {our key: theirs}, of the first row that has each."""
    renamed: dict[str, str] = {}
    for row in log.evals.values():
        for theirs, ours in names.items():
            if theirs not in row:
                continue
            value = row.pop(theirs)
            if ours not in row:
                row[ours] = value
                renamed.setdefault(ours, theirs)
    return renamed


def _split(values: Mapping[str, object]) -> tuple[Row, Row]:
    """The train and the eval values of a row.

    Without a loss there are no train values: eval rows repeat a few train keys. Rows share the
    text of a key, which JSON makes anew for each row.
    """
    train: Row = {}
    evals: Row = {}
    for key, value in values.items():
        number = number_of(value)
        if number is None or key == EVAL:
            continue
        if key.startswith(EVAL):
            evals[intern(key.removeprefix(EVAL))] = number
        else:
            train[intern(key)] = number
    if "loss" not in train:
        train = {}
    return train, evals


def _numbers_of(raw: RawRow, no_numbers: dict[str, list[int]]) -> _Numbers:
    """The numbers of a row; the line of a compared value that is none goes to `no_numbers`."""
    values = flat_keys(raw.values)
    for key in COMPARED & values.keys():
        if number_of(values[key]) is None:
            no_numbers.setdefault(key, []).append(raw.line)
    train, evals = _split(values)
    step, planned = _step_of(raw)
    counts = step is not None and bool(train or evals)
    why = "" if counts else _why_left_out(raw, values, bool(train or evals))
    beyond = step is not None and planned is not None and step > planned
    return _Numbers(raw.line, step, planned, raw.step_key, train, evals, why, beyond)


def _why_left_out(raw: RawRow, values: Mapping[str, object], has_values: bool) -> str:
    if not has_values:
        return "no values" if SUMMARY_KEYS.isdisjoint(values) else "summary"
    return "no step" if raw.step is None else "bad step"


def _step_of(raw: RawRow) -> tuple[int | None, int | None]:
    """(step, planned steps) from `640/720`, `640`, `640.0` or a number."""
    value = raw.step
    number = number_of(value.strip() if isinstance(value, str) else value)
    if number is not None and number.is_integer():
        value = int(number)
    match = _STEP.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None:
        return None, None
    if match[2] is None:
        of_row = number_of(raw.planned)
        planned = int(of_row) if of_row is not None and math.isfinite(of_row) else 0
    else:
        planned = int(match[2])
    return int(match[1]), planned if planned > 0 else None  # -1: the trainer does not know


def _warning(what: str, numbers: list[int]) -> str:
    warning = f"line {numbers[0]} {what} and was left out"
    if len(numbers) > 1:
        warning += f", and so were {len(numbers) - 1} rows more like it"
    return warning
