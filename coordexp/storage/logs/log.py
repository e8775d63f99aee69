"""A log as every reader returns it: rows of numbers by step, and what the reader left out."""

from __future__ import annotations

import math
import re
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from coordexp.errors import escaped, one_line
from coordexp.storage.logs.number_rows import NumberRows, Row

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

SHOWN_CHARACTERS = 80  # of a key
LARGEST = 1e100  # a number beyond it has overflowed: such values have no sum

# Keys that tell how a row came about, such as its speed. They differ between two rows of the same
# weights; all other values are figures of the run.
_BOOKKEEPING = re.compile(
    r"epoch|runtime|per_second|speed|memory|flos|tokens_seen|elapsed|(^|[_/])time($|_)"
)

# What follows from a doubt: nothing; some rows do not count; a grade above descriptive is refused.
Consequence = Literal["note", "not used", "caps"]


@dataclass(frozen=True)
class Doubt:
    """What had to be repaired in a log, or cannot be known from it, as one sentence."""

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
    written: for each step that was evaluated more than once, its evaluations in order.
    written_in: the number of the pass of each of these.
    rewritten: steps of which a later row gave other figures than an earlier one.
    passes: (lowest, highest) step of each pass; a pass ends where a row goes back to a lower step.
    sorted_restarts: steps with two train rows in one pass, as where rows were sorted by step.
    repeats: steps whose only evaluation is that of an earlier step, which is not in `evals`.
    """

    path: Path
    train: MutableMapping[int, Row] = field(default_factory=NumberRows)
    evals: dict[int, Row] = field(default_factory=dict)
    rollouts: dict[int, Row] = field(default_factory=dict)  # see rollout_figures.py
    max_steps: int | None = None  # planned
    doubts: list[Doubt] = field(default_factory=list)  # one for each reason
    rows: int = 0  # lines that were read as rows
    # Lines left out, by a reason of the reader: "no step", "summary" (of the run), …
    dropped: dict[str, int] = field(default_factory=dict)
    dialect: str = ""  # see dialects.DIALECTS
    temperature: float | None = None  # of `coord_diag/*`; None: unknown
    temperature_by: str | None = None  # who says so; None: the dialect
    eval_set: str | None = None  # of its evaluations; None: they name no set
    accumulation: float | None = None  # of a settings file beside the log
    written: dict[int, list[Row]] = field(default_factory=dict)
    written_in: dict[int, list[int]] = field(default_factory=dict, compare=False)
    rewritten: set[int] = field(default_factory=set)
    passes: list[tuple[int, int]] = field(default_factory=list, compare=False)
    sorted_restarts: set[int] = field(default_factory=set, compare=False)
    last_step: int = field(default=0, compare=False)  # of the row that was added last
    # In which pass each step was logged last.
    _train_pass: dict[int, int] = field(default_factory=dict, compare=False, repr=False)
    _eval_pass: dict[int, int] = field(default_factory=dict, compare=False, repr=False)
    repeats: set[int] = field(default_factory=set)

    @property
    def warnings(self) -> list[str]:
        return [doubt.text for doubt in self.doubts]

    def doubt(self, text: str, consequence: Consequence = "note") -> None:
        # A key that a text names may hold line breaks.
        self.doubts.append(Doubt(one_line(text), consequence))

    def add(self, step: int, train: Row, evals: Row) -> None:
        """Add the values of one row, in the order of writing: the last value of a key counts."""
        if not self.passes or step < self.last_step:
            self.passes.append((step, step))
        lowest, highest = self.passes[-1]
        self.passes[-1] = (lowest, max(highest, step))
        self.last_step = step
        if evals and step in self.evals:
            self._add_version(step, evals)
        self._note_pass(step, bool(train), bool(evals))
        for rows, values in ((self.train, train), (self.evals, evals)):
            if not values:
                continue
            known = rows.get(step, {})
            if any(differ(known[key], values[key]) for key in figures(known, values)):
                self.rewritten.add(step)
            rows[step] = known | values

    def _add_version(self, step: int, evals: Row) -> None:
        """Note that a step was evaluated again, or that a row completes its last evaluation."""
        newest = self.written[step][-1] if step in self.written else self.evals[step]
        if not newest.keys().isdisjoint(evals):
            self.written.setdefault(step, [dict(newest)]).append(dict(evals))
            passes = self.written_in.setdefault(step, [self._eval_pass[step]])
            passes.append(len(self.passes))
        elif step in self.written:
            newest.update(evals)

    def _note_pass(self, step: int, trained: bool, evaluated: bool) -> None:
        """Remember in which pass a step was logged."""
        number = len(self.passes)
        if trained:
            if self._train_pass.get(step) == number:
                self.sorted_restarts.add(step)
            self._train_pass[step] = number
        if evaluated:
            self._eval_pass[step] = number


def shown_key(key: str) -> str:
    """A key as a sentence names it: printable, and not longer than a line."""
    shown = escaped(key)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}… ({len(key)} characters)"
    return shown


def figures(first: Row, second: Row) -> list[str]:
    """The keys that two rows share, without those that only tell how a row came about."""
    return [key for key in first if key in second and is_figure(key)]


@cache
def is_figure(key: str) -> bool:
    return not _BOOKKEEPING.search(key)


def differ(first: float, second: float) -> bool:
    """Whether two numbers differ; two that are not a number do not."""
    return first != second and not (math.isnan(first) and math.isnan(second))
