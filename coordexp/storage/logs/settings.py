"""Settings files that trainers write beside a log, for what the log does not say of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from coordexp.storage.files import read_bytes
from coordexp.storage.logs.log import LARGEST, Told

# ms-swift and LLaMA-Factory write args.json and training_args.json, CoordExp the rest.
FILES = (
    "args.json",
    "trainer_args.json",
    "training_args.json",
    "resolved_config.json",
    "effective_runtime.json",
    "experiment_manifest.json",
)
ACCUMULATION = "gradient_accumulation_steps"
# The group of settings whose `temperature` CoordExp computes coord_diag/ at, also where the
# objective itself is switched off. (A `temperature` outside of it is that of text generation.)
OBJECTIVE = "coord_soft_ce_w1"
LARGEST_FILE = 16 * 2**20  # bytes
DEEPEST = 8  # groups within groups


def settings_beside(path: Path) -> Told:
    """Temperature and accumulation that the settings files beside a log name.

    They lie in the directory of the log; for a checkpoint, or for event files below `runs`, also in
    the directory above. Temperatures that contradict each other tell nothing. Of accumulations,
    that of the first file counts. A file that is no JSON is skipped: it is no part of the log.
    """
    temperatures: dict[float, str] = {}
    accumulation = None
    for file in _files(path):
        for group, key, value in _entries(_content(file)):
            if not is_positive(value):
                continue
            if (group, key) == (OBJECTIVE, "temperature"):
                temperatures.setdefault(float(value), file.name)
            if accumulation is None and key == ACCUMULATION:
                accumulation = float(value)
    if len(temperatures) != 1:
        return Told(accumulation=accumulation)
    ((temperature, by),) = temperatures.items()
    return Told(temperature=temperature, temperature_by=by, accumulation=accumulation)


def is_positive(value: object) -> TypeGuard[float]:
    """Whether a value is a number above 0, and not one that has overflowed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= LARGEST


def _files(path: Path) -> Iterator[Path]:
    directory = path if path.is_dir() else path.parent
    directories = [directory]
    if directory.name.startswith("checkpoint-") or directory.name == "runs":
        directories.append(directory.parent)
    elif directory.parent.name == "runs":
        directories += [directory.parent, directory.parent.parent]
    for place in directories:
        for name in FILES:
            file = place / name
            if file.is_file() and file.stat().st_size <= LARGEST_FILE:
                yield file


def _content(file: Path) -> object:
    try:
        return json.loads(read_bytes(file))
    except (ValueError, RecursionError):
        return None


def _entries(
    content: object, group: str = "", depth: int = DEEPEST
) -> Iterator[tuple[str, str, object]]:
    """(group, key, value) of every value in nested JSON objects."""
    if not isinstance(content, dict) or not depth:
        return
    for key, value in content.items():
        yield group, key, value
        yield from _entries(value, key, depth - 1)
