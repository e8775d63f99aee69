"""What the user, or a settings file beside it, says of a log that the log does not say itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coordexp.config.limits import TEMPERATURE
from coordexp.config.suggest import did_you_mean
from coordexp.errors import UserError
from coordexp.storage.logs.log import BY_USER, UNTOLD, Told
from coordexp.storage.logs.settings import settings_beside

# The temperature of `coord_diag/*` in a run directory of this project.
OWN = Told(temperature=1.0)
EXAMPLES = {"--temperature": "pure_ce=0.7", "--eval-set": "pure_ce=coco"}


def told_of(
    variants: Sequence[str], temperatures: Sequence[str], eval_sets: Sequence[str]
) -> dict[str, Told]:
    """What is told of each variant. A NAME stands also for the runs NAME/variant of a study.

    Args:
        temperatures: `NAME=T` each.
        eval_sets: `NAME=SET` each, or `SET` for every variant.

    Raises:
        UserError: a name is unknown or given twice, or a value has another form.
    """
    told = dict.fromkeys(variants, UNTOLD)
    for argument in eval_sets:
        if "=" not in argument:
            told = {v: replace(known, eval_set=argument) for v, known in told.items()}
    for name, eval_set in _by_name("--eval-set", [a for a in eval_sets if "=" in a]).items():
        for variant in _named("--eval-set", name, variants):
            told[variant] = replace(told[variant], eval_set=eval_set)
    for name, text in _by_name("--temperature", temperatures).items():
        for variant in _named("--temperature", name, variants):
            told[variant] = replace(
                told[variant], temperature=_temperature(name, text), temperature_by=BY_USER
            )
    return told


def with_settings(path: Path, told: Told) -> Told:
    """What is told of a log, completed by the settings files beside it."""
    return completed(told, settings_beside(path))


def completed(told: Told, other: Told) -> Told:
    """What is told, and the rest from `other`."""
    by = told if told.temperature is not None else other
    return Told(
        eval_set=told.eval_set or other.eval_set,
        temperature=by.temperature,
        temperature_by=by.temperature_by,
        accumulation=told.accumulation or other.accumulation,
    )


def of_run_directory(path: Path, told: Told) -> Told:
    """What holds for a run directory of this project.

    Raises:
        UserError: something else is told of it.
    """
    if told.temperature not in (None, OWN.temperature):
        raise UserError(
            f"{path}: a run directory holds coord_diag/ at T = 1: leave out its --temperature"
        )
    if told.eval_set is not None:
        raise UserError(f"{path}: a run directory has one evaluation set: leave out its --eval-set")
    return OWN


def _by_name(option: str, arguments: Sequence[str]) -> dict[str, str]:
    """{NAME: value} of arguments NAME=value."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name or not equals or not value or not argument.isprintable():
            raise UserError(
                f"{option} {argument!a}: must be NAME=VALUE, such as {EXAMPLES[option]}"
            )
        if name in found:
            raise UserError(f"{option} {argument}: {name} is told twice")
        found[name] = value
    return found


def _named(option: str, name: str, variants: Sequence[str]) -> list[str]:
    found = [v for v in variants if v == name or v.startswith(f"{name}/")]
    if not found:
        known = list(dict.fromkeys(variants))
        raise UserError(f"{option} {name}=…: no run has that name{did_you_mean(name, known)}")
    return found


def _temperature(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not TEMPERATURE.holds(value):
        raise UserError(f"--temperature {name}={text}: {TEMPERATURE.must}")
    return value
