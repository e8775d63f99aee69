"""Read and write JSON files as frozen dataclasses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from coordexp.errors import UserError
from coordexp.storage.files import DAMAGED, read_bytes, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def read_typed(path: Path, kind: type[T], advice: str = DAMAGED) -> T:
    """The content of a JSON file as a dataclass, `kind`. Unknown keys are ignored.

    `advice` is the end of the error message: it says what to do.

    Raises:
        UserError: the file is missing, is not JSON, or lacks a key or has a value of another type;
            the message names the file and the key.
    """
    content = read_bytes(path)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}: {advice}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}): {advice}") from error


def write_typed(path: Path, value: DataclassInstance) -> None:
    """Write a dataclass as JSON, atomically. A NaN is a bug of the caller: it raises ValueError."""
    # `to_builtins` would leave out fields of a decoded value that still have the class's default;
    # `asdict` reads every field.
    write_json(path, msgspec.to_builtins(asdict(value)))


def json_schema(kind: type, title: str) -> dict[str, object]:
    """The JSON Schema of a file's type; descriptions are the docstrings of the dataclasses."""
    (schema,), definitions = msgspec.json.schema_components([kind])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return head | schema | {"$defs": definitions}
