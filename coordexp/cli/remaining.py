"""How far the trainings of a study are, read from their logs, and how long the rest takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.logs.dialects import STEP_KEY, TIME_KEY
from coordexp.storage.logs.log import EVAL

TAIL_BYTES = 1 << 16  # of a log: the rows that tell the present speed
MAE_KEY = EVAL + "coord_diag/expected_bin_mae"


@dataclass(frozen=True)
class Position:
    """Where a training is."""

    step: int
    max_steps: int
    s_per_step: float | None  # measured, evaluations included; None before there are two rows
    mae: float | None  # of the last evaluation in the tail of the log


def position(log: Path, since_s: float) -> Position | None:
    """Where the training that writes this log is; None before its first row.

    Args:
        log: its logging.jsonl.
        since_s: when this start of the training began: rows before it tell nothing of its speed.
    """
    rows = last_rows(log)
    if not rows:
        return None
    step, max_steps = step_of(rows[-1])
    timed = [(row[TIME_KEY], step_of(row)[0]) for row in rows if row.get(TIME_KEY, 0) >= since_s]
    s_per_step = None
    if timed and timed[-1][1] > timed[0][1]:
        s_per_step = (timed[-1][0] - timed[0][0]) / (timed[-1][1] - timed[0][1])
    evaluated = [row[MAE_KEY] for row in rows if MAE_KEY in row]
    return Position(step, max_steps, s_per_step, evaluated[-1] if evaluated else None)


def last_rows(log: Path) -> list[dict]:
    """The rows at the end of a log that is being written."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = handle.read().split(b"\n")
    except FileNotFoundError:
        return []
    # The last piece is an unfinished line or nothing; the first may be cut.
    return [json.loads(line) for line in lines[:-1] if line.startswith(b"{") and line[-1:] == b"}"]


def step_of(row: dict) -> tuple[int, int]:
    """The step of a row and the last step that is planned."""
    step, _, max_steps = row[STEP_KEY].partition("/")
    return int(step), int(max_steps)


def left_together_s(jobs: Sequence[float], at_once: int) -> float:
    """How long these jobs take if so many of them run at the same time."""
    return max(max(jobs, default=0.0), sum(jobs) / at_once)


def in_words(seconds: float) -> str:
    """A duration as one says it: `40 s`, `3.5 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
