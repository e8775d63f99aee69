"""Read and write JSON files as frozen dataclasses, sealed with the digest of their own content.

A seal shows damage: a flipped bit in a number would else be read as another number. A file without
one is of an earlier version or made by hand, and is read as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from coordexp.config.digests import digest
from coordexp.errors import UserError
from coordexp.storage.files import DAMAGED, json_content, read_bytes, write_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
SEAL = "seal"  # key of the sha256 over the canonical JSON of all other keys


def read_typed(path: Path, kind: type[T], advice: str = DAMAGED) -> T:
    """The content of a JSON file as a dataclass, `kind`. Unknown keys are ignored.

    `advice` is the end of the error message: it says what to do.

    Raises:
        UserError: the file is missing, is not JSON, or lacks a key or has a value of another type;
            the message names the file and the key.
    """
    content = read_bytes(path)
    try:
        require_seal(path, msgspec.json.decode(content), advice)
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}: {advice}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}): {advice}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid JSON (nested too deeply): {advice}") from error


def write_typed(path: Path, value: DataclassInstance) -> None:
    """Write a dataclass as sealed JSON, atomically. A field that is UNSET is left out.

    A NaN is a bug of the caller: it raises ValueError.
    """
    write_bytes(path, typed_content(value))


def typed_content(value: DataclassInstance) -> bytes:
    """What `write_typed` writes."""
    # `to_builtins` would leave out fields of a decoded value that still have the class's default;
    # `asdict` reads every field.
    fields = {name: found for name, found in asdict(value).items() if found is not msgspec.UNSET}
    return sealed(msgspec.to_builtins(fields))


def write_sealed(path: Path, fields: Mapping[str, object]) -> None:
    """Write the fields of a JSON object with a seal, in place of any seal among them."""
    write_bytes(path, sealed(fields))


def sealed(fields: Mapping[str, object]) -> bytes:
    """A JSON object with a seal, in place of any seal among its fields."""
    unsealed = {key: value for key, value in fields.items() if key != SEAL}
    return json_content(unsealed | {SEAL: digest(unsealed)})


def require_seal(path: Path, content: object, advice: str) -> None:
    """Refuse content whose seal is broken.

    Raises:
        UserError: the content has another digest than its seal, or a digest under a key that is
            neither the seal nor named as a digest: the key of the seal is damaged.
    """
    if not isinstance(content, dict):
        return
    fields = dict(content)
    seal = fields.pop(SEAL, None)
    if seal is None:
        names = [key for key, value in fields.items() if _is_digest(value) and "sha256" not in key]
        intact = not names
    else:
        intact = digest(fields) == seal
    if not intact:
        raise UserError(f"{path}: not as it was written (its seal does not match): {advice}")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def json_schema(kind: type, title: str) -> dict[str, object]:
    """The JSON Schema of a file's type; descriptions are the docstrings of the dataclasses."""
    (schema,), definitions = msgspec.json.schema_components([kind])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return head | schema | {"$defs": definitions}
