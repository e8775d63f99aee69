"""The record, one image a line of JSON (design section 4)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from PIL import Image

from coordexp.data.records import Record, RecordObject, parse_record, read_records, write_records
from coordexp.errors import UserError

CUP = {"desc": "cup", "bbox_2d": [1, 2, 3, 4]}
GOOD = {"images": ["a.png"], "width": 64, "height": 64, "objects": [CUP]}
NAN = float("nan")
BOXES = (
    [],
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [1, 2, "3", 4],
    [1, 2, True, 4],
    [1, 2, None, 4],
    [1, 2, NAN, 4],
    [1, 2, 10**400, 4],
    [-1, 2, 3, 4],
)
EMPTY_BOXES = ([3, 2, 3, 4], [3, 2, 1, 4], [1, 4, 3, 2], [1, 2, 3, 2])
FLAT_POLYGONS = (
    [10, 10, 20, 20, 30, 30],
    [10, 10, 20, 20, 20, 10, 10, 20],
    [0.1, 0.1, 0.2, 0.2, 0.3, 0.3],
    [1, 1, 5, 1, 1, 1, 1, 5],
)
POLYGONS = (
    [],
    [1, 1, 5, 1],
    [1, 1, 5, 1, 5],
    [1, 1, 5, 1, 9, 1],
    [1, 1, 5, 1, 5, NAN],
    [1, 1, 5, -1, 5, 5],
)
BROKEN_OBJECTS = [
    "cup",
    None,
    {"desc": "cup"},
    {"bbox_2d": [1, 2, 3, 4]},
    *({"desc": desc, "bbox_2d": [1, 2, 3, 4]} for desc in ("", " ", 5, None)),
    {"desc": "cup", "bbox_2d": [1, 2, 3, 4], "poly": [1, 1, 5, 1, 5, 5]},
    {"desc": "cup", "bbox_2d": "1234"},
    {"desc": "cup", "bbox_2d": None},
    *({"desc": "cup", "bbox_2d": box} for box in (*BOXES, *EMPTY_BOXES)),
    *({"desc": "cup", "poly": polygon} for polygon in (*POLYGONS, *FLAT_POLYGONS)),
]


def a_picture(directory: Path) -> None:
    Image.new("RGB", (64, 64)).save(directory / "a.png")


def lines_of(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_records_come_back_as_they_were_written(tmp_path):
    a_picture(tmp_path)
    descs = [
        'say "hi"',
        "back\\slash",
        "杯子 🥤",
        "two\nlines",
        "line\u2028separator",
        "next\x85line",
        "form\x0cfeed",
        "unit\x1eend",
    ]
    objects = [RecordObject(desc, "bbox_2d", (0.25, 1.5, 2.0, 3.0)) for desc in descs]
    objects += [RecordObject("leaf", "poly", (5.0, 0.5, 9.0, 6.0, 1.0, 7.0))]
    records = [Record("a.png", 64, 48, (o,), {"image_id": i}) for i, o in enumerate(objects)] + [
        Record("a.png", 64, 48, ())
    ]
    write_records(tmp_path / "some.jsonl", records)
    assert read_records(tmp_path / "some.jsonl") == records


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": []}, "images"),
        ({"images": ["a.png", "a.png"]}, "images"),
        ({"images": "a.png"}, "images"),
        ({"images": ["b.png"]}, "b.png"),
        *(
            ({"images": [name]}, "is missing")
            for name in ("x" * 300, "a\0", "\ud800.png", "two\nlines.png")
        ),
        ({"width": 0}, "width"),
        ({"width": "64"}, "width"),
        ({"height": 64.5}, "height"),
        ({"height": None}, "height"),
        ({"objects": {}}, "objects"),
        ({"metadata": [1]}, "metadata"),
        *(
            ({"metadata": {"order": order}}, "metadata.order")
            for order in ([], [1], [0, 0], [0, 1], ["0"], 0, None)
        ),
        *(({"objects": [CUP, broken]}, "object 1") for broken in BROKEN_OBJECTS),
    ],
)
def test_bad_records_are_one_line_that_names_file_and_line(tmp_path, refused, change, named):
    a_picture(tmp_path)
    (tmp_path / "some.jsonl").write_text("\n" + lines_of(GOOD, GOOD | change, GOOD))
    with refused(f"{tmp_path / 'some.jsonl'}:3", named):
        read_records(tmp_path / "some.jsonl")


@pytest.mark.parametrize(
    ("objects", "contracts"),
    [
        ([("bbox_2d", [5, 5, 9, 9]), ("bbox_2d", [9, 0, 12, 4])], [[9, 0, 12, 4], [5, 5, 9, 9]]),
        ([("bbox_2d", [5, 1, 9, 9]), ("bbox_2d", [2, 1, 12, 4])], [[2, 1, 12, 4], [5, 1, 9, 9]]),
        ([("poly", [5, 5, 1, 1, 5, 1])], [[1, 1, 5, 1, 5, 5]]),
        ([("poly", [1, 1, 1, 5, 5, 5])], [[1, 1, 5, 5, 1, 5]]),
    ],
)
def test_another_order_than_the_contracts_is_mended_or_refused(tmp_path, objects, contracts):
    a_picture(tmp_path)
    (tmp_path / "some.jsonl").write_text(
        lines_of(GOOD | {"objects": [{"desc": "cup", kind: pixels} for kind, pixels in objects]})
    )
    with contextlib.suppress(UserError):
        (record,) = read_records(tmp_path / "some.jsonl")
        assert [list(o.pixels) for o in record.objects] == contracts


def test_metadata_of_a_sorted_file_holds_another_written_order(tmp_path):
    a_picture(tmp_path)
    cup, cap, bat = (
        RecordObject(name, "bbox_2d", box)
        for name, box in (
            ("cup", (1.0, 1.0, 5.0, 5.0)),
            ("cap", (1.0, 1.0, 9.0, 9.0)),
            ("bat", (2.0, 2.0, 5.0, 5.0)),
        )
    )
    for order, objects in (
        ([0, 1, 2], (cup, cap, bat)),
        ([1, 0, 2], (cap, cup, bat)),
        ([2, 0, 1], (bat, cup, cap)),
    ):
        record = Record("a.png", 64, 64, objects, {"order": order})
        write_records(tmp_path / "some.jsonl", [record])
        (row,) = map(json.loads, (tmp_path / "some.jsonl").read_text().splitlines())
        assert [o["desc"] for o in row["objects"]] == ["cup", "cap", "bat"]
        assert read_records(tmp_path / "some.jsonl") == [record]
        assert [o.desc for o in record.coord_objects()] == [o.desc for o in objects]


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '"x"', "null", "{}", "[" * 100_000, '{"images": ["a.png"]}', "\x00"]
)
def test_a_line_that_is_no_record(refused, line):
    with refused("here:1"):
        parse_record(line, "here:1")


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_file_that_holds_no_records(tmp_path, refused, content):
    if content is not None:
        (tmp_path / "some.jsonl").write_bytes(content)
    with refused(str(tmp_path / "some.jsonl")):
        read_records(tmp_path / "some.jsonl")
