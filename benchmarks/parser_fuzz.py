"""A million hostile texts through the parser of CoordJSON, checked against a second parser.

    python benchmarks/parser_fuzz.py [--texts 1000000] [--seed 0]

About a minute on one core; prints what benchmarks/parser_fuzz.md tells. It fails at the first
exception or wrong answer, naming the text, and where a megabyte takes more than a second or more
than three times what half of it does.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections import Counter
from json.decoder import scanstring
from random import Random

from coordexp.coords import COORD_TOKENS, CoordObject, Parsed, parse_coordjson, write_coordjson

HEAD, TAIL = '{"objects": [', "]}"
REASONS = {"malformed", "empty_desc", "arity", "inverted_box", "no_list"}
BOX = f"[{', '.join(COORD_TOKENS[1:5])}]"
GOOD = f'{{"desc": "cup", "bbox_2d": {BOX}}}'
NAMES = (
    "cup",
    "a ]} b",
    "}, {",
    'say "hi"',
    "back\\slash",
    "杯子 🥤",
    " ",
    "",
    "a\u2028\x85b",
    '{"desc": "',
    "<|coord_5|>",
    "\n",
)
PIECES = (
    "",
    " ",
    '"',
    "'",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ", ",
    ": ",
    "]}",
    "}]}",
    "}, ",
    '{"desc": "',
    ', {"desc": "',
    '", "bbox_2d": [',
    '", "poly": [',
    "<|coord_5|>",
    "<|coord_999|>",
    "<|coord_1000|>",
    "<|coord_05|>",
    "<|coord_",
    "|>",
    "5",
    "-1",
    "x",
    "\n",
    "\x1f",
    "\\u0041",
    "\\ud83e",
    "\\udd64",
    "\ud800",
    "é",
    "🥤",
    HEAD,
    TAIL,
    GOOD,
    f"{GOOD}, ",
    f", {GOOD}]}}",
    '\\", ',
    "null",
    "１",
)
# What stands before, again and again, and at the end: to a megabyte.
SHAPES = {
    "whole objects": (HEAD, f"{GOOD}, ", ""),
    "objects, each broken behind its end": (HEAD, f"{GOOD}x", ""),
    "objects, each broken, then closed": (HEAD, f"{GOOD}x, ", f"{GOOD}]}}"),
    "objects without a closing brace": (HEAD, f"{GOOD[:-1]}, ", ""),
    "coordinates without end": (f'{HEAD}{{"desc": "a", "bbox_2d": [', "<|coord_1|>, ", ""),
    "one polygon": (
        f'{HEAD}{{"desc": "a", "poly": [',
        "<|coord_1|>, <|coord_2|>, ",
        "<|coord_1|>, <|coord_2|>]}]}",
    ),
    "one name": (f'{HEAD}{{"desc": "', "a", f'", "bbox_2d": {BOX}}}]}}'),
    "one name of escapes": (f'{HEAD}{{"desc": "', "\\ud83e\\udd64", f'", "bbox_2d": {BOX}}}]}}'),
    "one name without end": (f'{HEAD}{{"desc": "', "a", ""),
    "names without end": (HEAD, '{"desc": "', ""),
    "names without end, closed": (HEAD, '{"desc": "', TAIL),
    "names that end objects": (HEAD, '{"desc": "a}, ', ""),
    "names that begin objects": (HEAD, '{"desc": "a}, {\\"desc\\": ', ""),
    "begins of objects": (HEAD, ', {"desc": ', ""),
    "backslashes": (f'{HEAD}{{"desc": "', "\\", TAIL),
    "quotes": (HEAD, '"', TAIL),
    "escaped quotes": (HEAD, '\\"', TAIL),
    "braces": (HEAD, "}", TAIL),
    "ends": (HEAD, "}]", "}"),
    "open brackets": (HEAD, "[", TAIL),
    "commas": (HEAD, ", ", ""),
    "line feeds": (HEAD, "\n", ""),
    "heads": ("", HEAD, ""),
}


def read_strictly(text: str) -> list[CoordObject] | None:
    """The objects of a text that is wholly CoordJSON, else None; shares no code with the parser."""
    if text == HEAD + TAIL:
        return []
    objects: list[CoordObject] = []
    at = 0
    try:
        while True:
            at = skip(text, at, ", " if objects else HEAD)
            desc, at = scanstring(text, skip(text, at, '{"desc": "'))
            kind = "poly" if text.startswith(', "poly', at) else "bbox_2d"
            at = skip(text, at, f', "{kind}": [')
            end = text.index("]", at)
            bins = [coordinate(token) for token in text[at:end].split(", ")]
            at = skip(text, end, "]}")
            desc.encode()  # half a surrogate pair is no text
            is_box = (
                kind == "bbox_2d" and len(bins) == 4 and bins[0] <= bins[2] and bins[1] <= bins[3]
            )
            if not desc.strip() or not (
                is_box or (kind == "poly" and len(bins) >= 6 and len(bins) % 2 == 0)
            ):
                return None
            objects.append(CoordObject(desc, kind, tuple(bins)))
            if text[at:] == TAIL:
                return objects
    except (ValueError, KeyError):
        return None


def skip(text: str, at: int, expected: str) -> int:
    if not text.startswith(expected, at):
        raise ValueError
    return at + len(expected)


BIN_OF = {token: k for k, token in enumerate(COORD_TOKENS)}
coordinate = BIN_OF.__getitem__


def hostile(rng: Random) -> str:
    """A text near the grammar: a valid one, mutated, or random pieces of the grammar."""
    if rng.random() < 0.2:
        return rng.choice((HEAD, HEAD, "")) + "".join(
            rng.choice(PIECES) for _ in range(rng.randrange(20))
        )
    text = write_coordjson([an_object(rng) for _ in range(rng.randrange(5))])
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 2, 7, 40)))
        doubled = text[at:end] if rng.random() < 0.2 else ""
        text = text[:at] + doubled + rng.choice(PIECES) + doubled + text[end:]
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.2 else text


def an_object(rng: Random) -> CoordObject:
    if rng.random() < 0.3:
        return CoordObject(
            rng.choice(NAMES),
            "poly",
            tuple(rng.randrange(1000) for _ in range(rng.randrange(2, 10))),
        )
    x, y = sorted(rng.choices(range(1000), k=2)), sorted(rng.choices(range(1000), k=2))
    return CoordObject(rng.choice(NAMES), "bbox_2d", (x[0], y[0], x[1], y[1]))


def check(text: str) -> Parsed:
    """Parse, and assert all that must hold of the answer to any text."""
    parsed = parse_coordjson(text)
    expected = read_strictly(text)
    assert parsed.strict == (expected is not None)
    assert not parsed.strict or parsed.objects == expected
    assert not (parsed.truncated and parsed.trailing)
    assert text.endswith(parsed.trailing)
    assert set(parsed.dropped) <= REASONS
    assert all(count > 0 for count in parsed.dropped.values())
    assert len(parsed.spans) == len(parsed.objects)
    end = 0
    for (first, behind), obj in zip(parsed.spans, parsed.objects, strict=True):
        assert read_strictly(HEAD + text[first:behind] + TAIL) == [obj], (
            "what is kept stands there, and whole"
        )
        assert text[:first].endswith(", " if end else ("[", ", "))
        assert first >= end
        end = behind
        assert text.startswith((", ", TAIL), end) or text[end:] in ("", ",", "]")
    return parsed


def fuzz(n_texts: int, seed: int) -> Counter[str]:
    """Check `n_texts` texts; how many there were of each kind."""
    kinds: Counter[str] = Counter()
    for i in range(n_texts):
        text = hostile(Random(f"{seed}:{i}"))
        try:
            parsed = check(text)
        except Exception as error:
            error.add_note(f"text {i} of seed {seed}: {text!r}")
            raise
        marks = {
            "strict": parsed.strict,
            "not strict, with objects kept": parsed.objects and not parsed.strict,
            "truncated": parsed.truncated,
            "with trailing text": parsed.trailing,
            "with something dropped": parsed.dropped,
        }
        kinds.update(name for name, holds in marks.items() if holds)
    return kinds


def text_of(shape: tuple[str, str, str], n_characters: int) -> str:
    first, unit, last = shape
    return first + unit * (n_characters // len(unit)) + last


def seconds(shape: tuple[str, str, str], n_characters: int, repeats: int = 3) -> float:
    """CPU seconds to parse a shape of about `n_characters`, the best of some repeats."""
    text = text_of(shape, n_characters)

    def once() -> float:
        started = time.process_time()
        parse_coordjson(text)
        return time.process_time() - started

    return min(once() for _ in range(repeats))


def peak_mb(shape: tuple[str, str, str], n_characters: int) -> float:
    """Peak memory that parsing a shape allocates, its own text left out, in MB."""
    text = text_of(shape, n_characters)
    tracemalloc.start()
    parse_coordjson(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.process_time()
    kinds = fuzz(arguments.texts, arguments.seed)
    told = ", ".join(f"{count:,} {name}" for name, count in kinds.most_common())
    print(
        f"{arguments.texts:,} texts of seed {arguments.seed} in "
        f"{time.process_time() - started:.0f} s of CPU: {told}",
        end="\n\n",
    )
    print(
        "| shape | 0.5 MB (ms) | 1 MB (ms) | peak memory at 1 MB (MB) |\n"
        "| --- | ---: | ---: | ---: |"
    )
    for name, shape in SHAPES.items():
        half, whole = seconds(shape, 500_000), seconds(shape, 1_000_000)
        assert whole < min(1, 3 * max(half, 2e-3)), f"{name}: {half:.3f} s, then {whole:.3f} s"
        print(
            f"| {name} | {1000 * half:.0f} | {1000 * whole:.0f} | "
            f"{peak_mb(shape, 1_000_000):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
