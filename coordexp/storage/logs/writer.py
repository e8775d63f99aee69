"""Writing logging.jsonl: one flat JSON row per train or eval event, flushed to the disk each time.

A row carries `"global_step/max_steps": "640/720"`. Eval rows have `eval_` before each key.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from coordexp.storage.files import naming_full_disk
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.jsonl import read_log_if_any
from coordexp.storage.logs.log import EVAL

Kind = Literal["train", "eval"]


class LogWriter:
    """Append rows to a log. A row that the log already has is not written again.

    Opening the log removes an incomplete last line, which a kill during a write leaves behind.
    """

    def __init__(self, path: Path, max_steps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.max_steps = max_steps
        cut_torn_line(path)
        log = read_log_if_any(path)
        self.written: set[tuple[Kind, int]] = set()
        for step in log.train:
            self.written.add(("train", step))
        for step in log.evals:
            self.written.add(("eval", step))

    def has_eval(self, step: int) -> bool:
        return ("eval", step) in self.written

    def append(self, kind: Kind, step: int, values: dict[str, float]) -> None:
        """Write one row. The prefix of eval keys is added here."""
        if (kind, step) in self.written:
            return
        prefix = EVAL if kind == "eval" else ""
        row: dict[str, str | float] = {STEP_KEY: f"{step}/{self.max_steps}"}
        for key, value in values.items():
            row[prefix + key] = value
        with naming_full_disk(self.path), open(self.path, "ab") as handle:
            handle.write(json.dumps(row).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.written.add((kind, step))


def cut_torn_line(path: Path) -> None:
    """Truncate a file after its last line end."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as handle:
            handle.truncate(content.rfind(b"\n") + 1)
            os.fsync(handle.fileno())
