"""The overrides of the trainer's command line, checked before Hydra sees them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from coordexp.config.compose import compose
from coordexp.config.schema import Config

SWEEP = ("--multirun", "-m")
# Flags that do not change the meaning of the overrides beside them.
_FLAGS = {*SWEEP, "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"}


def check_arguments(arguments: Sequence[str]) -> Config | None:
    """Compose once with the overrides of a command line; for a sweep, with its first point.

    This check comes before Hydra's, because Hydra reports a mistake in a dozen lines, with advice
    that the schema would refuse next.

    Returns:
        The configuration, if the arguments are overrides of one run and nothing else. None if Hydra
        must handle them: a sweep, another flag (`--cfg`, `--help`), or Hydra's own settings
        (`hydra.…`).

    Raises:
        UserError: see `compose`.
    """
    flags = [word for word in arguments if word.startswith("-")]
    if not _FLAGS.issuperset(flags):
        return None  # help, completion, or another directory of settings
    is_sweep = any(flag in SWEEP for flag in flags)
    overrides = []
    for word in arguments:
        if is_sweep and "=" in word:
            overrides.append(first_point(word))
        elif "=" in word or not flags:  # a word without = may be the value of a flag
            overrides.append(word)
    cfg = compose(overrides)
    is_hydras = any(word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in overrides)
    return None if flags or is_hydras else cfg


def first_point(word: str) -> str:
    """The first point of a sweep override (`variant=pure_ce,mixed`); other overrides unchanged."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return word  # `compose` reports the error
    if not override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
