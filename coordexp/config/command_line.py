"""The overrides of the trainer's command line, checked before Hydra sees them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from coordexp.config.compose import compose
from coordexp.config.schema import Config
from coordexp.errors import UserError

SWEEP = ("--multirun", "-m")
# Flags that do not change the meaning of the overrides beside them.
_FLAGS = {*SWEEP, "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"}


def check_arguments(arguments: Sequence[str]) -> Config | None:
    """Compose once with the overrides of a command line; for a sweep, with each of its values.

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
    if is_sweep and not {"--cfg", "-c"}.isdisjoint(flags):
        raise UserError("--multirun and --cfg exclude each other: print one point of the sweep")
    # A word without = may be the value of a flag.
    overrides = [word for word in arguments if "=" in word or not flags]
    points = [points_of(word) if is_sweep else [word] for word in overrides]
    first = [of_word[0] for of_word in points]
    cfg = compose(first)
    for i, of_word in enumerate(points):
        for point in of_word[1:]:
            compose([*first[:i], point, *first[i + 1 :]])
    is_hydras = any(word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in overrides)
    return None if flags or is_hydras else cfg


def points_of(word: str) -> list[str]:
    """The overrides that a sweep (`variant=pure_ce,mixed`) stands for; any other word is itself."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return [word]  # `compose` reports the error
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
