"""Compose the configuration: Hydra merges `conf/` and the overrides into a frozen `Config`.

An unknown key or a wrong type stops `compose` (and so every entry point) with the full key in the
message. The values of settings are data in `conf/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coordexp.config.checks import check
from coordexp.config.messages import in_one_line, printable
from coordexp.config.overrides import check_overrides
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import (
    SPELLED_ONE_WAY,
    CocoConfig,
    Config,
    PretrainedQwen3VLConfig,
    RecordsConfig,
    ScenesConfig,
    TinyQwen3VLConfig,
)
from coordexp.config.suggest import about_unknown_key
from coordexp.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def compose(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> Config:
    """The configuration for these Hydra overrides, checked.

    Raises:
        UserError: an unknown key, a wrong type, a missing group or an impossible value, in one
        line.
    """
    with composed(overrides, conf_dir) as node:
        return typed(node)


@contextmanager
def composed(overrides: Sequence[str], conf_dir: Path = CONF_DIR) -> Iterator[DictConfig]:
    """What Hydra composes of these overrides; not checked, and values may be missing.

    Raises:
        UserError: a mistake in the overrides, or what is made of them here, in one line.
    """
    GlobalHydra.instance().clear()
    try:
        check_overrides(overrides, conf_dir)
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            yield hydra_compose("config", overrides=list(overrides))
    except UserError as error:  # a value in it may hold line ends
        raise UserError(printable(str(error))) from error
    except (
        HydraException,
        OmegaConfBaseException,
        ValueError,
        TypeError,
        OverflowError,  # a whole number of 400 digits, where a float is expected
    ) as error:  # Hydra raises a bare ValueError for train=3, and a TypeError for a list in a list
        told = f"configuration: {in_one_line(error, overrides, conf_dir)}"
        raise UserError(printable(told)) from error


def typed(composed: DictConfig) -> Config:
    """Convert Hydra's configuration to the frozen dataclass and check it.

    `composed` itself is resolved in place.

    Raises:
        UserError: a group is null, a key is unknown, a value is missing or impossible.
        OmegaConfBaseException: an interpolation has no target.
    """
    OmegaConf.resolve(composed)
    for group in fields(Config):
        if OmegaConf.select(composed, group.name) is None:
            raise UserError(f"configuration: {group.name}=null: it needs a value")
    unknown = unknown_key(composed, Config)
    if unknown is not None:
        raise UserError(f"configuration: {about_unknown_key(unknown, composed)}")
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise UserError(f"configuration: {missing[0]} has no value: set it with {missing[0]}=…")
    cfg = OmegaConf.to_object(composed)
    assert isinstance(cfg, Config)
    cfg = replace(cfg, model=with_spelled_paths(cfg.model), data=with_spelled_paths(cfg.data))
    decode = spelled_number(cfg.probe.temperature)
    cfg = replace(cfg, probe=replace(cfg.probe, temperature=decode))
    check(cfg)
    return cfg


def spelled_number(setting: str) -> str:
    """A number in one spelling (`1`, `1.0` and `1e0` are `1.0`); another word as it is."""
    try:
        return str(float(setting))
    except ValueError:
        return setting


def with_spelled_paths(settings: Settings) -> Settings:
    """A copy with each path in canonical spelling, because paths are part of a run's identity."""
    hints = get_type_hints(type(settings), include_extras=True)
    spelled = {}
    for name, hint in hints.items():
        path = getattr(settings, name)
        if path and SPELLED_ONE_WAY in getattr(hint, "__metadata__", ()):
            # In POSIX the meaning of a leading // depends on the system; here it is the root.
            spelled[name] = re.sub("^//+", "/", str(PurePosixPath(path)))
    return replace(settings, **spelled)


def unknown_key(node: DictConfig, schema: type[DataclassInstance], prefix: str = "") -> str | None:
    """The first key that no field reads, else None: `+key=` can add keys even to a typed group."""
    known = [field.name for field in fields(schema)]
    for name in node:
        key = f"{prefix}{name!s}"
        if name not in known:
            return key
        child = node._get_node(name)
        if isinstance(child, DictConfig) and is_dataclass(kind := OmegaConf.get_type(child)):
            below = unknown_key(child, kind, f"{key}.")
            if below is not None:
                return below
    return None


def schema_node(kind: type[DataclassInstance]) -> DictConfig:
    """A dataclass as Hydra's schema.

    OmegaConf makes the node of a frozen dataclass read-only, so Hydra could not merge values into
    it. The flag is cleared in this node and in every node below it.
    """
    node: DictConfig = OmegaConf.structured(kind)
    node._set_flag("readonly", None)
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            node[name] = schema_node(hint)
    return node


def register_schema() -> None:
    """Register the type of each group in Hydra, as `…_schema` in the defaults lists of `conf/`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema_node(Config))
    store.store(group="model", name="tiny_qwen3vl_schema", node=schema_node(TinyQwen3VLConfig))
    store.store(
        group="model", name="pretrained_qwen3vl_schema", node=schema_node(PretrainedQwen3VLConfig)
    )
    store.store(group="data", name="scenes_schema", node=schema_node(ScenesConfig))
    store.store(group="data", name="coco_schema", node=schema_node(CocoConfig))
    store.store(group="data", name="records_schema", node=schema_node(RecordsConfig))


register_schema()
