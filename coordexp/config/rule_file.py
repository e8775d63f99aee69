"""A decision rule from a file of the user's, for `coordexp compare --rule FILE`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coordexp.config.checks import check_rule
from coordexp.config.compose import compose, schema_node
from coordexp.config.digests import plain
from coordexp.config.limits import check_limits
from coordexp.config.schema import RuleConfig
from coordexp.errors import UserError


def load_rule(path: Path | None) -> RuleConfig:
    """The default decision rule with the changes of a file like those in conf/study/.

    The file holds a whole study (then its `rule` is read) or only the settings of a rule.

    Raises:
        UserError: the file cannot be read, or holds what the schema does not know.
    """
    default = compose().study.rule
    if path is None:
        return default
    node = schema_node(RuleConfig)
    try:
        content = OmegaConf.load(path)
        if isinstance(content, DictConfig):
            content = content.get("rule", content)
        rule = OmegaConf.to_object(OmegaConf.merge(node, plain(default), content))
    except (
        OSError,
        OmegaConfBaseException,
        YAMLError,
        AttributeError,
        UnicodeDecodeError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a decision rule ({reason})") from error
    assert isinstance(rule, RuleConfig)
    check_limits(rule, "study.rule.")
    check_rule(rule)
    return rule
