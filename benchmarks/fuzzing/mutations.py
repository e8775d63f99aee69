"""Valid examples with random faults: bytes, lines, words, values of JSON trees, strange files."""

from __future__ import annotations

import codecs
import copy
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from coordexp.config.digests import digest
from coordexp.storage.typed import SEAL

Mutation = Callable[[bytes, Random], bytes]
HUGE = 10**400  # Python's JSON reads it, and no float holds it
# What may stand where a value of a JSON tree was.
ODD = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 1e-320, HUGE, -HUGE, 2**31, 2**63),
    *(-(2**63) - 1, math.nan, math.inf, -math.inf, "", " ", "0", "1e999", "NaN", "\ud800", "a\nb"),
    *("\0", "\x1b[2J", "\u2028", "../x", "/etc/passwd", "/dev/zero", "~", "é" * 90, "x" * 5000),
    *("complete", "640/720", "null", [], [[]], {}, [1], [0] * 4, [HUGE] * 4, ["1"] * 4, [None]),
    *([math.nan] * 4, {"": 0}, {"\n": {}}, {"counts": "0", "size": [64, 64]}, {"a": [{"b": [1]}]}),
    *({"counts": [5, -1], "size": [64]}, {"rotation": math.inf}, [[0, 0, 9, 0, 9, 9]]),
)
# What may stand where a word of a text was.
JUNK = (
    *("", "null", "NaN", "-Infinity", "1e999", "1e308", "-1", "0", "true", "[]", "{}", '"', "'"),
    *(",", ":", "=", "\t", "\n", "\r\n", "\r", "\0", "\x1b[31m", "é", "\u2028", "\ufeff", "\x85"),
    *('"800/100"', '"99999999999999/100"', '"1/0"', '"-3/7"', '"abc"', '"\\ud800"', "9" * 400),
    *('"eval_loss"', '"eval_coco_loss"', '"eval_coord_acc"', '"loss"', '"step"', "0x1F", "1_000"),
    *('"eval_coord_diag/coord_vocab_mass"', '"eval/coord_token_acc"', '"train/loss"', "9" * 5000),
    *("&a", "*a", "<<: *a", "!!python/object:os.system", "- ", "${oc.env:HOME}", "${a}", "???"),
    *("&lt;", "&#0;", "<!DOCTYPE a [<!ENTITY b SYSTEM '/etc/passwd'>]>", "&b;", "<a>", "</a>"),
    *("{{ x }}", "{% for %}", "../../x", "/dev/zero", "[" * 40, "[" * 9000, '{"a":' * 9000),
)
WORD = re.compile(r'"[^"\n]*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[A-Za-z_]\w*|[^\s\w]')


def odd(rng: Random) -> Any:
    """A value of its own: some are lists, which later mutations change."""
    return copy.deepcopy(rng.choice(ODD))


def odd_of_its_type(value: Any, rng: Random) -> Any:
    """An odd value that a check of types lets pass."""
    kinds = (int, float) if type(value) is float else (type(value),)
    return copy.deepcopy(rng.choice([found for found in ODD if type(found) in kinds]))


def of_text(content: bytes, rng: Random) -> bytes:
    """Text with one to four words, lines or bytes changed."""
    for _ in range(rng.randint(1, 4)):
        change = rng.choice((_word, _word, _word, _lines, _bytes, _bytes, _span))
        content = change(content, rng)
    return _whole(content, rng) if rng.random() < 0.05 else content


def of_bytes(content: bytes, rng: Random) -> bytes:
    """Bytes with one to four faults."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice((_flip, _flip, _bytes, _span))(content, rng)
    return _whole(content, rng) if rng.random() < 0.05 else content


def of_json(content: bytes, rng: Random) -> bytes:
    """A JSON file: mostly still JSON, with values of other types and keys that are gone."""
    if rng.random() < 0.2:
        return of_text(content, rng)
    return dumped(mutated_tree(json.loads(content), rng))


def of_sealed(content: bytes, rng: Random) -> bytes:
    """A sealed JSON file: half of what is still JSON gets the seal of its new content."""
    if rng.random() < 0.2:
        return of_text(content, rng)
    tree = mutated_tree(json.loads(content), rng)
    return dumped(resealed(tree) if rng.random() < 0.5 else tree)


def of_lines(content: bytes, rng: Random) -> bytes:
    """JSON lines: faults within lines, or lines that are swapped, repeated or gone."""
    if rng.random() < 0.3:
        return of_text(content, rng)
    lines = content.splitlines()
    for at in rng.sample(range(len(lines)), min(rng.randint(1, 2), len(lines))):
        lines[at] = of_json(lines[at], rng) if lines[at][:1] == b"{" else of_text(lines[at], rng)
    return b"\n".join(lines) + rng.choice((b"\n", b"\n", b"", b"\r\n"))


def resealed(tree: Any) -> Any:
    """The tree with the seal of its own content; as it is where that has no canonical JSON."""
    if not isinstance(tree, dict):
        return tree
    fields = {key: value for key, value in tree.items() if key != SEAL}
    try:
        return fields | {SEAL: digest(fields)}
    except ValueError:  # NaN, or half of a surrogate pair
        return tree


def dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def mutated_tree(tree: Any, rng: Random) -> Any:
    """A JSON tree with one to three of its values changed, moved, wrapped or gone."""
    if rng.random() < 0.02:
        return odd(rng)
    for _ in range(rng.randint(1, 3)):
        slots = list(_slots(tree))
        if not slots:
            return odd(rng)
        holder, key = rng.choice(slots)
        _change(holder, key, slots, rng)
    return tree


def _slots(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value in a tree."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _slots(tree[key])


def _change(holder: Any, key: Any, slots: Sequence[tuple[Any, Any]], rng: Random) -> None:
    action = rng.random()
    if action < 0.25:
        holder[key] = odd(rng)
    elif action < 0.5:
        holder[key] = odd_of_its_type(holder[key], rng)
    elif action < 0.65:
        del holder[key]
    elif action < 0.75:
        other, place = rng.choice(slots)
        if place in other if isinstance(other, dict) else place < len(other):
            holder[key] = copy.deepcopy(other[place])
    elif action < 0.8:
        holder[key] = rng.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    elif action < 0.9 and isinstance(holder[key], int | float):
        holder[key] = rng.choice((-holder[key], holder[key] * 1000, holder[key] + 1))
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    else:
        holder[rng.choice((f"{key}x", "", "a\nb", "\ud800"))] = holder.pop(key)


def _word(content: bytes, rng: Random) -> bytes:
    text = content.decode(errors="surrogateescape")
    start = rng.randrange(len(text) + 1)
    found = WORD.search(text, start) or WORD.search(text)
    if found is not None:
        text = text[: found.start()] + rng.choice(JUNK) + text[found.end() :]
    return text.encode(errors="surrogatepass" if "\ud800" in text else "surrogateescape")


def _lines(content: bytes, rng: Random) -> bytes:
    lines = content.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.choice(("swap", "drop", "repeat"))
    if change == "swap":
        lines[first], lines[second] = lines[second], lines[first]
    elif change == "drop":
        del lines[first : second + 1]
    else:
        lines.insert(second, lines[first])
    return b"\n".join(lines)


def _bytes(content: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randint(0, 4)) + content[at + rng.randint(0, 3) :]


def _flip(content: bytes, rng: Random) -> bytes:
    if not content:
        return content
    damaged = bytearray(content)
    damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _span(content: bytes, rng: Random) -> bytes:
    """A span of bytes that is gone, doubled, or moved elsewhere."""
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    span, rest = content[first:last], content[:first] + content[last:]
    at = rng.randrange(len(rest) + 1)
    return rng.choice((rest, content[:last] + content[first:], rest[:at] + span + rest[at:]))


def _whole(content: bytes, rng: Random) -> bytes:
    """The file cut, empty, in another encoding, or with other line ends."""
    text = content.decode(errors="replace")
    return rng.choice(
        (
            b"",
            content[: rng.randrange(len(content) + 1)],
            codecs.BOM_UTF8 + content,
            text.encode("utf-16"),
            text.encode("latin-1", errors="replace"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            b"\0" * rng.randrange(200),
            b"[" * 50_000,
            content * 3,
        )
    )


def plant(path: Path, content: bytes, rng: Random) -> None:
    """Write an input; one in a hundred is no file, or a link."""
    clear(path)
    strange = rng.randrange(600)
    if strange == 0:
        path.mkdir()
    elif strange == 1:
        os.mkfifo(path)
    elif strange == 2:
        path.symlink_to(path.name)  # to itself
    elif strange == 3:
        path.symlink_to("/dev/zero")
    elif strange == 4:
        path.symlink_to("nowhere")
    elif strange != 5:  # 5: missing
        path.write_bytes(content)


def clear(path: Path) -> None:
    """Remove what lies at a path, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
