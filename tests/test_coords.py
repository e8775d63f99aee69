"""Bins, pixels and CoordJSON."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.coords import (
    COORD_TOKENS,
    LAST_BIN,
    N_BINS,
    CoordObject,
    bin_to_pixel,
    coord_token_ids,
    parse_coordjson,
    pixel_to_bin,
    to_bins,
    to_pixels,
    write_coordjson,
)
from coordexp.errors import UserError

SPEC = importlib.util.spec_from_file_location(
    "parser_fuzz", Path(__file__).parents[1] / "benchmarks" / "parser_fuzz.py"
)
parser_fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(parser_fuzz)

BOX = "[<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]"
GOOD = f'{{"desc": "cup", "bbox_2d": {BOX}}}'

bins = st.integers(0, LAST_BIN)
HOSTILE_NAMES = [
    *('say "hi"', "back\\slash", "}, {", "]}", '"objects": ['),
    *("杯子 🥤", "a\nb\tc", "a\u2028\x85b"),
]
any_name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
descs = any_name.filter(str.strip) | st.sampled_from(HOSTILE_NAMES)
boxes = st.tuples(bins, bins, bins, bins).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
polygons = st.lists(st.tuples(bins, bins), min_size=3, max_size=6).map(
    lambda points: tuple(v for p in points for v in p)
)
objects = st.builds(CoordObject, descs, st.just("bbox_2d"), boxes) | st.builds(
    CoordObject, descs, st.just("poly"), polygons
)
texts = st.lists(objects, max_size=4).map(write_coordjson)


def text_of(*parts: str) -> str:
    return '{"objects": [' + ", ".join(parts) + "]}"


def strings_in(text: str) -> set[str]:
    """Every JSON string that starts anywhere in the text."""
    found = set()
    for match in re.finditer('"', text):
        with contextlib.suppress(ValueError):
            found.add(json.JSONDecoder().raw_decode(text, match.start())[0])
    return found


@given(st.floats(0, 1), st.integers(2, 5000))
def test_pixels_to_bins_and_back_are_within_half_a_bin(position, side):
    pixel = position * (side - 1)
    k = pixel_to_bin(pixel, side)
    assert 0 <= k <= LAST_BIN
    assert abs(bin_to_pixel(k, side) - pixel) <= 0.5 * (side - 1) / LAST_BIN * (1 + 1e-9)


@given(bins, st.integers(2, 5000))
def test_bins_to_pixels_and_back_are_exact(k, side):
    assert pixel_to_bin(bin_to_pixel(k, side), side) == k


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 5000))
def test_bins_grow_with_pixels_and_clamp_at_the_edges(a, b, side):
    low, high = sorted((a, b))
    assert 0 <= pixel_to_bin(low, side) <= pixel_to_bin(high, side) <= LAST_BIN
    if low <= 0:
        assert pixel_to_bin(low, side) == 0
    if high >= side - 1:
        assert pixel_to_bin(high, side) == LAST_BIN


def test_known_bins():
    bins_of = [pixel_to_bin(x, 128) for x in (0, 63.5, 127, 128, -3)]
    assert bins_of == [0, round(999 / 2), 999, 999, 0]
    assert bin_to_pixel(999, 128) == 127
    assert bin_to_pixel(0, 128) == 0


@given(boxes | polygons, st.integers(2, 5000), st.integers(2, 5000))
def test_bins_to_pixel_boxes_and_back_are_exact(box, width, height):
    pixels = to_pixels(box, width, height)
    assert to_bins(pixels, width, height) == list(box)
    assert all(0 <= x <= width - 1 for x in pixels[0::2])
    assert all(0 <= y <= height - 1 for y in pixels[1::2])


@pytest.mark.parametrize("convert", [to_bins, to_pixels])
@pytest.mark.parametrize(
    ("values", "side"), [([1.0], 64), ([1.0, 2.0], 1), ([math.nan, 2.0], 64), ([math.inf, 2.0], 64)]
)
def test_positions_that_no_image_has_are_refused(convert, values, side):
    with pytest.raises(ValueError, match=r"must be|at least 2 px"):
        convert(values, side, side)


def test_x_uses_the_width_and_y_the_height():
    assert to_bins((10, 10, 99, 49), width=100, height=50) == [101, 204, 999, 999]
    assert to_pixels((999, 999, 0, 500), width=100, height=50) == [99, 49, 0, 500 / 999 * 49]


def test_coordjson_is_written_as_specified():
    text = write_coordjson([CoordObject("red cup", "bbox_2d", (12, 34, 56, 78))])
    box = "[<|coord_12|>, <|coord_34|>, <|coord_56|>, <|coord_78|>]"
    assert text == f'{{"objects": [{{"desc": "red cup", "bbox_2d": {box}}}]}}'
    assert write_coordjson([]) == '{"objects": []}'
    assert '"desc": "杯 \\"🥤\\"", "poly": [' in write_coordjson(
        [CoordObject('杯 "🥤"', "poly", (1, 2, 3, 4, 5, 6))]
    )


@given(st.lists(objects, max_size=5))
def test_written_objects_are_parsed_back(written):
    parsed = parse_coordjson(write_coordjson(written))
    assert parsed.objects == written
    assert parsed.strict


@given(texts, st.data())
def test_a_prefix_of_a_text_is_truncated(text, data):
    whole = parse_coordjson(text).objects
    prefix = parse_coordjson(text[: data.draw(st.integers(0, len(text) - 1))])
    assert prefix.truncated
    assert not prefix.strict
    assert prefix.objects == whole[: len(prefix.objects)]


def test_brackets_within_a_name_do_not_end_the_text():
    text = text_of(GOOD, GOOD.replace("cup", "a ]} b"))
    for cut in range(len(text)):
        assert parse_coordjson(text[:cut]).truncated, text[:cut]
        assert not parse_coordjson(text[:cut]).dropped, text[:cut]
    assert not parse_coordjson('{"objects": [{"desc": "a\\\n} b').dropped


def test_half_surrogates_are_dropped_so_all_can_be_encoded():
    parsed = parse_coordjson(
        text_of(GOOD, GOOD.replace("cup", "\\ud800"), GOOD.replace("cup", "\\ud83e\\udd64"))
    )
    assert write_coordjson(parsed.objects).encode()
    assert [o.desc for o in parsed.objects] == ["cup", "🥤"]
    assert parsed.dropped == Counter(malformed=1), "half a surrogate pair cannot be encoded"


def test_truncation_keeps_every_closed_object():
    text = text_of(GOOD, GOOD)
    for cut in range(len(text) + 1):
        closed = text[:cut].count("}") - (cut == len(text))
        parsed = parse_coordjson(text[:cut])
        assert len(parsed.objects) == closed, text[:cut]
        assert not parsed.dropped


@settings(max_examples=200)
@given(texts, st.data())
def test_mutated_texts_never_raise_or_invent_objects(text, data):
    letters = list(text)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(letters)))
        piece = data.draw(
            st.sampled_from(
                ["", '"', "{", "}", "]}", ", ", "\\", "<|coord_5|>", "x", '{"desc": "', "\x00"]
            )
        )
        letters[at : at + data.draw(st.integers(0, 6))] = piece
    mutated = "".join(letters)
    parsed = parse_coordjson(mutated)
    assert {obj.desc for obj in parsed.objects} <= strings_in(mutated)
    for obj in parsed.objects:
        assert f'"{obj.kind}": [{", ".join(COORD_TOKENS[k] for k in obj.bins)}]}}' in mutated
    if parsed.strict:
        assert len(parsed.objects) == mutated.count('{"desc": "')


@settings(max_examples=200)
@given(
    st.text(max_size=80)
    | st.text('{}[]":, \\<|>_abcdeoprst0123456789', max_size=80).map('{"objects": ['.__add__)
)
def test_random_text_never_raises_and_has_no_objects(text):
    assert parse_coordjson(text).objects == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (f'{{"desc": "cup","bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc":"cup", "bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc": cup, "bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc": "c\\xp", "bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc": "c\nup", "bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc": "c\x1fup", "bbox_2d": {BOX}}}', "malformed"),
        (f'{{"desc": "cup", "box": {BOX}}}', "malformed"),
        ('{"desc": "cup", "bbox_2d": []}', "malformed"),
        ('{"desc": "cup", "bbox_2d": [1, 2, 3, 4]}', "malformed"),
        (GOOD.replace("<|coord_1|>", "<|coord_1000|>"), "malformed"),
        (GOOD.replace("<|coord_1|>", "<|coord_01|>"), "malformed"),
        (GOOD.replace("<|coord_1|>", "<|coord_-1|>"), "malformed"),
        (GOOD.replace("|>, <|", "|>,<|"), "malformed"),
        (GOOD[:-1] + ', "score": 1}', "malformed"),
        ("nonsense}", "malformed"),
        (GOOD.replace("cup", ""), "empty_desc"),
        (GOOD.replace("cup", " \\t "), "empty_desc"),
        (GOOD.replace(", <|coord_4|>", ""), "arity"),
        (GOOD.replace("<|coord_4|>", "<|coord_4|>, <|coord_5|>"), "arity"),
        (GOOD.replace("bbox_2d", "poly"), "arity"),
        (
            GOOD.replace("bbox_2d", "poly").replace(BOX, "[" + ", ".join(COORD_TOKENS[:7]) + "]"),
            "arity",
        ),
        (GOOD.replace("<|coord_3|>", "<|coord_0|>"), "inverted_box"),
        (GOOD.replace("<|coord_4|>", "<|coord_0|>"), "inverted_box"),
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_broken_object_is_counted_and_the_others_stay(broken, reason, place):
    parts = {
        "first": [broken, GOOD, GOOD],
        "middle": [GOOD, broken, GOOD],
        "last": [GOOD, GOOD, broken],
    }[place]
    parsed = parse_coordjson(text_of(*parts))
    assert len(parsed.objects) == 2
    assert parsed.dropped == Counter({reason: 1})
    assert not parsed.strict
    assert not parsed.truncated
    assert parsed.trailing == ""


def test_a_box_of_no_area_is_not_inverted():
    assert parse_coordjson(text_of(GOOD.replace("<|coord_3|>", "<|coord_1|>"))).strict


@pytest.mark.parametrize("end", [", ]}", ",]}", " ]}", "x]}", ', {"desc": "cup"]}', ", nonsense]}"])
def test_a_fault_before_the_end_is_no_truncation(end):
    parsed = parse_coordjson('{"objects": [' + f"{GOOD}, {GOOD}{end}")
    assert parsed.dropped == Counter(malformed=1)
    assert not parsed.strict
    assert not parsed.truncated, "the closing ]} is there"


@pytest.mark.parametrize(
    "text", ["nothing", "[]", '{"objects":[]}', " " + text_of(GOOD), '{"object": []}']
)
def test_a_text_that_does_not_begin_as_coordjson_is_no_list(text):
    parsed = parse_coordjson(text)
    assert parsed.objects == []
    assert parsed.dropped == Counter(no_list=1)
    assert not parsed.truncated


def test_text_after_the_end_is_trailing():
    parsed = parse_coordjson(text_of(GOOD) + " and " + text_of(GOOD))
    assert len(parsed.objects) == 1
    assert parsed.trailing == " and " + text_of(GOOD)
    assert not parsed.strict
    assert parse_coordjson('{"objects": []}x').trailing == "x"
    broken = parse_coordjson(text_of(GOOD, GOOD.replace("bbox_2d", "box")) + "x")
    assert (broken.trailing, broken.truncated, broken.dropped) == ("x", False, Counter(malformed=1))


@given(st.lists(objects, max_size=5))
def test_spans_are_the_positions_of_the_objects(written):
    text = write_coordjson(written)
    parsed = parse_coordjson(text)
    parts = [text[first:end] for first, end in parsed.spans]
    assert text_of(*parts) == text
    assert [parse_coordjson(text_of(part)).objects for part in parts] == [[o] for o in written]


def test_spans_leave_out_dropped_objects():
    broken = GOOD.replace("<|coord_3|>", "<|coord_0|>")
    last = GOOD.replace("cup", "杯 \\ud83e\\udd64")
    text = text_of("nonsense", GOOD, broken, last) + f" {GOOD}"
    parsed = parse_coordjson(text)
    assert [text[first:end] for first, end in parsed.spans] == [GOOD, last]
    assert parsed.dropped == Counter(malformed=1, inverted_box=1)


def test_an_unclosed_object_does_not_drop_the_next():
    assert parse_coordjson(text_of(GOOD[:-1], GOOD, GOOD)).dropped == Counter(malformed=1)
    assert len(parse_coordjson(text_of(GOOD[:-1], GOOD, GOOD)).objects) == 2
    assert len(parse_coordjson(text_of(GOOD.replace("]}", ""), GOOD, GOOD)).objects) == 2
    in_a_name = GOOD.replace("cup", 'a, {\\"desc\\": b')
    assert parse_coordjson(text_of(in_a_name, GOOD)).strict, "inside a name it is part of the name"


@pytest.mark.parametrize(
    "end",
    ["x", f"x, {GOOD[:-1]}", ', {"desc": "cup", "bbox_2d": [1, 2, 3, 4]}', f", {GOOD}x{GOOD}"],
)
def test_a_broken_unclosed_text_is_malformed_and_truncated(end):
    parsed = parse_coordjson('{"objects": [' + GOOD + end)
    assert parsed.dropped == Counter(malformed=1)
    assert parsed.truncated


@pytest.mark.parametrize("rest", ['x]]"]}', 'x]]}"abc', '"]}', "x", '{"desc": "]}', f"{GOOD}x]"])
def test_an_end_inside_a_name_is_truncation(rest):
    assert parse_coordjson('{"objects": [' + rest).truncated


def test_twenty_thousand_fuzzed_texts_are_parsed():
    kinds = parser_fuzz.fuzz(20_000, seed=1)
    assert min(kinds.values()) > 1000, f"each kind of text occurs: {kinds}"


@pytest.mark.parametrize("shape", parser_fuzz.SHAPES)
def test_a_hostile_megabyte_takes_linear_time_and_memory(shape):
    smaller, larger = (
        parser_fuzz.seconds(parser_fuzz.SHAPES[shape], n, repeats=2) for n in (500_000, 1_000_000)
    )
    assert larger < min(1, 4 * max(smaller, 5e-3))
    assert parser_fuzz.peak_mb(parser_fuzz.SHAPES[shape], 100_000) < 2


def test_coordjson_with_numbers_for_tokens_is_json():
    written = [CoordObject('say "hi"\n杯', "poly", (1, 2, 3, 4, 5, 6))]
    numbers = re.sub(r"<\|coord_(\d+)\|>", r"\1", write_coordjson(written))
    assert json.loads(numbers) == {
        "objects": [{"desc": written[0].desc, "poly": [1, 2, 3, 4, 5, 6]}]
    }


class FakeTokenizer:
    unk_token_id = None

    def __init__(self, n: int) -> None:
        self.vocabulary = {token: 7 + k for k, token in enumerate(COORD_TOKENS[:n])}

    def convert_tokens_to_ids(self, tokens):
        return [self.vocabulary.get(token, self.unk_token_id) for token in tokens]


def test_token_ids_are_in_the_order_of_bins_or_refused():
    assert coord_token_ids(FakeTokenizer(N_BINS)) == list(range(7, 1007))
    with pytest.raises(UserError, match="coord_0"):
        coord_token_ids(FakeTokenizer(N_BINS - 1))
