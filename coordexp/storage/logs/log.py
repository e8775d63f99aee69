"""A log as every reader returns it: rows of numbers by step, and what the reader left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coordexp.errors import one_line

EVAL = "eval_"  # prefix of each key of an eval row
# A row with one of these keys and without a loss sums up the whole run: Hugging Face and ms-swift
# end every log with some.
SUMMARY_KEYS = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    "total_flos",
    "last_model_checkpoint",
    "best_model_checkpoint",
    "model_parameter_info",
    "log_history",
}

Row = dict[str, float]

# What follows from a doubt: nothing; some rows do not count; a grade above descriptive is refused.
Consequence = Literal["note", "not used", "caps"]


@dataclass(frozen=True)
class Doubt:
    """What a reader had to repair in a log, or could not know, as one sentence."""

    text: str
    consequence: Consequence


BY_USER = "--temperature"


@dataclass(frozen=True)
class Told:
    """What a log does not say of itself: from the user, or from a settings file beside the log.

    eval_set: the one to read, of a log with several.
    temperature: at which its `coord_diag/*` was computed.
    temperature_by: who says so: BY_USER, or the name of a settings file.
    accumulation: gradient accumulation steps.
    """

    eval_set: str | None = None
    temperature: float | None = None
    temperature_by: str | None = None
    accumulation: float | None = None


UNTOLD = Told()


@dataclass
class Log:
    """Rows by step, numbers only. Train keys are as written, eval keys without `eval_`.

    Eval keys have the names of this project, whatever dialect the log is in.
    """

    path: Path
    train: dict[int, Row] = field(default_factory=dict)
    evals: dict[int, Row] = field(default_factory=dict)
    max_steps: int | None = None  # planned
    doubts: list[Doubt] = field(default_factory=list)  # one for each reason
    rows: int = 0  # lines that were read as rows
    # Lines left out, by reason: a key of the reader's LEFT_OUT, or "summary".
    dropped: dict[str, int] = field(default_factory=dict)
    dialect: str = ""  # see dialects.DIALECTS
    temperature: float | None = None  # of `coord_diag/*`; None: unknown
    temperature_by: str | None = None  # who says so; None: the dialect
    eval_set: str | None = None  # of its evaluations; None: they name no set
    accumulation: float | None = None  # of a settings file beside the log

    @property
    def warnings(self) -> list[str]:
        return [doubt.text for doubt in self.doubts]

    def doubt(self, text: str, consequence: Consequence = "note") -> None:
        # A key that a text names may hold line breaks.
        self.doubts.append(Doubt(one_line(text), consequence))


def warn_of_repeats(log: Log, repeated: set[int], last_step: int) -> None:
    """Add warnings about steps that were logged more than once, as a restarted run does.

    `last_step` is the step of the last row. If it is not the highest step of the log, the run was
    restarted and stopped early, and the rows after it are from before the restart.
    """
    if not repeated:
        return
    if len(repeated) == 1:
        which = f"step {min(repeated)} was"
    else:
        which = f"{len(repeated)} steps from {min(repeated)} to {max(repeated)} were"
    log.doubt(f"{which} logged more than once: the last values count")
    newest = max([*log.train, *log.evals])
    if last_step < newest:
        log.doubt(
            f"the log ends at step {last_step}: "
            f"what it holds up to step {newest} is from before a restart"
        )
