"""Locate a run's numbers below a path: a log, TensorBoard events, or a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from coordexp.errors import UserError
from coordexp.storage.logs.tensorboard import event_files
from coordexp.storage.logs.trainer_state import NAME as STATE_NAME
from coordexp.storage.logs.trainer_state import is_trainer_state, last_trainer_state
from coordexp.storage.run_config import read_yaml
from coordexp.storage.runs import RunDirectory

SourceKind = Literal["log", "trainer state", "W&B CSV", "TensorBoard", "run directory"]
LOG: Final = "log"
TRAINER_STATE: Final = "trainer state"
WANDB: Final = "W&B CSV"
TENSORBOARD: Final = "TensorBoard"
RUN_DIRECTORY: Final = "run directory"

# Logs of JSON lines, by name: of this project, CoordExp and ms-swift, and of LLaMA-Factory.
LOG_NAME = "logging.jsonl"
LLAMA_FACTORY_NAME = "trainer_log.jsonl"


@dataclass(frozen=True)
class Located:
    """The location of a run's numbers.

    path: the log, the directory of event files (or the one event file), or the run directory.
    variant, seed: of a run directory, as its own configuration says.
    """

    path: Path
    kind: SourceKind
    variant: str | None = None
    seed: int | None = None


def locate(path: Path) -> Located:
    """Locate the numbers of a path that is not a study directory.

    A run directory is recognised whether or not it is finished. Any other directory stands for the
    log in it: a logging.jsonl, else the last trainer state of it and of its checkpoints, else a
    trainer_log.jsonl, else event files. If it has none, it stands for the only log below it.

    Raises:
        UserError: the path is missing, or holds none of these or more than one.
    """
    if path.is_file():
        if path.name == LLAMA_FACTORY_NAME and (state := last_trainer_state(path.parent)):
            return Located(state, TRAINER_STATE)  # it holds every metric, the file only losses
        return Located(path, kind_of_file(path))
    if not path.is_dir():
        problem = "neither a file nor a directory" if path.exists() else "no such file or directory"
        raise UserError(f"{path}: {problem}")
    if run := _run_directory(path):
        return run
    return _log_in(path) or _only_one_below(path)


def kind_of_file(path: Path) -> SourceKind:
    """The kind of a file, by its name or (a trainer state) its content."""
    if "tfevents" in path.name:
        return TENSORBOARD
    if path.suffix.lower() == ".csv":
        return WANDB
    return TRAINER_STATE if is_trainer_state(path) else LOG


def _log_in(directory: Path) -> Located | None:
    """The log of a run whose output directory this is, the most complete one first."""
    if (directory / LOG_NAME).is_file():
        return Located(directory / LOG_NAME, LOG)
    if state := last_trainer_state(directory):
        return Located(state, TRAINER_STATE)
    if (directory / LLAMA_FACTORY_NAME).is_file():
        return Located(directory / LLAMA_FACTORY_NAME, LOG)
    if event_files(directory):
        return Located(directory, TENSORBOARD)
    return None


def _only_one_below(path: Path) -> Located:
    """The only log below a directory; of the kinds of logs the first that is there."""
    for pattern in (LOG_NAME, STATE_NAME, LLAMA_FACTORY_NAME, "*tfevents*"):
        found = sorted({output_directory(file) for file in path.rglob(pattern) if file.is_file()})
        if found:
            break
    else:
        raise UserError(
            f"{path}: holds no logging.jsonl, trainer_state.json, trainer_log.jsonl or TensorBoard "
            "events, and is neither a run nor a study that was compared"
        )
    if len(found) > 1:
        name = pattern if pattern in (LOG_NAME, LLAMA_FACTORY_NAME) else ""
        shown = [str((directory / name).relative_to(path)) for directory in found[:4]]
        if len(found) > 4:
            shown.append("…")
        raise UserError(f"{path}: holds {len(found)} logs, name one of them: {', '.join(shown)}")
    return locate(found[0])


def output_directory(file: Path) -> Path:
    """The directory of the run that wrote a file; the trainer state of a checkpoint lies below."""
    directory = file.parent
    is_checkpoint = file.name == STATE_NAME and directory.name.startswith("checkpoint-")
    return directory.parent if is_checkpoint else directory


def _run_directory(directory: Path) -> Located | None:
    """A run directory of this project, or None where the directory is something else.

    Raises:
        UserError: its config.yaml cannot be read as YAML.
    """
    run = RunDirectory(directory)
    if not run.config.is_file() or not (run.log.is_file() or run.manifest.is_file()):
        return None
    content = read_yaml(run.config)
    try:
        variant, seed = content["variant"]["name"], content["seed"]
    except (KeyError, TypeError):
        return None  # another project's configuration
    if not isinstance(variant, str) or not isinstance(seed, int):
        return None
    return Located(directory, RUN_DIRECTORY, variant, seed)


@contextmanager
def naming_unreadable(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
