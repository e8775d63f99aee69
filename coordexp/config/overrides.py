"""Overrides as they are written (`optim.lr=1e-3`), checked before Hydra composes with them.

Hydra answers these mistakes with a traceback, with advice that is refused next, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from coordexp.errors import UserError


def groups_in(conf_dir: Path) -> list[str]:
    """The groups of settings: the directories of `conf/`."""
    return sorted(path.name for path in conf_dir.iterdir() if path.is_dir())


def key_of(override: str) -> str:
    """The key that an override sets: `optim.lr` of `++optim.lr=1e-3`."""
    return override.partition("=")[0].lstrip("+~")


def check_overrides(overrides: Sequence[str], conf_dir: Path) -> None:
    """Refuse an open quote, a group without a choice, and a choice that names no file.

    Raises:
        UserError: see above.
        HydraException: an override cannot be parsed.
    """
    groups = groups_in(conf_dir)
    for override in overrides:
        quote = open_quote(override)
        if quote:
            raise UserError(f"configuration: {override}: the quote {quote} is not closed")
        if override.startswith("~") and key_of(override) in groups:
            raise UserError(
                f"configuration: {override}: a group needs a choice and cannot be removed: "
                f"write {key_of(override)}=NAME, with NAME one of {_files_of(override, conf_dir)}"
            )
        if override.partition("=")[0] in groups:
            _check_choice(override, conf_dir)


def refuse_repeated(overrides: Sequence[str], where: str) -> None:
    """Refuse a key that is set twice in one place, because Hydra would take the last silently.

    Raises:
        UserError: it names the place, the key and both overrides.
    """
    first: dict[str, str] = {}
    for override in overrides:
        key = key_of(override)
        if key in first:
            raise UserError(
                f"{where}: {key} is set twice, by {first[key]} and by {override}: keep one"
            )
        first[key] = override


def last_of_each_key(overrides: Sequence[str]) -> list[str]:
    """The overrides without those that a later one replaces, such as `all` by a variant's own."""
    last = {key_of(override): i for i, override in enumerate(overrides)}
    return [override for i, override in enumerate(overrides) if last[key_of(override)] == i]


def open_quote(text: str) -> str:
    """The quote that is opened and never closed, else an empty string.

    Between quotes a backslash escapes the next character, as in Hydra's grammar.
    """
    quote, escaped = "", False
    for character in text:
        if escaped:
            escaped = False
        elif quote:
            escaped = character == "\\"
            if character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
    return quote


def _check_choice(override: str, conf_dir: Path) -> None:
    """A group (`model=…`) is chosen by a name; Hydra answers a mapping or list by a traceback."""
    group, equals, given = override.partition("=")
    if not equals:
        return
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override() or isinstance(parsed.value(), str):
        return
    raise UserError(
        f"configuration: {group}={given}: must be the name of one file in conf/{group}/: "
        f"known are {_files_of(override, conf_dir)}"
    )


def _files_of(override: str, conf_dir: Path) -> str:
    names = sorted(path.stem for path in (conf_dir / key_of(override)).glob("*.yaml"))
    return ", ".join(names)
