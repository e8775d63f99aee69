"""`coordexp clean`: what nothing below results refers to any more."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from coordexp.cli.overview import Overview, RunEntry, overview
from coordexp.errors import UserError
from coordexp.storage.files import files_below, locked

# A writer that is alive keeps its temporary file for seconds.
LEFT_OVER_AFTER_S = 3600
# Where writers of this project leave one, beside the directories of studies.
WRITTEN = ("base", "data", "evaluated", "mlflow", "runs")


@dataclass(frozen=True)
class Unused:
    """A directory or file that may be removed, and why."""

    path: Path
    reason: str

    @property
    def n_bytes(self) -> int:
        files = files_below(self.path) if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files)


def unused(results: Path) -> list[Unused]:
    """What may be removed without a loss to any study below `results`.

    Data and base models count as used by the runs that stay, so a second call may find more. In a
    directory that holds no study, run, data or base model nothing is: it may be anybody's.

    Raises:
        UserError: a manifest is damaged, so that nobody can tell what it refers to.
    """
    found = overview(results)
    if not (found.studies or found.runs or found.data or found.bases):
        return []
    return [
        *(Unused(path, "set aside: its data or base model has changed") for path in found.aside),
        *_runs_of_no_study(found),
        *(Unused(d.path, "data of no run") for d in found.data if not found.runs_of_data(d)),
        *(Unused(b.path, "base of no run") for b in found.bases if not found.runs_of_base(b)),
        *_logs_of_no_study(results),
        *_left_over(results, found),
    ]


def _runs_of_no_study(found: Overview) -> Iterator[Unused]:
    for entry in found.runs:
        if not found.studies_of(entry):
            yield Unused(entry.path, _why_no_study(entry))


def _why_no_study(entry: RunEntry) -> str:
    if entry.path.parent.name == "evaluated":
        return "an evaluation that no study below results names"
    return "a run that no study below results names"


def _logs_of_no_study(results: Path) -> Iterator[Unused]:
    for kind in ("logs", "benchmarks"):
        for path in sorted(results.glob(f"{kind}/*/*/")):
            if not (results / path.parent.name / path.name).exists():
                yield Unused(path, "output of the jobs of a study that is gone")


def _left_over(results: Path, found: Overview) -> Iterator[Unused]:
    studies = {study.path.parent for study in found.studies}
    for directory in sorted({results / name for name in WRITTEN} | studies):
        for path in sorted(directory.rglob(".*.tmp")):
            if time.time() - path.lstat().st_mtime > LEFT_OVER_AFTER_S:
                yield Unused(path, "left over from a writer that was killed")


def chosen(found: Collection[Unused], paths: Collection[Path]) -> list[Unused]:
    """The entries at or below these paths; all of them where no path is given.

    Raises:
        UserError: a path stands for none of them.
    """
    if not paths:
        return list(found)
    for path in paths:
        if not any(_is_below(entry.path, path) for entry in found):
            raise UserError(f"{path}: nothing there is unused: `coordexp clean` lists what is")
    return [entry for entry in found if any(_is_below(entry.path, path) for path in paths)]


def _is_below(path: Path, ancestor: Path) -> bool:
    return path.resolve().is_relative_to(ancestor.resolve())


def remove(entry: Unused) -> None:
    """Remove an entry; if this is killed, what is left is found as left over.

    Raises:
        UserError: a process still writes there.
    """
    with ExitStack() as holding:
        if (lock := entry.path / ".lock").exists():
            holding.enter_context(locked(lock, "being written"))
        doomed = entry.path
        if not doomed.name.endswith(".tmp"):
            doomed = entry.path.with_name(f".{entry.path.name}.{os.getpid()}.tmp")
            os.replace(entry.path, doomed)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
