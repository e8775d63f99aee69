"""Rollouts, read from the shards that a probe writes.

A rollout is what a checkpoint wrote for one image, one JSON line of a shard:

    {"image_id": 0, "image": "images/000001.png", "text": "…", "finished": true, "n_tokens": 27,
     "token_ends": [13, …], "token_logprobs": [-0.02, …]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordexp.data.records import Record
from coordexp.errors import UserError

LARGEST, ROUNDING = 1e6, 1e-3  # nats: beyond them a token's log-probability is none
_ADVICE = "remove the shard and roll out again"


@dataclass(frozen=True)
class Rollout:
    """The text that a checkpoint generated for one image: T tokens, without the end token."""

    image_id: int  # index of the record, from 0
    image: str  # the image as its record names it
    text: str
    finished: bool  # the end token came within the token budget
    n_tokens: int  # T
    token_ends: list[int]  # [T] characters of `text` up to the end of each token
    token_logprobs: list[float]  # [T] nats


def read_rollouts(paths: Iterable[Path]) -> list[Rollout]:
    """The rollouts of all shards, sorted by image_id.

    An image that occurs twice with the same text counts once.

    Raises:
        UserError: a shard is missing, a line is damaged (the message names it), an image occurs
            twice with different texts, or no shard holds a rollout.
    """
    paths = list(paths)
    by_image: dict[int, Rollout] = {}
    for path in paths:
        for where, rollout in _lines(path):
            image = rollout.image_id
            if by_image.setdefault(image, rollout).text != rollout.text:
                raise UserError(
                    f"{where}: image {image} stands there twice with different texts: "
                    "keep one run's shards"
                )
    if not by_image:
        shards = ", ".join(map(str, paths)) or "no shard"
        raise UserError(f"{shards}: no rollouts: roll the checkpoint out again")
    return [by_image[image] for image in sorted(by_image)]


def _lines(path: Path) -> Iterator[tuple[str, Rollout]]:
    """Place ("file:line") and rollout of each line that is not blank."""
    try:
        # Bytes are split at line feeds only: a text may hold other line separators.
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, parse_rollout(line, where)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: roll the checkpoint out first") from error


def parse_rollout(line: bytes, where: str) -> Rollout:
    """One line of a shard, checked. `where` opens the message of an error.

    Raises:
        UserError: not JSON, not a rollout, or its tokens cannot be those of its text.
    """
    # Use the standard parser, because it accepts NaN, which has its own message below; msgspec's
    # decoder rejects it.
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}): {_ADVICE}") from error
    try:
        rollout = msgspec.convert(content, Rollout)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # half a surrogate pair
        raise UserError(f"{where}: not a rollout ({error}): {_ADVICE}") from error
    ends, logprobs = rollout.token_ends, rollout.token_logprobs
    # False for NaN. A log-probability is 0 at most; rounding may put it a little above.
    if len(ends) != len(logprobs) or not all(-LARGEST <= p <= ROUNDING for p in logprobs):
        raise UserError(
            f"{where}: token_logprobs must be finite numbers, one for each of token_ends, and "
            f"at most 0: {_ADVICE}"
        )
    bounds = [0, *ends, len(rollout.text)]
    if bounds != sorted(bounds):
        raise UserError(
            f"{where}: token_ends must grow from 0 to at most the length of the text: {_ADVICE}"
        )
    return rollout


def record_of(rollout: Rollout, records: Sequence[Record]) -> Record:
    """The record a rollout was made from.

    Raises:
        UserError: there is none, or it names another image.
    """
    image = rollout.image_id
    if not 0 <= image < len(records):
        raise UserError(
            f"rollout of image {image}: there are {len(records)} records: "
            "give the records it was made from"
        )
    if records[image].image != rollout.image:
        raise UserError(
            f"rollout of image {image}: made from {rollout.image}, "
            f"the record names {records[image].image}: give its records"
        )
    return records[image]
