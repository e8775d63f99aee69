"""Reading trainer_state.json, in which Hugging Face's Trainer keeps its log with each checkpoint.

`log_history` is the list of logged rows so far, each with its `step`; `max_steps` is planned.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.files import read_bytes, read_json
from coordexp.storage.logs.dialects import TRAINER_STATE
from coordexp.storage.logs.jsonl import raw_row
from coordexp.storage.logs.log import UNTOLD, Log, Told
from coordexp.storage.logs.rows import RawRow, add_rows

NAME = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,15})", re.ASCII)


def read_trainer_state(path: Path, told: Told = UNTOLD) -> Log:
    """Read the log that a trainer state holds.

    Lines are counted by the entries of `log_history`.

    Raises:
        UserError: it cannot be read, is not a trainer state, holds no row, or several evaluation
            sets of which none is chosen.
    """
    state = read_json(path, "it is damaged, or not a trainer state: take another checkpoint's")
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise UserError(f"{path}: has no list log_history: not a trainer state")
    log = Log(path)
    rows: list[RawRow] = []
    for line, row in enumerate(history, start=1):
        if isinstance(row, dict):
            rows.append(raw_row(line, row, state.get("max_steps")))
        else:
            log.dropped["no row"] = log.dropped.get("no row", 0) + 1
    if "no row" in log.dropped:
        log.doubt(f"{log.dropped['no row']} entries of log_history are no rows", "not used")
    return add_rows(log, rows, TRAINER_STATE, told)


def is_trainer_state(path: Path) -> bool:
    """Whether a file is a trainer state, by its name or its content."""
    if path.name == NAME:
        return True
    if path.suffix != ".json":
        return False
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        return False  # more than one JSON value: a log of JSON lines
    return isinstance(content, dict) and "log_history" in content and "step" not in content


def last_trainer_state(directory: Path) -> Path | None:
    """The trainer state of an output directory, that with the most steps; None without any.

    A Trainer writes one into each checkpoint, and one beside them when it ends. A directory that is
    itself a checkpoint has only its own.
    """
    checkpoints: list[tuple[int, Path]] = []
    for path in directory.glob(f"checkpoint-*/{NAME}"):
        if match := _CHECKPOINT.fullmatch(path.parent.name):
            checkpoints.append((int(match[1]), path))
    last_step, last = max(checkpoints, default=(0, None))
    own = directory / NAME
    if own.is_file() and (last is None or steps_done(own) >= last_step):
        return own
    return last


def steps_done(path: Path) -> int:
    """The step at which a trainer state was written; 0 if it does not say.

    Raises:
        UserError: the file is damaged.
    """
    state: Any = read_json(path, "it is damaged, or not a trainer state")
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) else 0
