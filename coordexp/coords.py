"""Bins, coordinates and tokens; CoordJSON, written and strictly parsed.

A coordinate token `<|coord_k|>` stands for bin k of 1000, the normalised coordinate k / 999.
CoordJSON is what the model writes, coordinates as bare tokens, one space after `,` and `:`:

    {"objects": [{"desc": "red cup", "bbox_2d": [<|coord_12|>, <|coord_34|>, <|coord_56|>, <|coord_78|>]}]}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coordexp.errors import UserError

N_BINS = 1000
LAST_BIN = N_BINS - 1
BOX_SLOTS = ("x1", "y1", "x2", "y2")
COORD_TOKENS = tuple(f"<|coord_{k}|>" for k in range(N_BINS))


def pixel_to_bin(pixel: float, side_px: int) -> int:
    """Bin of a pixel position on a side of `side_px` pixels: round(999 x / (side - 1)), clamped to [0, 999]."""
    return min(LAST_BIN, max(0, round(LAST_BIN * pixel / (side_px - 1))))


def bin_to_pixel(k: float, side_px: int) -> float:
    """Pixel position of a bin: k / 999 (side - 1)."""
    return k / LAST_BIN * (side_px - 1)


def to_bins(pixels: Sequence[float], width: int, height: int) -> list[int]:
    """Bins of alternating x, y pixel positions."""
    return [pixel_to_bin(value, (width, height)[i % 2]) for i, value in enumerate(pixels)]


def to_pixels(bins: Sequence[float], width: int, height: int) -> list[float]:
    """Pixel positions of alternating x, y bins."""
    return [bin_to_pixel(value, (width, height)[i % 2]) for i, value in enumerate(bins)]


def coord_token_ids(tokenizer: Any) -> list[int]:
    """Token ids of bins 0 … 999 in a Hugging Face tokenizer.

    Raises:
        UserError: a coordinate token is missing or not atomic.
    """
    ids = tokenizer.convert_tokens_to_ids(list(COORD_TOKENS))
    if len(set(ids)) != N_BINS or tokenizer.unk_token_id in ids or None in ids:
        raise UserError(
            "the tokenizer does not hold <|coord_0|> … <|coord_999|>: build the base model with `coordexp prepare`"
        )
    return ids


@dataclass(frozen=True)
class CoordObject:
    """One object of CoordJSON. `kind` is `bbox_2d` (four bins) or `poly` (at least three x, y pairs of bins)."""

    desc: str
    kind: str
    bins: tuple[int, ...]


def write_coordjson(objects: Sequence[CoordObject]) -> str:
    return '{"objects": [' + ", ".join(_write_object(o) for o in objects) + "]}"


def _write_object(obj: CoordObject) -> str:
    coordinates = ", ".join(COORD_TOKENS[k] for k in obj.bins)
    return f'{{"desc": {json.dumps(obj.desc, ensure_ascii=False)}, "{obj.kind}": [{coordinates}]}}'


@dataclass
class Parsed:
    """What a text holds: valid objects, the dropped ones by reason, and how it ended."""

    objects: list[CoordObject] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(
        default_factory=list
    )  # of each object, its first character and the one behind its last
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: bool = False  # the closing `]}` never came
    trailing: str = ""  # what stands behind it

    @property
    def strict(self) -> bool:
        """The whole text is CoordJSON, nothing dropped, nothing left over."""
        return not (self.dropped or self.truncated or self.trailing)


_HEAD = '{"objects": ['
_TAIL = "]}"
# Possessive (`*+`): what a loop has taken is never given back, so that a name of a megabyte takes no memory for going back.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_COORD = r"<\|coord_(?:0|[1-9][0-9]{0,2})\|>"
_OBJECT = re.compile(
    rf'\{{"desc": ({_STRING}), "(bbox_2d|poly)": \[({_COORD}(?:, {_COORD})*+)\]\}}'
)
_NEXT = re.compile(
    r'(?=, \{"desc": )|(?<=\})(?=\]\})'
)  # no name can hold the first: its quote would end the name
_BIN = re.compile(r"<\|coord_([0-9]+)\|>")
_NAME = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def parse_coordjson(text: str) -> Parsed:
    """Parse strictly, in linear time, and never raise: what breaks the grammar is dropped and counted.

    Behind a broken object the next `, {"desc": ` or the closing `}]}` is taken up; whatever lies before counts as one.

    Reasons: `malformed` (not the grammar of an object), `empty_desc`, `arity` (coordinates that make no box
    or polygon), `inverted_box` (x2 < x1 or y2 < y1), `no_list` (the text does not begin as CoordJSON).
    """
    result = Parsed()
    if not text.startswith(_HEAD):
        result.truncated = _HEAD.startswith(text)
        result.dropped.update([] if result.truncated else ["no_list"])
        return result
    at = len(_HEAD)
    if text.startswith(_TAIL, at):
        result.trailing = text[at + len(_TAIL) :]
        return result
    while at < len(text):
        match = _OBJECT.match(text, at)
        if match and any(
            separator.startswith(text[match.end() : match.end() + 2]) for separator in (", ", _TAIL)
        ):
            _keep(match, result)
            end = match.end()
        elif resume := _NEXT.search(text, at):
            result.dropped["malformed"] += 1
            end = resume.start()
        else:
            _end_within(text[at:], result)
            return result
        if text.startswith(_TAIL, end):
            result.trailing = text[end + len(_TAIL) :]
            return result
        at = end + len(", ")
    result.truncated = True
    return result


def _end_within(rest: str, result: Parsed) -> None:
    """How a text ends in which nothing whole follows any more: cut within an object, or broken, or both."""
    bare = _NAME.sub("", rest)
    closed = rest.endswith(_TAIL) and bare.endswith(_TAIL) and bare.count("]") > bare.count("[")
    result.truncated = not closed
    if "}" in bare:  # an object was closed, and it is none
        result.dropped["malformed"] += 1


def _keep(match: re.Match[str], result: Parsed) -> None:
    desc, kind = json.loads(match[1]), match[2]
    bins = tuple(int(k) for k in _BIN.findall(match[3]))
    if any(
        "\ud800" <= character <= "\udfff" for character in desc
    ):  # half a surrogate pair is no text
        result.dropped["malformed"] += 1
    elif not desc.strip():
        result.dropped["empty_desc"] += 1
    elif (kind == "bbox_2d" and len(bins) != 4) or (
        kind == "poly" and (len(bins) < 6 or len(bins) % 2)
    ):
        result.dropped["arity"] += 1
    elif kind == "bbox_2d" and (bins[2] < bins[0] or bins[3] < bins[1]):
        result.dropped["inverted_box"] += 1
    else:
        result.objects.append(CoordObject(desc, kind, bins))
        result.spans.append(match.span())
