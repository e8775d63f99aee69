"""The overrides of a command line that Hydra reads itself, checked before Hydra sees them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from coordexp.config.compose import compose

SWEEP = ("--multirun", "-m")
# Flags beside which an override means what it means without them.
_FLAGS = {*SWEEP, "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"}


def check_arguments(arguments: Sequence[str]) -> None:
    """Compose once with the overrides of a command line; of a sweep with its first point.

    Hydra's own answer to a slip is a dozen lines, and it advises what is refused next.

    Raises:
        UserError: see `compose`.
    """
    flags = [word for word in arguments if word.startswith("-")]
    if not _FLAGS.issuperset(flags):
        return  # help, completion, or another directory of settings
    is_sweep = any(flag in SWEEP for flag in flags)
    overrides = []
    for word in arguments:
        if is_sweep and "=" in word:
            overrides.append(first_point(word))
        elif "=" in word or not flags:  # a word without = may be the value of a flag
            overrides.append(word)
    compose(overrides)


def first_point(word: str) -> str:
    """The first override of a sweep (`variant=pure_ce,mixed`); any other as it is."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return word  # `compose` says what is wrong with it
    if not override.is_sweep_override():
        return word
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
