"""Settings as plain containers, and their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def plain(settings: DataclassInstance | Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON-compatible containers: an Enum becomes its name; key order is kept."""
    if isinstance(settings, Mapping):
        return {str(key): _plain_value(value) for key, value in settings.items()}
    return {field.name: _plain_value(getattr(settings, field.name)) for field in fields(settings)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping) or is_dataclass(value):
        return plain(value)  # type: ignore[arg-type]
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), f"not a setting: {value!r}"
    return value


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full key, `rule.margins.p_gt_mean`."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def group_hash(settings: DataclassInstance | Mapping[str, Any]) -> str:
    """Eight digits of the digest of one group, such as the recipe of the probe."""
    return digest(plain(settings))[:8]
