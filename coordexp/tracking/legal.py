"""A run in the form that MLflow accepts: legal names, storable values, and a note of the changes.

MLflow 3.17 refuses a name unless it consists of letters, digits and `/ _ . - : blank`, is a
normalised relative path, and has at most 250 characters. SQLite keeps names apart that differ only
in case, and `a` beside `a/b`.
"""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from coordexp.storage.logs.log import shown_key
from coordexp.tracking.metric_series import NOTE_TAG, MetricSeries, Point
from coordexp.tracking.names import DETAIL

NAME_CHARACTERS = 250
NOTE_CHARACTERS = 8000  # MLflow's maximum length of a tag's value
LARGEST_INT = 2**63 - 1  # of SQLite
UNNAMED = "unnamed"

_LEGAL = re.compile(r"[/\w.\- :]*")
_ILLEGAL_RUN = re.compile(r"[^/\w.\- :]+")
_BRACKETS = re.compile(r"\(([^()]*)\)")


def legal_series(series: MetricSeries) -> MetricSeries:
    """The series under legal names, with storable values; its note tells what was changed.

    A value that is not finite becomes NaN, which MLflow shows as a gap: it would store infinity as
    1.8e308, which makes charts unreadable. A point whose step SQLite cannot hold is left out.
    """
    names = legal_names({key for key, *_ in series.points})
    points = [
        (names[key], value if math.isfinite(value) else math.nan, min(time_ms, LARGEST_INT), step)
        for key, value, time_ms, step in series.points
        if abs(step) <= LARGEST_INT
    ]
    param_names = legal_names(series.params)
    changes = [
        *_renamed(names | param_names),
        *_not_finite(series.points),
        *_steps_left_out(series.points),
    ]
    note = "\n".join([series.tags.get(NOTE_TAG, ""), *changes]).strip()
    return replace(
        series,
        points=points,
        params={param_names[key]: value for key, value in series.params.items()},
        tags=series.tags | {NOTE_TAG: cut_note(note)},
    )


def legal_names(keys: Iterable[str]) -> dict[str, str]:
    """A legal name for each key; no two keys get the same one, and the order of keys is irrelevant.

    A legal key keeps its name. Another gets a readable one, `memory(GiB)` becomes `memory_GiB`. If
    that is the name of another key too, or was cut, a digest of the key is appended.
    """
    keys = set(keys)
    readable = {key: _readable(key) for key in keys if not is_legal(key)}
    uses = Counter(readable.values()) + Counter(keys - readable.keys())
    names = {key: key for key in keys - readable.keys()}
    for key, name in readable.items():
        if uses[name] > 1 or len(name) > NAME_CHARACTERS:
            suffix = "-" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            name = _normalised(name[: NAME_CHARACTERS - len(suffix)]) + suffix
        names[key] = name
    return names


def is_legal(name: str) -> bool:
    """Whether MLflow accepts this as the name of a metric, parameter or tag."""
    return (
        _LEGAL.fullmatch(name) is not None
        and len(name) <= NAME_CHARACTERS
        and posixpath.normpath(name) == name
        and name != "."
        and not name.startswith(("..", "/"))
    )


def _readable(key: str) -> str:
    """The key with `_` in place of what is illegal, of any length."""
    # A slash groups charts in MLflow's pages, so that of a unit is written out: `(iter/s)`.
    key = _BRACKETS.sub(lambda unit: f"({unit[1].replace('/', '_per_')})", key)
    parts = [_ILLEGAL_RUN.sub("_", part).strip("_") for part in key.split("/")]
    return _normalised("/".join(parts))


def _normalised(name: str) -> str:
    """The name as a relative path that stays below its start and names something."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts).lstrip(".") or UNNAMED


def _renamed(names: dict[str, str]) -> list[str]:
    """A line of the note for each key with another name."""
    changed = sorted((name, key) for key, name in names.items() if name != key)
    return [
        f"- `{name}` is {_shown(key.removeprefix(f'{DETAIL}/'))} of the log"
        for name, key in changed
    ]


def _not_finite(points: list[Point]) -> list[str]:
    """A line of the note for each key with values that are not finite."""
    steps: dict[str, list[tuple[int, float]]] = {}
    for key, value, _, step in points:
        if not math.isfinite(value):
            steps.setdefault(key, []).append((step, value))
    lines = []
    for key, found in sorted(steps.items()):
        step, value = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        lines.append(f"- {_shown(key)} is {value} at step {step}{more}: a gap in the chart")
    return lines


def _steps_left_out(points: list[Point]) -> list[str]:
    n_left_out = sum(abs(step) > LARGEST_INT for *_, step in points)
    if not n_left_out:
        return []
    return [
        f"- {n_left_out} values at steps beyond 2^63 are left out: the database cannot hold them"
    ]


def _shown(key: str) -> str:
    """A key on one line of the note."""
    shown = shown_key(key)
    return f'"{shown}"' if "`" in shown else f"`{shown}`"


def cut_note(note: str) -> str:
    """The note within MLflow's limit: cut at a line; its end says how many lines are missing."""
    if len(note) <= NOTE_CHARACTERS:
        return note
    lines = note.split("\n")
    kept, length = 0, 60  # room for the last line
    while kept < len(lines) and length + len(lines[kept]) + 1 <= NOTE_CHARACTERS:
        length += len(lines[kept]) + 1
        kept += 1
    return "\n".join([*lines[:kept], f"- … and {len(lines) - kept} more lines"])
