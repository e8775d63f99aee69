"""Locate a run's numbers below a path: a log, TensorBoard events, or a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from coordexp.errors import UserError
from coordexp.storage.logs.tensorboard import event_files
from coordexp.storage.run_config import read_yaml
from coordexp.storage.runs import RunDirectory

SourceKind = Literal["log", "TensorBoard", "run directory"]
LOG: Final = "log"
TENSORBOARD: Final = "TensorBoard"
RUN_DIRECTORY: Final = "run directory"


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
    only log in it or below it, else for the only directory of event files.

    Raises:
        UserError: the path is missing, or holds none of these or more than one.
    """
    if path.is_file():
        return Located(path, TENSORBOARD if "tfevents" in path.name else LOG)
    if not path.is_dir():
        problem = "neither a file nor a directory" if path.exists() else "no such file or directory"
        raise UserError(f"{path}: {problem}")
    if run := _run_directory(path):
        return run
    if (path / "logging.jsonl").is_file():
        return Located(path / "logging.jsonl", LOG)
    if event_files(path):
        return Located(path, TENSORBOARD)
    return _only_one_below(path)


def _only_one_below(path: Path) -> Located:
    """The only log below a directory, else the only directory of event files."""
    found = sorted(log.parent for log in path.rglob("logging.jsonl"))
    name = "logging.jsonl"
    if not found:
        found = sorted({file.parent for file in path.rglob("*tfevents*") if file.is_file()})
        name = ""
    if not found:
        raise UserError(
            f"{path}: holds no logging.jsonl, no TensorBoard events, "
            "and is neither a run nor a study that was compared"
        )
    if len(found) > 1:
        shown = [str((directory / name).relative_to(path)) for directory in found[:4]]
        if len(found) > 4:
            shown.append("…")
        raise UserError(f"{path}: holds {len(found)} logs, name one of them: {', '.join(shown)}")
    return locate(found[0])


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
