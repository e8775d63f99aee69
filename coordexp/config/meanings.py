"""What each setting means: its name, value and limits, and the comment beside it in the schema."""

from __future__ import annotations

import inspect
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from coordexp.config.compose import composed
from coordexp.config.limits import Limit
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import Config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Setting:
    """One setting, in words.

    key: as an override spells it (`optim.adapter.rank`).
    value: as these overrides compose it; ??? if it has none.
    limits: what the value must be, such as "at least 1"; "" if its type says enough.
    meaning: the comment beside the setting in the schema.
    """

    key: str
    value: str
    limits: str
    meaning: str


def settings(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> list[Setting]:
    """Every setting of the groups that these overrides choose; values need not be complete.

    Raises:
        UserError: a mistake in the overrides.
    """
    with composed(overrides, conf_dir) as node:
        return list(_settings_below(node, Config, ""))


def _settings_below(
    node: DictConfig, schema: type[DataclassInstance], prefix: str
) -> Iterator[Setting]:
    comments = _comments(schema)
    for name, hint in get_type_hints(schema, include_extras=True).items():
        child, key = node._get_node(name), f"{prefix}{name}"
        kind = OmegaConf.get_type(child) if isinstance(child, DictConfig) else None
        if isinstance(child, DictConfig) and kind is not None and is_dataclass(kind):
            yield from _settings_below(child, kind, f"{key}.")
        else:
            meaning = comments[name] or _meaning_of_choices(hint)
            yield Setting(key, _shown(node, name), _limits(hint), meaning)


def _comments(schema: type[DataclassInstance]) -> dict[str, str]:
    """The comment of each field: at the end of its line, or in the lines above it."""
    found = {field.name: "" for field in fields(schema)}
    for kind in reversed(schema.__mro__):
        if is_dataclass(kind):
            found |= _comments_in(inspect.getsource(kind))
    return found


def _comments_in(source: str) -> dict[str, str]:
    """The comments of the fields that the source of one class defines."""
    found: dict[str, str] = {}
    above: list[str] = []
    field = None  # the one that the current line defines
    tokens = list(tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline))
    for token, following in pairwise(tokens):
        starts_line = not token.line[: token.start[1]].strip()
        if token.type == tokenize.COMMENT and starts_line:
            above.append(token.string.lstrip("# "))
        elif token.type == tokenize.COMMENT and field:
            found[field] = token.string.lstrip("# ")
        elif token.type == tokenize.NAME and starts_line and following.string == ":":
            field, found[token.string], above = token.string, " ".join(above).rstrip("."), []
        elif token.type == tokenize.NL and starts_line and not token.line.strip():
            above = []
    return found


def _shown(node: DictConfig, name: str) -> str:
    """A value as an override would spell it."""
    if OmegaConf.is_missing(node, name):
        return "???"
    value = node[name]
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return _plain(value)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _limits(hint: Any) -> str:
    """The limits in a type, or the choices of an enumeration."""
    if choices := _choices(hint):
        return ", ".join(member.name for member in choices)
    limits = [m.must for m in getattr(hint, "__metadata__", ()) if isinstance(m, Limit)]
    words = (must.removeprefix("must ").removeprefix("be ").removeprefix("lie ") for must in limits)
    return ", ".join(words)


def _choices(hint: Any) -> type[Enum] | None:
    plain = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return plain if isinstance(plain, type) and issubclass(plain, Enum) else None


def _meaning_of_choices(hint: Any) -> str:
    """What an enumeration says of itself."""
    choices = _choices(hint)
    return (inspect.getdoc(choices) or "").split("\n\n")[0].rstrip(".") if choices else ""
