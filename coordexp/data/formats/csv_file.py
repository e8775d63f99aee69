"""Read a CSV file row by row, with the line of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from coordexp.errors import UserError
from coordexp.storage.files import read_bytes


def read_csv(path: Path, columns: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its line; a missing value is empty.

    Raises:
        UserError: not UTF-8, not CSV, or without one of the `columns`.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if missing := columns.difference(rows.fieldnames or ()):
            raise UserError(f"{path}: has no column {min(missing)}: export it again")
        for row in rows:
            yield rows.line_num, {key: row[key] or "" for key in row if key}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not valid CSV ({error}): export it again") from error


def csv_header(path: Path) -> set[str]:
    """The words of the first line."""
    with open(path, "rb") as file:
        first = file.readline(65536).decode("utf-8-sig", errors="replace")
    return {word.strip().strip('"') for word in first.split(",")}
