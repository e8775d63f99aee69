"""What is no record file, though it was named as one: the annotations of a tool, or a directory."""

from __future__ import annotations

import shlex
from pathlib import Path

from coordexp.data.formats.recognise import (
    COCO,
    RECORDS,
    coco_settings,
    format_of_file,
    recognise,
)
from coordexp.errors import UserError

TAKES = "`coordexp validate` takes a record file (.jsonl)"
MOST_NAMED = 4  # record files of a directory


def refuse_annotations(path: Path) -> None:
    """Refuse a directory, and a file of annotations, with the command that reads it.

    Raises:
        UserError: naming the record files of the directory, or that command.
    """
    if path.suffix == ".jsonl" and not path.is_dir():
        return  # its lines are checked one by one
    if records := [file for file in sorted(path.glob("*.jsonl")) if is_records(file)]:
        raise UserError(f"{path}: a directory: {TAKES}: {named(records)}")
    found = recognise(path)
    if found is None:
        if path.is_dir():
            raise UserError(f"{path}: a directory without records or annotations: {TAKES}")
    elif found.format is COCO:
        command = f"coordexp prepare --only data data=coco {coco_settings(found.files)}"
        raise UserError(f"{path}: COCO annotations: {TAKES}: `{command}` reads these")
    elif found.format.read is not None:
        command = f"coordexp convert {shlex.quote(str(path))} --out coco.json"
        raise UserError(f"{path}: {found.format.name}: {TAKES}: `{command}` reads these")
    elif found.format is not RECORDS:
        raise UserError(f"{path}: {found.format.name}: {TAKES}: {found.format.instead}")
    elif path.is_dir():
        raise UserError(f"{path}: a directory: {TAKES}: {named(found.files)}")


def is_records(file: Path) -> bool:
    return format_of_file(file) is RECORDS


def named(files: list[Path] | tuple[Path, ...]) -> str:
    listed = " or ".join(shlex.quote(str(file)) for file in files[:MOST_NAMED])
    return f"name {listed}"
