"""Read a decision rule from a user's file, for `coordexp compare --rule FILE`."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coordexp.config.checks import check_rule
from coordexp.config.compose import schema_node
from coordexp.config.digests import plain
from coordexp.config.limits import check_limits
from coordexp.config.schema import RuleConfig
from coordexp.config.suggest import did_you_mean, known_keys
from coordexp.config.yaml_file import check_yaml_file
from coordexp.errors import UserError


def refuse_aliases(path: Path) -> None:
    """Refuse a YAML file that repeats a part by an alias (`*name`).

    OmegaConf copies the part at each alias: nine nested lists of nine aliases each would fill the
    memory.
    """
    with open(path, encoding="utf-8") as file:
        for event in yaml.parse(file, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path}: a YAML alias, *{event.anchor}: write its value out")


def load_rule(path: Path, default: RuleConfig) -> RuleConfig:
    """The default decision rule with the changes of a file like those in conf/study/.

    The file holds a whole study (then its `rule` is read) or only the settings of a rule.

    Raises:
        UserError: the file cannot be read, or has keys or values that the schema does not allow.
    """
    node = schema_node(RuleConfig)
    try:
        check_yaml_file(path)
        refuse_aliases(path)
        content = OmegaConf.load(path)
        if isinstance(content, DictConfig):
            content = content.get("rule", content)
        if not isinstance(content, DictConfig):
            raise UserError(f"{path}: not a decision rule: it must hold settings, KEY: VALUE")
        rule = OmegaConf.to_object(OmegaConf.merge(node, plain(default), content))
    except (
        OSError,
        OmegaConfBaseException,
        yaml.YAMLError,
        ValueError,  # a whole number of thousands of digits, or bytes that are not UTF-8
        OverflowError,  # a whole number of hundreds of digits, where a float is expected
        RecursionError,
    ) as error:
        raise UserError(f"{path}: {in_one_line(error, node)}") from error
    assert isinstance(rule, RuleConfig)
    try:
        check_limits(rule)
        check_rule(rule)
    except UserError as error:
        reason = str(error).removeprefix("configuration: ").removeprefix("study.rule.")
        raise UserError(f"{path}: {reason}") from error
    return rule


def in_one_line(error: Exception, node: DictConfig) -> str:
    """The error in a rule file, in one line."""
    reason = " ".join(str(error).split())
    unknown = re.search(r"^Key '[^']+' not in .* full_key: (\S+)", reason)
    if unknown:
        return f"unknown key {unknown[1]}{did_you_mean(unknown[1], known_keys(RuleConfig, node))}"
    return f"not a decision rule ({reason.partition(' full_key:')[0]})"
