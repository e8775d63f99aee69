"""Dialects of logs: what each trainer writes, where, and what its keys are called here.

A dialect is plain data. A reader yields the rows of a file format; `rows.py` turns them into a
`Log` with the help of the dialect. docs/logs.md is generated from this file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from coordexp.metrics import BESIDE, METRICS, TEMPERATURE_PREFIX, log_key

Format = Literal["JSON lines", "trainer state", "TensorBoard", "W&B CSV"]
JSON_LINES: Final = "JSON lines"
TRAINER_STATE: Final = "trainer state"
TENSORBOARD: Final = "TensorBoard"
WANDB: Final = "W&B CSV"

STEP_KEY = "global_step/max_steps"
TIME_KEY = "time_unix_s"  # when a row was written
ACCUMULATION_KEY = "accum/grad_steps"  # gradient accumulation steps, in train rows
COORD_MASS = "coord_diag/coord_mass_mean"

# What CoordExp (Pein2017/CoordExp), and trainers after its example, call the values of an eval row
# that are compared here. If a row holds several names of one value, our own name counts, else the
# first of these.
COORDEXP_NAMES: Mapping[str, str] = {
    "coord_diag/coord_token_acc": "coord_token_acc",
    "coord_diag/text_token_acc": "text_token_acc",
    "coord_diag/coord_vocab_mass": COORD_MASS,
    "coord_diag/coord_vocab_mass_mean": COORD_MASS,
    "coord_vocab_mass": COORD_MASS,
    "coord_mass_mean": COORD_MASS,
    "gate/coord_slot_coord_mass_mean": COORD_MASS,
    "coord_monitor/coord_vocab_mass_at_gt_coord": COORD_MASS,
}

# The keys of an eval row, ours and theirs, whose values are compared between variants.
COMPARED_KEYS = frozenset(COORDEXP_NAMES).union(
    log_key(name, temperature) for name in (*METRICS, *BESIDE) for temperature in TEMPERATURE_PREFIX
)

# Keys of eval rows that resemble a metric and are something else: they are no misspelt metrics.
OTHER_VALUES = frozenset(
    {
        "token_acc",
        "acc",
        "token_acc_top5",
        "coord_token_acc_top5",
        "coord_diag/acc_top5",
        "desc_token_acc",
        "desc_token_acc_top5",
        "format_token_acc",
        "format_token_acc_top5",
        "coord_token_frac",
        "desc_token_frac",
        "format_token_frac",
        "mean_token_accuracy",
        "coord_diag/coord_tokens",
        "coord_diag/coord_tokens_per_sample",
        "coord_diag/coord_tokens_total",
        "coord_diag/margin_mean",
        "coord_diag/soft_ce",
        "coord_diag/w1",
        "coord_diag/ce",
        "coord_diag/text_coord_vocab_mass",
        "gate/text_slot_coord_mass_mean",
        "coord_monitor/coord_vocab_mass_at_gt_text",
        "coord_monitor/coord_vocab_mass_at_gt_desc",
        "coord_monitor/coord_vocab_mass_at_gt_format",
    }
)


@dataclass(frozen=True)
class Dialect:
    """How one trainer, or one export of it, writes a log.

    files: what a path may be.
    format: of the file. Of the dialects of one format the first that is recognised counts.
    marks: beginnings of eval or train keys (without `eval_`), one of which makes a log of this
        format this dialect; empty if every log of the format is.
    step: where a row has its step.
    names: their key of an eval row -> ours; keys that are not here are called as here.
    temperature: at which `coord_diag/*` is computed; None if it is another one in each run.
    accumulation: the key of the gradient accumulation steps in a train row; None if rows lack it.
    """

    name: str
    files: str
    format: Format
    step: str
    marks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=lambda: COORDEXP_NAMES)
    temperature: float | None = None
    accumulation: str | None = None


# A log with values at the temperature of the loss and at a fitted one beside those at T = 1 is of
# this project, whatever file it is in.
OWN_MARKS = tuple(f"{prefix}/" for t, prefix in TEMPERATURE_PREFIX.items() if t != "1")

OWN = Dialect(
    "this project",
    "`logging.jsonl`, or a run directory",
    JSON_LINES,
    f"`{STEP_KEY}`",
    marks=OWN_MARKS,
    names={},
    temperature=1.0,
    accumulation=ACCUMULATION_KEY,
)
DIALECTS = (
    OWN,
    Dialect(
        "LLaMA-Factory",
        "`trainer_log.jsonl`; where a `trainer_state.json` lies beside it, that is read, because "
        "it holds every metric",
        JSON_LINES,
        "`current_steps`, of `total_steps`",
        marks=("current_steps",),
    ),
    Dialect(
        "CoordExp",
        "`logging.jsonl`",
        JSON_LINES,
        f"`{STEP_KEY}`",
        marks=("coord_diag/", "coord_monitor/", "coord_softce_w1/", "base_ce/", "accum/"),
        accumulation=ACCUMULATION_KEY,
    ),
    Dialect(
        "ms-swift",
        "`logging.jsonl`",
        JSON_LINES,
        f"`{STEP_KEY}` (numbers, or `640/720` as text), else `global_step`, `step` or `iteration`",
    ),
    Dialect(
        "Hugging Face Trainer",
        "`trainer_state.json`, a `checkpoint-*` directory, or an output directory with some (the "
        "last one counts)",
        TRAINER_STATE,
        "`step` of each entry of `log_history`, of `max_steps`",
        accumulation=ACCUMULATION_KEY,
    ),
    Dialect(
        "TensorBoard",
        "an event file, or a directory of those of one run",
        TENSORBOARD,
        "the step of an event; tags `train/…` and `eval/…`",
        accumulation=ACCUMULATION_KEY,
    ),
    Dialect(
        "W&B CSV export",
        "a `.csv` file: a table of the run's history, or the data of charts; `__MIN` and `__MAX` "
        "columns are left out",
        WANDB,
        "`train/global_step`, else `trainer/global_step`, `global_step`, `Step` or `_step`",
        accumulation=ACCUMULATION_KEY,
    ),
)


def recognise(file_format: Format, keys: Collection[str]) -> Dialect:
    """The dialect of a log.

    Args:
        keys: all keys of its rows, those of eval rows without `eval_`.
    """
    if any(key.startswith(OWN.marks) for key in keys):
        return OWN
    candidates = [dialect for dialect in DIALECTS if dialect.format == file_format]
    for dialect in candidates:
        if dialect.marks and any(key.startswith(dialect.marks) for key in keys):
            return dialect
    return next(dialect for dialect in candidates if not dialect.marks)
