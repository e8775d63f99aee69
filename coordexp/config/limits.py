"""Limits of single settings, written in a field's type and checked by a walk over the dataclasses.

steps: Annotated[int, at_least(1)]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, get_args, get_type_hints

from coordexp.errors import UserError

LAST_STEP = 10**12 - 1  # of a training: twelve digits, as in NAME@STEP


@dataclass(frozen=True)
class Limit:
    """A condition on a value, in words and as a test. It is not tested on None."""

    must: str
    holds: Callable[[Any], bool]


def at_least(lowest: int, what: str = "") -> Limit:
    explained = f", {what}" if what else ""
    return Limit(f"must be at least {lowest}{explained}", lambda value: value >= lowest)


def at_most(highest: int, what: str = "") -> Limit:
    explained = f", {what}" if what else ""
    return Limit(f"must be at most {highest}{explained}", lambda value: value <= highest)


def multiple_of(unit: int) -> Limit:
    return Limit(
        f"must be a multiple of {unit}, at least {unit}",
        lambda value: value >= unit and value % unit == 0,
    )


def one_of(*choices: str) -> Limit:
    listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    return Limit(f"must be {listed}", lambda value: value in choices)


# Each comparison below is false for NaN, so that NaN is refused everywhere.
POSITIVE = Limit("must be a positive number", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Limit("must be a number that is not negative", lambda value: 0 <= value < math.inf)
BELOW_ONE = Limit("must lie in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = Limit("must lie in [0, 1]", lambda value: 0 <= value <= 1)
POSITIVE_FRACTION = Limit("must lie in (0, 1]", lambda value: 0 < value <= 1)
INNER_FRACTION = Limit("must lie in (0, 1)", lambda value: 0 < value < 1)
RATIO = Limit("must be a number of at least 1", lambda value: 1 <= value < math.inf)
NOT_EMPTY = Limit("must not be empty", lambda value: len(value) > 0)
# At other temperatures logits overflow in float32, or all bins are equally probable.
TEMPERATURE = Limit("must lie in [0.001, 1000]", lambda value: 1e-3 <= value <= 1e3)
NAME = Limit(
    "must be letters, digits, _ and -, at most 100, and not start with -",
    lambda value: re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", value) is not None,
)


def check_limits(settings: Any, prefix: str = "") -> None:
    """Check every field of a dataclass, and of nested dataclasses, against the limits in its type.

    Raises:
        UserError: it names the full key (`optim.adapter.rank`), its value, and the limit.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        key = f"{prefix}{field.name}"
        if is_dataclass(value):
            check_limits(value, f"{key}.")
        else:
            _check_value(key, value, hints[field.name])


def _check_value(key: str, value: Any, hint: Any) -> None:
    """Check one setting against the limits in its type; also the items of a mapping or list."""
    limits = getattr(hint, "__metadata__", ())
    for limit in limits:
        if isinstance(limit, Limit) and value is not None and not limit.holds(value):
            shown = value.name if isinstance(value, Enum) else value
            raise UserError(f"configuration: {key}={shown} {limit.must}")
    container = get_args(hint)[0] if limits else hint
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_value(f"{key}.{name}", item, get_args(container)[1])
