"""config.yaml of a run: the settings it was trained with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coordexp.config.yaml_file import check_yaml_file
from coordexp.errors import UserError
from coordexp.storage.runs import RunDirectory

Settings: TypeAlias = dict[str, Any]  # one group of a configuration, as YAML holds it


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run, by group.

    This is not a `Config`: the run may come from another version of this project. If it was trained
    elsewhere, some groups are empty.
    """

    variant: Settings
    seed: int
    model: Settings = field(default_factory=dict)
    data: Settings = field(default_factory=dict)
    optim: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    probe: Settings = field(default_factory=dict)
    prompt: Settings = field(default_factory=dict)  # if trained elsewhere: prompt.json's content

    @property
    def variant_name(self) -> str:
        return str(self.variant["name"])


def read_run_config(run: RunDirectory) -> RunConfig:
    """The configuration of a run.

    Raises:
        UserError: the file is missing, is not YAML, or lacks a group or the variant's name.
    """
    content = read_yaml(run.config)
    try:
        json.dumps(content, ensure_ascii=False, default=str).encode()  # files of a study repeat it
        config = msgspec.convert(content, RunConfig)
    except (msgspec.ValidationError, ValueError) as error:  # half a surrogate pair, a huge number
        raise UserError(f"{run.config}: {error}: damaged, or not of this project") from error
    name = config.variant.get("name")
    if not isinstance(name, str) or not name or not name.isprintable():
        raise UserError(f"{run.config}: variant has no name: damaged, or not of this project")
    return config


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it is missing or cannot be read as YAML.
    """
    check_yaml_file(path)
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not a readable YAML configuration") from error
