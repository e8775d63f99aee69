"""Suggestions for misspelt keys and names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, get_type_hints

from omegaconf import DictConfig, OmegaConf

from coordexp.config.schema import CocoConfig, Config, RecordsConfig, ScenesConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


# Keys of earlier versions, and what to write instead.
RENAMED = {
    "data.render_missing": "write data.missing=draw for true, data.missing=refuse for false",
}

DATA_CHOICES = {"coco": CocoConfig, "records": RecordsConfig, "scenes": ScenesConfig}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`: did you mean smoke?`, or a list of the known names if none is similar."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.7)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(names)}"


def about_unknown_key(key: str, composed: DictConfig) -> str:
    """The message about a key (`train.max_stepz`) that no field of the configuration reads.

    Suggestions are keys of the chosen model and data; `composed` gives that choice.
    """
    if key in RENAMED:
        return f"unknown key {key}: it was renamed: {RENAMED[key]}"
    keys = list(known_keys(Config, composed))
    choices = choices_with(key)
    near = get_close_matches(key, [*keys, "experiment"], n=1, cutoff=0.8)
    if near and not choices:
        return f"unknown key {key}: did you mean {near[0]}?"
    # No key is similar: list the keys of its group or, if the group does not exist, the groups.
    group = key.rpartition(".")[0]
    inside = [known for known in keys if known.rpartition(".")[0] == group]
    if not inside:
        inside = [known for known in [*keys, "experiment"] if "." not in known]
    known_here = f"known are {', '.join(inside)}"
    if choices:
        return f"unknown key {key}: it goes with {choices}; of the data chosen {known_here}"
    return f"unknown key {key}: {known_here}"


def choices_with(key: str) -> str:
    """`data=coco`: the choices of data that have the key `data.annotations`; empty if none has."""
    group, _, name = key.partition(".")
    having = [choice for choice, kind in DATA_CHOICES.items() if name in get_type_hints(kind)]
    return " or ".join(f"data={choice}" for choice in having) if group == "data" else ""


def known_keys(kind: type[DataclassInstance], node: DictConfig) -> Iterator[str]:
    """Every key of a dataclass and of nested dataclasses, for the choices in `node`."""
    for name in get_type_hints(kind):
        yield name
        child = node._get_node(name) if name in node else None
        if isinstance(child, DictConfig):
            chosen = OmegaConf.get_type(child)
            if is_dataclass(chosen) and isinstance(chosen, type):
                for key in known_keys(chosen, child):
                    yield f"{name}.{key}"
