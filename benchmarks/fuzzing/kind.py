"""A kind of input, and what is done with one of it."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from fuzzing.guard import refusal, watched
from fuzzing.mutations import Mutation, dumped, plant, resealed

CHEAP = 20_000  # inputs, where one costs less than a millisecond
WORD = re.compile(rb"[A-Za-z_/]{2,40}")


@dataclass(frozen=True)
class Kind:
    """What is read, and by whom.

    mutated: an input from a valid one, by random faults.
    generated: inputs by hypothesis.
    read: the reader, called with the input, or with its path where it is a file.
    place: of the file; None where the input is no file.
    inputs: of a whole run; fewer where one is dear.
    """

    name: str
    mutated: Callable[[Random], Any]
    generated: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    place: Path | None = None
    inputs: int = CHEAP


def file_kind(
    name: str,
    place: str | Path,
    examples: Sequence[bytes],
    mutate: Mutation,
    read: Callable[[Path], object],
    inputs: int = CHEAP,
    generated: st.SearchStrategy[bytes] | None = None,
) -> Kind:
    """A kind of file, made from valid examples."""
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)

    def mutated(rng: Random) -> bytes:
        return mutate(rng.choice(examples), rng)

    return Kind(
        name, mutated, of_words(examples) if generated is None else generated, read, path, inputs
    )


def attack(kind: Kind, given: Any, rng: Random) -> bool:
    """Whether the reader accepts an input.

    Raises:
        BaseException: what else than a refusal in one line comes of it.
    """
    argument = given
    if kind.place is not None:
        plant(kind.place, given, rng)
        argument = kind.place
    shown = io.StringIO()
    try:
        with watched(), contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            kind.read(argument)
    except BaseException as error:
        line = refusal(error)
        if line is None:
            raise
        if len(line.splitlines()) > 1:
            raise AssertionError(f"a refusal of several lines: {line!r}") from error
        return False
    return True


def json_trees(keys: Sequence[str], sealed: bool = False) -> st.SearchStrategy[bytes]:
    """Files of JSON whose keys are mostly those of the examples; half of them sealed."""
    names = st.sampled_from(sorted(keys)) | st.text(max_size=3)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    trees = st.recursive(
        leaves,
        lambda below: st.lists(below, max_size=4) | st.dictionaries(names, below, max_size=6),
        max_leaves=12,
    )
    objects = st.dictionaries(names, trees, max_size=12)
    return (objects | trees).map(lambda tree: dumped(resealed(tree) if sealed else tree))


def of_words(examples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes, and texts of the examples' own words and punctuation."""
    words = sorted({word for example in examples for word in WORD.findall(example)})[:400]
    pieces = [*words, *(bytes([code]) for code in b" \n\t,:;=\"'[]{}()<>/\\0123456789.-+e\0\xff")]
    return st.lists(st.sampled_from(pieces), max_size=40).map(b"".join) | st.binary(max_size=60)


def keys_of(tree: Any) -> set[str]:
    """All keys in a JSON tree."""
    if isinstance(tree, dict):
        return set(tree).union(*map(keys_of, tree.values()))
    return set().union(*map(keys_of, tree)) if isinstance(tree, list) else set()


def keys_in(examples: Sequence[bytes]) -> list[str]:
    """All keys in examples of JSON, or of lines of JSON."""
    trees = [json.loads(line) for e in examples for line in (e.splitlines() or [e]) if line]
    return sorted(set().union(*map(keys_of, trees)))
