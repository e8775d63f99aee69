"""Bins, coordinates and their tokens; a writer and a strict parser of CoordJSON.

A coordinate token `<|coord_k|>` stands for bin k of 1000, the normalised coordinate k / 999.
CoordJSON is the text that the model writes. Coordinates are bare tokens, and one space follows each
`,` and `:`.

    {"objects": [{"desc": "red cup", "bbox_2d": [<|coord_12|>, <|coord_34|>, <|coord_56|>,
    <|coord_78|>]}]}
"""

from __future__ import annotations

import json
import math
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

_BIN_NUMBER = r"0|[1-9][0-9]{0,2}"
COORD_TOKEN = re.compile(rf"<\|coord_({_BIN_NUMBER})\|>")  # group 1: the bin


def pixel_to_bin(pixel: float, side_px: int) -> int:
    """Bin of a pixel position on a side of `side_px` px: round(999 x / (side - 1)), in [0, 999]."""
    return min(LAST_BIN, max(0, round(LAST_BIN * pixel / (side_px - 1))))


def bin_to_pixel(k: float, side_px: int) -> float:
    """Pixel position of a bin on a side of `side_px` px: k / 999 (side - 1)."""
    return k / LAST_BIN * (side_px - 1)


def to_bins(pixels: Sequence[float], width: int, height: int) -> list[int]:
    """Bins of alternating x, y pixel positions in an image of `width` x `height` px.

    Raises:
        ValueError: a position has no y or is not finite, or a side is below 2 px.
    """
    _check_pairs(pixels, width, height)
    return [pixel_to_bin(value, (width, height)[i % 2]) for i, value in enumerate(pixels)]


def to_pixels(bins: Sequence[float], width: int, height: int) -> list[float]:
    """Pixel positions of alternating x, y bins in an image of `width` x `height` px.

    Raises:
        ValueError: a position has no y or is not finite, or a side is below 2 px.
    """
    _check_pairs(bins, width, height)
    return [bin_to_pixel(value, (width, height)[i % 2]) for i, value in enumerate(bins)]


def _check_pairs(values: Sequence[float], width: int, height: int) -> None:
    if len(values) % 2:
        raise ValueError(f"{len(values)} values: must be x, y, x, y, …")
    if min(width, height) < 2:
        raise ValueError(f"an image of {width} x {height} px: a side has at least 2 px")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{list(values)}: must be finite")


def coord_token_ids(tokenizer: Any) -> list[int]:
    """Token ids of bins 0 … 999, in order, in a Hugging Face tokenizer  # [K]

    Raises:
        UserError: a coordinate token is missing or is not one token.
    """
    ids = tokenizer.convert_tokens_to_ids(list(COORD_TOKENS))
    if len(set(ids)) != N_BINS or tokenizer.unk_token_id in ids or None in ids:
        raise UserError(
            "the tokenizer does not hold <|coord_0|> … <|coord_999|>: "
            "build the base model with `coordexp prepare`"
        )
    return ids


@dataclass(frozen=True)
class CoordObject:
    """One object of CoordJSON."""

    desc: str
    kind: str  # bbox_2d: x1, y1, x2, y2; poly: at least three x, y pairs
    bins: tuple[int, ...]


def write_coordjson(objects: Sequence[CoordObject]) -> str:
    """CoordJSON of these objects, in their order."""
    return '{"objects": [' + ", ".join(_write_object(o) for o in objects) + "]}"


def _write_object(obj: CoordObject) -> str:
    coordinates = ", ".join(COORD_TOKENS[k] for k in obj.bins)
    return f'{{"desc": {json.dumps(obj.desc, ensure_ascii=False)}, "{obj.kind}": [{coordinates}]}}'


@dataclass
class Parsed:
    """The content of a text: its valid objects, the dropped ones by reason, and how it ended."""

    objects: list[CoordObject] = field(default_factory=list)
    # For each object: the index of its first character, and the index after its last one.
    spans: list[tuple[int, int]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: bool = False  # the closing `]}` is missing
    trailing: str = ""  # the text after it

    @property
    def strict(self) -> bool:
        """Whether the whole text is valid: no object dropped, not truncated, no trailing text."""
        return not (self.dropped or self.truncated or self.trailing)


_HEAD = '{"objects": ['
_TAIL = "]}"
_SEPARATOR = ", "

# Possessive quantifiers (`*+`): no backtracking, so a megabyte-long name needs no backtracking
# stack.
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_COORD = rf"<\|coord_(?:{_BIN_NUMBER})\|>"
_OBJECT = re.compile(
    rf'\{{"desc": ({_STRING}), "(bbox_2d|poly)": \[({_COORD}(?:, {_COORD})*+)\]\}}'
)
# Where parsing resumes after a broken object: before the next object, or before the closing `]}`.
# The start of the next object cannot occur inside a name, because its quote would end the name.
_NEXT = re.compile(r'(?=, \{"desc": )|(?<=\})(?=\]\})')
_NAME = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def parse_coordjson(text: str) -> Parsed:
    """Parse strictly, in linear time: an object that breaks the grammar is dropped and counted.

    After a broken object parsing resumes at the next `, {"desc": ` or at the closing `}]}`.
    Everything before that counts as one broken object.

    The reasons in `Parsed.dropped`:
        malformed: not the grammar of an object.
        empty_desc: an object without a name.
        arity: the number of coordinates fits neither a box nor a polygon.
        inverted_box: x2 < x1 or y2 < y1.
        no_list: the text does not begin as CoordJSON.
    """
    result = Parsed()
    if not text.startswith(_HEAD):
        result.truncated = _HEAD.startswith(text)
        if not result.truncated:
            result.dropped["no_list"] += 1
        return result
    position = len(_HEAD)
    if text.startswith(_TAIL, position):
        result.trailing = text[position + len(_TAIL) :]
        return result

    while position < len(text):
        match = _OBJECT.match(text, position)
        if match and _may_follow(text[match.end() : match.end() + 2]):
            _keep(match, result)
            end = match.end()
        elif resume := _NEXT.search(text, position):
            result.dropped["malformed"] += 1
            end = resume.start()
        else:
            _classify_end(text[position:], result)
            return result
        if text.startswith(_TAIL, end):
            result.trailing = text[end + len(_TAIL) :]
            return result
        position = end + len(_SEPARATOR)
    result.truncated = True
    return result


def _may_follow(text: str) -> bool:
    """Whether this text may follow an object: a separator or the end, or the start of either."""
    return _SEPARATOR.startswith(text) or _TAIL.startswith(text)


def _classify_end(rest: str, result: Parsed) -> None:
    """Classify the end of a text after its last complete object: truncated, malformed, or both."""
    without_names = _NAME.sub("", rest)
    list_closed = without_names.count("]") > without_names.count("[")
    closed = rest.endswith(_TAIL) and without_names.endswith(_TAIL) and list_closed
    result.truncated = not closed
    if "}" in without_names:  # an object was closed, but it is not a valid one
        result.dropped["malformed"] += 1


def _keep(match: re.Match[str], result: Parsed) -> None:
    """Add an object that matches the grammar, or count the reason why its content is not valid."""
    desc, kind = json.loads(match[1]), match[2]
    bins = tuple(int(k) for k in COORD_TOKEN.findall(match[3]))
    if any("\ud800" <= character <= "\udfff" for character in desc):
        result.dropped["malformed"] += 1  # UTF-8 cannot encode half a surrogate pair
    elif not desc.strip():
        result.dropped["empty_desc"] += 1
    elif not _has_arity(kind, len(bins)):
        result.dropped["arity"] += 1
    elif kind == "bbox_2d" and (bins[2] < bins[0] or bins[3] < bins[1]):
        result.dropped["inverted_box"] += 1
    else:
        result.objects.append(CoordObject(desc, kind, bins))
        result.spans.append(match.span())


def _has_arity(kind: str, n: int) -> bool:
    """Whether `n` coordinates are a box, or a polygon of at least three vertices."""
    return n == 4 if kind == "bbox_2d" else n >= 6 and n % 2 == 0
