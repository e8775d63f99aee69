"""The errors of Hydra and OmegaConf in one line: which key, why, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from coordexp.config.overrides import groups_in
from coordexp.config.suggest import about_unknown_key, did_you_mean


def printable(text: str) -> str:
    """A message in one line: what does not print becomes a blank."""
    return "".join(c if c.isprintable() else " " for c in text)


def in_one_line(error: Exception, overrides: Sequence[str], conf_dir: Path) -> str:
    """The error of Hydra or OmegaConf in one line, without advice that does not work here.

    Hydra advises adding an unknown key by `+key=value`, but no field would read it. It advises
    `++key=value` for a key that is there already, where `key=value` is meant.
    """
    told = str(error)
    unknown = re.match(r"Could not override '([^']+)'", told)
    if unknown:
        return about_unknown_key(unknown[1], _with_choices_alone(overrides, conf_dir))
    absent = re.search(r"Could not find '([^']+)/([^'/]+)'", told)
    if absent:
        return _about_absent_file(absent[1], absent[2], conf_dir)
    present = re.match(
        r"Could not append to config\. An item is already at '(?P<key>[^']+)'"
        r"|(?P<same>\S+) appears more than once in the final defaults list"
        r"|Multiple values for (?P<other>\S+?)\. ",
        told,
    )
    if present:
        key = present[present.lastgroup or 0]
        return f"+{key}=…: {key} exists already: write {key}=… without the +"
    undeletable = re.match(r"Error merging override ~(\S+)", told)
    if undeletable:
        return f"~{undeletable[1]}: a setting cannot be removed: write {undeletable[1]}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        return _about_interpolation(error, overrides)
    reason = " ".join(f"{told} {error.__cause__ or ''}".split())
    reason = reason.partition(" full_key:")[0]  # the rest are internal names of OmegaConf
    given = " ".join(overrides) or "none"
    return f"{reason}{_advice_on_quotes(error)} (overrides: {given})"


def _about_absent_file(group: str, name: str, conf_dir: Path) -> str:
    choices = sorted(path.stem for path in (conf_dir / group).glob("*.yaml"))
    if not choices:
        return f"unknown group {group}{did_you_mean(group, groups_in(conf_dir))}"
    return f"{group}={name}: no such file in conf/{group}/{did_you_mean(name, choices)}"


def _about_interpolation(error: InterpolationResolutionError, overrides: Sequence[str]) -> str:
    """A reference, `${…}`, that leads nowhere: the override that holds it, and why."""
    reason = " ".join(str(error).split()).partition(" full_key:")[0]
    quoted = re.search("'([^']+)'", reason)
    name = quoted[1] if quoted else reason.split()[-1]  # "Unsupported interpolation type x"
    holders = [override for override in overrides if "${" in override and name in override]
    holder = f"{holders[-1]}: " if holders else ""
    return f"{holder}{reason}: ${{…}} must name another setting, such as ${{train.eval_steps}}"


def _with_choices_alone(overrides: Sequence[str], conf_dir: Path) -> DictConfig:
    """The configuration of the overrides that choose a file of a group, such as `model=qwen3vl`."""
    groups = groups_in(conf_dir)
    keys = (*groups, "hydra.searchpath")  # the latter: further files to choose from
    choices = [word for word in overrides if word.partition("=")[0] in keys]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return hydra_compose("config", overrides=choices)


def _advice_on_quotes(error: Exception) -> str:
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
