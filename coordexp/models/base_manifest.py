"""base.json: what a prepared base model consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.typed import read_typed, write_typed


@dataclass(frozen=True)
class BaseManifest:
    """base.json: the settings a base model was made from, and sha256 of its directory."""

    model: dict[str, str | int | float | bool | None]  # the configuration's `model`
    sha256: str
    parameters: int
    vocabulary: int  # tokens of the tokenizer


def read_base_manifest(path: Path) -> BaseManifest:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, BaseManifest)


def write_base_manifest(path: Path, manifest: BaseManifest) -> None:
    write_typed(path, manifest)
