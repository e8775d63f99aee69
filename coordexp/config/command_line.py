"""The trainer's command line, checked before Hydra sees it.

Hydra reports a mistake in a dozen lines, with advice that the schema would refuse next.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from coordexp.config.compose import compose
from coordexp.config.overrides import refuse_repeated
from coordexp.config.schema import Config
from coordexp.errors import UserError

# Hydra does one of these things. Without any it runs the program once.
_COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")
# Flags that replace conf/config.yaml, which defines every setting of this project.
_REPLACE_CONFIG = ("config_path", "config_name", "experimental_rerun")
_HOW_TO_WRITE = (
    "`coordexp-train --hydra-help` lists the flags; "
    "settings are KEY=VALUE, all before or all after the flags"
)


def check_arguments(arguments: Sequence[str]) -> Config | None:
    """Compose once with the overrides of a command line; for a sweep, with each of its values.

    Returns:
        The configuration, if the arguments are overrides of one run and nothing else. None if Hydra
        must handle them: a sweep, another flag (`--cfg`, `--help`), or Hydra's own settings
        (`hydra.…`).

    Raises:
        UserError: a wrong flag, a key that is set twice, or an override that `compose` refuses.
    """
    flags = parse_flags(arguments)
    if flags.help or flags.hydra_help or flags.shell_completion:
        return None
    refuse_repeated(flags.overrides, "command line")
    points = [points_of(word) if flags.multirun else [word] for word in flags.overrides]
    first = [of_word[0] for of_word in points]
    more = searched(flags.config_dir)
    cfg = compose([*more, *first])
    for i, of_word in enumerate(points):
        for point in of_word[1:]:
            compose([*more, *first[:i], point, *first[i + 1 :]])
    is_hydras = any(word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in flags.overrides)
    has_flags = len(arguments) > len(flags.overrides)
    return None if has_flags or is_hydras else cfg


def parse_flags(arguments: Sequence[str]) -> Namespace:
    """The flags and overrides of a command line, read by Hydra's own parser.

    Raises:
        UserError: a flag is unknown, has a wrong value, or does not fit another.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse prints its usage there
    flags = parser.parse_args(list(arguments))
    for name in _REPLACE_CONFIG:
        if getattr(flags, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag}: not supported: settings are composed from conf/config.yaml: "
                "change them with KEY=VALUE, or add files with --config-dir DIRECTORY"
            )
    chosen = [f"--{name.replace('_', '-')}" for name in _COMMANDS if getattr(flags, name)]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other: give one of them")
    if (flags.resolve or flags.package) and not flags.cfg:
        raise UserError("--resolve and --package need --cfg job, whose output they change")
    if flags.shell_completion and not _is_completion(flags.overrides):
        raise UserError("--shell-completion: say which shell: `coordexp-train -sc install=bash`")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise UserError(f"--config-dir {flags.config_dir}: no such directory")
    return flags


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: {_HOW_TO_WRITE}")


def _is_completion(overrides: Sequence[str]) -> bool:
    return any(word.startswith(("install=", "uninstall=", "query=")) for word in overrides)


def searched(config_dir: str | None) -> list[str]:
    """The override by which Hydra also searches the directory of `--config-dir`."""
    if not config_dir:
        return []
    return [f"hydra.searchpath=[{json.dumps(str(Path(config_dir).resolve()))}]"]


def points_of(word: str) -> list[str]:
    """The overrides that a sweep (`variant=pure_ce,mixed`) stands for; any other word is itself."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return [word]  # `compose` reports the error
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
