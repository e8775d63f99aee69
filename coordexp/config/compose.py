"""Compose the configuration: Hydra merges `conf/` and the overrides, and a frozen `Config` comes out.

A key or a type that the schema does not know stops `compose` (and so every entry point) with the
full key in the message. Everything else about a setting is data in `conf/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coordexp.config.checks import check
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import (
    SPELLED_ONE_WAY,
    CocoConfig,
    Config,
    PretrainedQwen3VLConfig,
    ScenesConfig,
    TinyQwen3VLConfig,
)
from coordexp.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def compose(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> Config:
    """The configuration for these Hydra overrides, checked.

    Raises:
        UserError: an unknown key, a wrong type, a missing group or an impossible value, in one line.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            return typed(hydra_compose("config", overrides=list(overrides)))
    except (
        HydraException,
        OmegaConfBaseException,
        ValueError,
    ) as error:  # Hydra raises a bare ValueError for train=3
        reason = " ".join(f"{error} {error.__cause__ or ''}".split()) + advice_on_quotes(error)
        raise UserError(
            f"configuration: {reason} (overrides: {' '.join(overrides) or 'none'})"
        ) from error


def typed(composed: DictConfig) -> Config:
    """What Hydra composed, as the frozen dataclass, checked. `composed` itself is resolved in place.

    Raises:
        UserError: a group is null, a key is unknown, a value is missing or impossible.
        OmegaConfBaseException: an interpolation that leads nowhere.
    """
    OmegaConf.resolve(composed)
    for group in fields(Config):
        if OmegaConf.select(composed, group.name) is None:
            raise UserError(f"configuration: {group.name}=null: it needs a value")
    refuse_unknown_keys(composed, Config)
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise UserError(f"configuration: {missing[0]} has no value: set it with {missing[0]}=…")
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, Config)
    cfg = replace(cfg, model=with_spelled_paths(cfg.model), data=with_spelled_paths(cfg.data))
    check(cfg)
    return cfg


def with_spelled_paths(settings: Settings) -> Settings:
    """A copy with each path in one spelling: a path is part of a run's identity."""
    hints = get_type_hints(type(settings), include_extras=True)
    spelled = {}
    for name, hint in hints.items():
        path = getattr(settings, name)
        if path and SPELLED_ONE_WAY in getattr(hint, "__metadata__", ()):
            # POSIX leaves the meaning of a leading // to the system; here it is the root.
            spelled[name] = re.sub("^//+", "/", str(PurePosixPath(path)))
    return replace(settings, **spelled)


def refuse_unknown_keys(
    node: DictConfig, schema: type[DataclassInstance], prefix: str = ""
) -> None:
    """Refuse a key that no field reads: Hydra's `+key=` appends one even to a typed group."""
    known = [field.name for field in fields(schema)]
    for key in node:
        if key not in known:
            raise UserError(
                f"configuration: unknown key {prefix}{key!s}: known are {', '.join(known)}"
            )
        child = node._get_node(key)
        if isinstance(child, DictConfig) and is_dataclass(kind := OmegaConf.get_type(child)):
            refuse_unknown_keys(child, kind, f"{prefix}{key!s}.")


def advice_on_quotes(error: Exception) -> str:
    """How to write a value with characters of Hydra's grammar, such as `annotations (1).json`."""
    if not isinstance(error, OverrideParseException):
        return ""
    key, equals, value = error.override.partition("=")
    if not equals:
        return ""
    quoted = f'{key}="{value}"'
    in_config = json.dumps([quoted], ensure_ascii=False)
    return (
        f". A value with blanks, brackets, = or , needs quotes: '{quoted}' on a command line, "
        f"'{in_config}' in --config"
    )


def schema_node(kind: type[DataclassInstance]) -> DictConfig:
    """A dataclass as Hydra's schema. OmegaConf makes the node of a frozen dataclass read-only, and
    Hydra could not merge values into it; so the flag is cleared, here and in every node below."""
    node: DictConfig = OmegaConf.structured(kind)
    node._set_flag("readonly", None)
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            node[name] = schema_node(hint)
    return node


def register_schema() -> None:
    """Tell Hydra the type of each group, for the `…_schema` entries in the defaults lists of `conf/`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema_node(Config))
    store.store(group="model", name="tiny_qwen3vl_schema", node=schema_node(TinyQwen3VLConfig))
    store.store(
        group="model", name="pretrained_qwen3vl_schema", node=schema_node(PretrainedQwen3VLConfig)
    )
    store.store(group="data", name="scenes_schema", node=schema_node(ScenesConfig))
    store.store(group="data", name="coco_schema", node=schema_node(CocoConfig))


register_schema()
