"""docs/logs.md, the page of the logs that can be read, generated from their dialects.

python -m coordexp.cli.log_page        writes docs/logs.md
"""

from __future__ import annotations

from pathlib import Path

from coordexp.cli.markdown import table
from coordexp.metrics import BESIDE, METRICS, REGISTRY, log_key
from coordexp.storage.files import write_text
from coordexp.storage.logs import settings
from coordexp.storage.logs.dialects import ACCUMULATION_KEY, DIALECTS, Dialect
from coordexp.storage.logs.log import EVAL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "logs.md"

TEMPLATE = """\
<!-- Written by `python -m coordexp.cli.log_page`; change coordexp/storage/logs/dialects.py. -->
# Logs that are read

`coordexp compare NAME=PATH …` reads the logs of this project and of other trainers. Each has its
own *dialect*: where it writes a step, and what it calls a value. PATH may be the log, or a
directory with it: a run directory, an output directory, a checkpoint.

{dialects}

A directory with several of these stands for the first one that it has: `logging.jsonl`,
`trainer_state.json`, `trainer_log.jsonl`, event files.

## Keys of an evaluation

In an eval row each key starts with `{eval}`, in TensorBoard and W&B with `eval/`. These are the
values that are compared between variants, or that set a bar:

{keys}

Where a row holds several names of one value, that of this project counts, else the first one
listed. A key that is none of these but resembles a metric that the log lacks is not read; the audit
names it.

## Temperature

`coord_diag/…` depends on the softmax temperature at which the coordinate distribution was computed.
This project computes it at T = 1; its other temperatures have keys of their own
([metrics](metrics.md)). CoordExp computes it at the temperature of each run's loss, and no log says
which that is. So it is *unknown*, and the card says so, unless you tell it (`--temperature
NAME=0.7`), or a settings file beside the log has a `temperature` in its group `{objective}`. These
files are read, from the log's directory (for a checkpoint or `runs/…` also from the directory
above): {files}. Files that contradict each other tell
nothing. Runs at different or unknown temperatures are compared all the same; the card then names
the metrics that depend on it.

## Gradient accumulation

It is read from `{accumulation}` in train rows, else from `{setting}` in one of the settings files,
else it is unknown. Without it the audit cannot tell a loss that was scaled wrongly.

## Several evaluation sets

Hugging Face writes the values of a named evaluation set as `{eval}<set>_<key>`. A log with several
named sets is not read until you choose one: `--eval-set coco`, or for one run `--eval-set
NAME=coco`. A set without a name is preferred to named ones.

## Several runs in one CSV export

The columns of a W&B chart are called `RUN - KEY`. If a file holds several runs, the one that is
called NAME is read.
"""


def page() -> str:
    """The text of docs/logs.md."""
    return TEMPLATE.format(
        dialects=table(
            ("dialect", "PATH", "step", "T of `coord_diag/`", "accumulation"), map(row, DIALECTS)
        ),
        keys=table(("value", "key of this project", "other keys"), key_rows()),
        eval=EVAL,
        objective=settings.OBJECTIVE,
        files=", ".join(f"`{name}`" for name in settings.FILES),
        accumulation=ACCUMULATION_KEY,
        setting=settings.ACCUMULATION,
    )


def row(dialect: Dialect) -> tuple[str, ...]:
    temperature = "unknown" if dialect.temperature is None else f"{dialect.temperature:g}"
    accumulation = f"`{dialect.accumulation}`" if dialect.accumulation else "not in the log"
    return dialect.name, dialect.files, dialect.step, temperature, accumulation


def key_rows() -> list[tuple[str, str, str]]:
    """Each value that is compared: its label, and its keys at temperature "1"."""
    found = []
    for name in (*METRICS, *BESIDE):
        key = log_key(name, "1")
        others = {theirs for d in DIALECTS for theirs, ours in d.names.items() if ours == key}
        ordered = [theirs for d in DIALECTS for theirs in d.names if theirs in others]
        shown = ", ".join(f"`{theirs}`" for theirs in dict.fromkeys(ordered))
        found.append((REGISTRY[name].label, f"`{key}`", shown))
    return found


def main() -> None:
    write_text(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    main()
