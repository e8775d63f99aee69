"""The JSON files of a study, and digests.json beside them: their digests when they were written.

A seal shows damage inside a file. It does not show that a file was edited and sealed again, or that
a file was made anew since another one was made from it. So each writer records here the digest of
its file and of the files that it was made from, and each reader compares both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coordexp.errors import UserError
from coordexp.storage.files import sha256_file, write_bytes
from coordexp.storage.typed import read_typed, typed_content, write_typed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

DIGESTS = "digests.json"
_AUDITED = ("preregistration.json", "runs.json")
_DECIDED = (*_AUDITED, "audit.json", "comparison.json", "probe.json")

# The files of a study that are read to make each file, in the order in which they are made.
MADE_FROM: dict[str, tuple[str, ...]] = {
    "preregistration.json": (),
    "runs.json": _AUDITED[:1],
    "audit.json": _AUDITED,
    "comparison.json": _AUDITED,
    "probe.json": (*_AUDITED, "comparison.json"),
    "recommendation.json": _DECIDED,
    "mlflow.json": (*_DECIDED, "recommendation.json"),
}


@dataclass(frozen=True)
class WrittenFile:
    """The sha256 of a file of a study, and of each file of the study that it was made from."""

    sha256: str
    made_from: dict[str, str]


@dataclass(frozen=True)
class StudyDigests:
    """digests.json: the files of a study by name."""

    files: dict[str, WrittenFile]


def read_study_file(path: Path, kind: type[T]) -> T:
    """A file of a study as a dataclass. One that digests.json does not name is read as it is.

    Raises:
        UserError: it is missing or damaged, or it or a file that it was made from is not what
            digests.json says.
    """
    found = read_typed(path, kind)
    require_as_written(path)
    require_inputs(path)
    return found


def write_study_file(path: Path, value: DataclassInstance) -> None:
    """Write a file of a study, and its digests.

    Digests come first. After a kill between the two, the former file is refused until the step has
    run again, as it does after a kill.
    """
    content = typed_content(value)
    inputs = [path.with_name(name) for name in MADE_FROM[path.name]]
    written = WrittenFile(
        hashlib.sha256(content).hexdigest(),
        {file.name: sha256_file(file) for file in inputs if file.exists()},
    )
    known = read_digests(path.parent)
    write_typed(path.with_name(DIGESTS), replace(known, files=known.files | {path.name: written}))
    write_bytes(path, content)


def read_digests(study_dir: Path) -> StudyDigests:
    """digests.json; without files where there is none, as in a study made by hand.

    Raises:
        UserError: it is damaged, or names what is no file of a study.
    """
    path = study_dir / DIGESTS
    if not path.exists():
        return StudyDigests({})
    advice = f"restore it, or remove it and {study_dir / 'runs.json'}, and run the study again"
    found = read_typed(path, StudyDigests, advice)
    named = {*found.files, *(name for file in found.files.values() for name in file.made_from)}
    if unknown := sorted(named - set(MADE_FROM)):
        raise UserError(f"{path}: {unknown[0]!r} is no file of a study: {advice}")
    return found


def require_as_written(path: Path) -> None:
    """Refuse a file that is not as it was written. Raises UserError."""
    written = read_digests(path.parent).files.get(path.name)
    if written is not None and (found := sha256_file(path)) != written.sha256:
        raise UserError(
            f"{path}: edited since it was written: its sha256 is {found[:12]}, and {DIGESTS} "
            f"recorded {written.sha256[:12]}: {_advice(path)}"
        )


def require_inputs(path: Path) -> None:
    """Refuse a file if one that it was made from is missing or has changed. Raises UserError."""
    for problem in changed_inputs(path):
        raise UserError(problem)


def changed_inputs(path: Path) -> Iterator[str]:
    """What is wrong with each file that this one was made from."""
    written = read_digests(path.parent).files.get(path.name)
    for name, recorded in (written.made_from if written else {}).items():
        file = path.with_name(name)
        if not file.exists():
            yield f"{file}: missing, but {path.name} was made from it: {_advice(file)}"
        elif (found := sha256_file(file)) != recorded:
            yield (
                f"{file}: changed since {path.name} was made from it: its sha256 is {found[:12]}, "
                f"and was {recorded[:12]}: {_advice(file)}"
            )


def _advice(path: Path) -> str:
    if not MADE_FROM[path.name]:  # written once
        return f"restore it, or remove {path.parent} and run the study again"
    return "restore it, or remove it and run the study again"
