"""Record -> CoordJSON -> tokens -> text -> parser -> pixels: no coordinate moves by more than half
a bin.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from coco_files import LVIS, settings
from hypothesis import given
from hypothesis import strategies as st

from coordexp.coords import parse_coordjson, to_pixels, write_coordjson
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.records import (
    Record,
    RecordObject,
    clockwise,
    in_order,
    read_records,
    reading_order,
    write_records,
)
from coordexp.models.processor import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(384)


def assert_comes_back(record: Record, tokenizer) -> None:
    ids = tokenizer.encode(write_coordjson(record.coord_objects()), add_special_tokens=False)
    parsed = parse_coordjson(tokenizer.decode(ids))
    assert parsed.strict
    assert len(parsed.objects) == len(record.objects)
    half_a_bin = [0.5 / 999 * (side - 1) + 1e-9 for side in (record.width, record.height)]
    for wrote, read in zip(record.objects, parsed.objects, strict=True):
        assert (read.desc, read.kind) == (wrote.desc, wrote.kind)
        back = to_pixels(read.bins, record.width, record.height)
        assert len(back) == len(wrote.pixels)
        for i, (a, b) in enumerate(zip(wrote.pixels, back, strict=True)):
            assert abs(a - b) <= half_a_bin[i % 2]


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("geometry", ["bbox", "poly_prefer"])
def test_every_coordinate_of_the_sample(tokenizer, geometry):
    if not LVIS.exists():
        pytest.skip("no LVIS annotations beside the checkout")
    convert_annotations(
        settings(f"data.geometry={geometry}", annotations=str(LVIS), max_objects=1000), Path("out")
    )
    records = [
        record for split in ("train", "val") for record in read_records(Path(f"out/{split}.jsonl"))
    ]
    assert sum(len(record.objects) for record in records) == 977
    for record in records:
        assert_comes_back(record, tokenizer)


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda s: s.strip() and "<|" not in s
)


@st.composite
def some_records(draw) -> Record:
    """Boxes and polygons anywhere in a picture of any size, in any order of writing."""
    width, height = (draw(st.integers(2, 4000)) for _ in range(2))
    x, y = (st.floats(0, side - 1, allow_nan=False) for side in (width, height))
    objects = []
    for _ in range(draw(st.integers(0, 4))):
        name = unicodedata.normalize("NFC", draw(NAMES))
        if draw(st.booleans()):
            (x1, x2), (y1, y2) = sorted((draw(x), draw(x))), sorted((draw(y), draw(y)))
            objects.append(RecordObject(name, "bbox_2d", (x1, y1, x2, y2)))
        else:
            points = draw(st.lists(st.tuples(x, y), min_size=3, max_size=20))
            objects.append(
                RecordObject(name, "poly", clockwise([v for point in points for v in point]))
            )
    order = draw(st.none() | st.permutations(range(len(objects))))
    metadata = {} if order is None else {"order": list(order)}
    return Record("a.png", width, height, in_order(reading_order(objects), order), metadata)


@given(record=some_records())
def test_every_coordinate_of_random_records(tokenizer, record):
    assert_comes_back(record, tokenizer)


def is_flat(obj: RecordObject) -> bool:
    """No area beyond what floating-point numbers leave."""
    x1, y1, x2, y2 = obj.box
    points = list(zip(obj.pixels[0::2], obj.pixels[1::2], strict=True))
    return abs(signed_area(points)) <= 1e-9 * (x2 - x1) * (y2 - y1)


def signed_area(points: list[tuple[float, float]]) -> float:
    (x0, y0) = points[0]
    turned = zip(points, points[1:] + points[:1], strict=True)
    return sum((xa - x0) * (yb - y0) - (xb - x0) * (ya - y0) for (xa, ya), (xb, yb) in turned) / 2


@given(record=some_records())
def test_records_are_read_in_the_order_they_were_written_in(tmp_path_factory, record):
    root = tmp_path_factory.mktemp("records")
    (root / "a.png").touch()
    flat = [
        o
        for o in record.objects
        if o.box[0] == o.box[2] or o.box[1] == o.box[3] or (o.kind == "poly" and is_flat(o))
    ]
    if not flat:
        write_records(root / "some.jsonl", [record])
        assert read_records(root / "some.jsonl") == [record]
