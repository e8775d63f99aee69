"""base.json: what a prepared base model consists of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.storage.digest_store import require_sha256
from coordexp.storage.typed import read_typed, write_typed


@dataclass(frozen=True)
class BaseManifest:
    """base.json: the settings and release a base model was made from, and sha256 of its files."""

    model: dict[str, str | int | float | bool | None]  # as `identity.by_contents` gives them
    sha256: str
    parameters: int
    vocabulary: int  # tokens of the tokenizer


def read_base_manifest(path: Path) -> BaseManifest:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(path, BaseManifest)


def require_base(base: Path) -> BaseManifest:
    """The manifest of a base model whose files are those that it records.

    Raises:
        UserError: base.json is missing or damaged, or the model is missing, changed or damaged.
    """
    manifest = read_base_manifest(base / "base.json")
    advice = f"restore it, or remove {base} and make the model again with `coordexp prepare`"
    require_sha256(base / "model", manifest.sha256, "base.json", advice)
    return manifest


def write_base_manifest(path: Path, manifest: BaseManifest) -> None:
    write_typed(path, manifest)
