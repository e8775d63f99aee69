"""COCO and LVIS annotation files as they really are: what ends the reading, what is dropped, what
becomes of the rest.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import unicodedata

import numpy as np
import pytest
from coco_files import BAT, CATEGORIES, CUP, annotation, image, picture, write_coco
from hypothesis import example, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from coordexp.data.coco.annotations import read_coco
from coordexp.data.coco.instances import DroppedError, Frame, annotated_box, convert_instance
from coordexp.data.coco.polygons import PolygonLimits
from coordexp.errors import UserError

NAMES = {CUP: "cup"}
FRAME = Frame((100, 50), (100, 50))
LIMITS = PolygonLimits(20, 0.9)
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
NAN, INF = math.nan, math.inf


# --- one annotation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bbox", "pixels", "clipped"),
    [
        ((10, 20, 30, 10), (10, 20, 40, 30), False),
        ((0, 0, 100, 50), (0, 0, 99, 49), False),  # edge to edge is first to last pixel
        ((-5, -7, 20, 20), (0, 0, 15, 13), True),
        ((90, 40, 20, 20), (90, 40, 99, 49), True),
        ((-1, -1, 102, 52), (0, 0, 99, 49), True),
        ((10, 20, 90.5, 5), (10, 20, 99, 25), True),
        ((10, 20, 5, 30.5), (10, 20, 15, 49), True),
        ((-0.009, 20, 10, 30.009), (0, 20, 9.991, 49), False),  # rounding: not counted
        ((-0.011, 20, 10, 10), (0, 20, 9.989, 30), True),
        ((90, 20, 10.011, 10), (90, 20, 99, 30), True),
        ((10.123456, 20, 0.5, 0.25), (10.1235, 20, 10.6235, 20.25), False),
    ],
)
def test_a_box_is_clipped_to_its_picture(bbox, pixels, clipped):
    instance = convert_instance(annotation(1, bbox=bbox), NAMES, FRAME)
    assert instance.object.desc == "cup"
    assert instance.object.kind == "bbox_2d"
    assert instance.object.pixels == pixels
    assert all(type(value) is float for value in instance.object.pixels)
    assert instance.clipped == clipped


@pytest.mark.parametrize("crowd", [0, False, 0.0, None])
def test_what_is_no_crowd_is_kept(crowd):
    assert convert_instance(annotation(1, iscrowd=crowd), NAMES, FRAME).object.desc == "cup"


def test_a_box_is_scaled_with_its_picture():
    instance = convert_instance(
        annotation(1, bbox=(10, 20, 30, 10)), NAMES, Frame((100, 50), (64, 96))
    )
    assert instance.object.pixels == pytest.approx((6.4, 38.4, 25.6, 57.6))


DROPPED = [
    ({"category_id": 99}, "unknown category"),
    *(({"iscrowd": crowd}, "crowd region") for crowd in (1, True, 2)),
    *(({"iscrowd": crowd}, "broken iscrowd") for crowd in ("0", "1", [], {})),
    *(
        ({"bbox": bbox}, "broken box")
        for bbox in (
            [1, 2, NAN, 4],
            [1, 2, 3, INF],
            [1, 2, 3],
            [1, 2, 3, 4, 5],
            ["1", 2, 3, 4],
            [True, 2, 3, 4],
            "1234",
            7,
            {},
            [10**400, 2, 3, 4],
        )
    ),
    *(
        ({"bbox": bbox}, "no area")
        for bbox in ([1, 2, 0, 4], [1, 2, 3, 0], [1, 2, -3, 4], [1, 2, 1e-9, 4], [99.5, 2, 0.4, 4])
    ),
    *(
        ({"bbox": bbox}, "outside the picture")
        for bbox in ([100, 2, 3, 4], [1, 50, 3, 4], [-9, 2, 9, 4], [1, -9, 3, 8])
    ),
    ({"bbox": None, "segmentation": None}, "no box and no mask"),
    ({"bbox": None, "segmentation": []}, "no box and no mask"),
    ({"bbox": None, "segmentation": [[1, 2, 3, 4]]}, "no box and no mask"),
    *(
        ({"bbox": None, "segmentation": {"size": size, "counts": counts}}, "broken mask")
        for size, counts in (
            ([50, 100], [4999]),
            ([50, 100], [5001]),
            ([50, 100], [-1, 5001]),
            ([50, 100], ["5000"]),
            ([50, 100], None),
            ([100, 50], [0, 5000]),
            ([50], [0, 5000]),
            (None, [0, 5000]),
            ([50, 100], ""),
            ([50, 100], "~~~~"),
            ([50, 100], "é"),
            ([50, 100], "PPPPPPPPPPPPPPPP"),
            ([50, 100], "0" * 5000),
        )
    ),
    ({"bbox": None, "segmentation": {"size": [50, 100], "counts": [5000]}}, "no area"),
]


@pytest.mark.parametrize(("change", "reason"), DROPPED)
@pytest.mark.parametrize("limits", [None, LIMITS])
def test_what_gives_no_object_is_dropped_for_one_reason(change, reason, limits):
    with pytest.raises(DroppedError, match=f"^{reason}$"):
        convert_instance(annotation(1) | {"segmentation": [SQUARE]} | change, NAMES, FRAME, limits)


def test_the_box_of_polygons_where_none_is_given():
    parts = [SQUARE, [50, 5, 60, 5, 60, 9.5], [1, 2]]
    for missing in ({"bbox": None}, {}):
        entry = {"id": 1, "category_id": CUP, "segmentation": parts} | missing
        assert convert_instance(entry, NAMES, FRAME).object.pixels == (10, 5, 60, 30)


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_the_box_of_a_run_length_encoded_mask_is_that_of_its_pixels(width, height, data):
    pixels = np.array(
        data.draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    )
    mask = np.asfortranarray(pixels.reshape(height, width).astype(np.uint8))
    compressed = coco_mask.encode(mask)
    runs, value = [0], 0
    for pixel in mask.flatten(order="F"):
        runs += [0] if pixel != value else []
        value = pixel
        runs[-1] += 1
    ys, xs = np.nonzero(mask)
    for counts in (runs, compressed["counts"].decode()):
        entry = {"segmentation": {"size": [height, width], "counts": counts}}
        if len(xs):
            expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert annotated_box(entry, (width, height)) == expected
        else:
            with pytest.raises(DroppedError):
                annotated_box(entry, (width, height))


@given(st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=30))
@example("")
def test_no_text_of_run_lengths_reaches_beyond_its_mask(counts):
    try:
        x1, y1, x2, y2 = annotated_box({"segmentation": {"size": [7, 5], "counts": counts}}, (5, 7))
    except DroppedError:
        return
    assert 0 <= x1 < x2 <= 5
    assert 0 <= y1 < y2 <= 7


# --- the file ---------------------------------------------------------------------------------

GOOD = {"images": [image(1)], "annotations": [annotation(31)], "categories": CATEGORIES}


def set_at(content: dict, where: tuple, value: object) -> dict:
    content = copy.deepcopy(content)
    holder = content
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    return content


ENDS = [
    (("images",), None, "images must be a list, and is missing"),
    (("annotations",), 5, "annotations must be a list, not 5"),
    (("annotations",), {"0": 1}, "annotations must be a list, not {'0': 1}"),
    (("images",), {"0": image(1)}, "images must be a list, not {"),
    (("categories",), {"2": "cup"}, "categories must be a list, not {'2': 'cup'}"),
    (("images", 0), [], "images[0] must be an object, not []"),
    (
        ("images", 0),
        {"file_name": "1.jpg", "width": 64, "height": 64},
        "images[0]: id must be a number or text, and is missing",
    ),
    *(
        (("images", 0, "id"), i, f"images[0]: id must be a number or text, not {shown}")
        for i, shown in (
            (NAN, "nan"),
            (INF, "inf"),
            (True, "True"),
            ([1], "[1]"),
            ("\ud800", "'\\ud800'"),
        )
    ),
    (("images", 0), {"id": 1, "file_name": "a.jpg", "height": 5}, "width"),
    *(
        (("images", 0, "width"), width, "image 1")
        for width in (0, 1, -5, 64.5, "64", None, True, NAN, 2**31, 10**400)
    ),
    (("images",), [image(1), image(1, (32, 32))], "image 1 is there twice"),
    (("images",), [image(1), image(2) | {"file_name": "1.jpg"}], "1.jpg"),
    (
        ("images",),
        [image(1), image(2) | {"file_name": "./1.jpg"}],
        "images 1 and 2 are the same picture '1.jpg'",
    ),
    (
        ("images",),
        [image(1) | {"file_name": "d//1.jpg"}, image(2) | {"file_name": "d/1.jpg"}],
        "'d/1.jpg'",
    ),
    (("images", 0), {"id": 1, "width": 64, "height": 64}, "neither file_name nor coco_url"),
    *(
        (("images", 0, "file_name"), name, "image 1")
        for name in ("/", "..", "a/..", "a\0b", ".", "\ud800")
    ),
    *((("images", 0, "file_name"), name, "not a COCO") for name in (5, ["1.jpg"])),
    (("images", 0, "file_name"), 5, "image 1: file_name must be text, not 5"),
    (("images", 0, "coco_url"), 5, "image 1: coco_url must be text, not 5"),
    (
        ("images", 0, "coco_url"),
        "http://a/../..",
        "image 1: coco_url 'http://a/../..' does not lie below",
    ),
    (
        ("images", 0),
        {"id": 1, "width": 64, "height": 64, "coco_url": "http://a.org"},
        "neither file_name nor coco_url",
    ),
    (("images", 0), {"id": 1, "width": 64, "height": 64, "coco_url": "http://["}, "not a COCO"),
    (("images", 0, "id"), {}, "not a COCO"),
    (("images", 0, "neg_category_ids"), 5, "not a COCO"),
    *(
        (
            ("images", 0, "neg_category_ids"),
            ids,
            "image 1: neg_category_ids must be a list of category ids",
        )
        for ids in (5, "2", {"2": 1}, [[2]])
    ),
    (("categories",), [*CATEGORIES, CATEGORIES[0]], "category 2 is there twice"),
    *(
        (("categories", 0, "name"), name, "category 2")
        for name in ("", " ", None, 5, ["cup"], "half \ud83e")
    ),
    (("categories", 0, "name"), "a <|coord_5|> b", "<|coord_5|>"),
    (("categories", 0, "name"), "<|im_end|>", "<|im_end|>"),
    (("categories", 0), {"id": 2}, "name"),
    (("annotations", 0), "cup", "not a COCO"),
    (("annotations", 0), {"id": 31, "category_id": 2}, "image_id"),
    (("annotations", 0), {"id": 31, "image_id": 1}, "category_id"),
    (
        ("annotations", 0),
        {"id": 31, "image_id": 1},
        "annotation 31: category_id must be a number or text, and is missing",
    ),
    (
        ("annotations", 0),
        {"image_id": None, "bbox": [1, 2, 3, 4]},
        "annotations[0]: category_id must be a number or text",
    ),
    (
        ("annotations", 0),
        {"id": {}, "category_id": 2},
        "annotations[0]: image_id must be a number or text, and is missing",
    ),
    (
        ("annotations", 0, "image_id"),
        [1],
        "annotation 31: image_id must be a number or text, not [1]",
    ),
    (("annotations", 0, "category_id"), [2], "not a COCO"),
    (("annotations", 0, "image_id"), {}, "not a COCO"),
]


@pytest.mark.parametrize(("where", "value", "named"), ENDS)
def test_a_fault_of_the_file_ends_it_with_one_line(tmp_path, refused, where, value, named):
    (tmp_path / "coco.json").write_text(json.dumps(set_at(GOOD, where, value)))
    with refused(str(tmp_path / "coco.json"), named):
        read_coco(tmp_path / "coco.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"coco"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"images": []}',
    ],
)
def test_what_is_no_annotation_file_is_one_line(tmp_path, refused, content):
    (tmp_path / "coco.json").write_bytes(content)
    with refused(str(tmp_path / "coco.json")):
        read_coco(tmp_path / "coco.json")
    with refused("no-such.json"):
        read_coco(tmp_path / "no-such.json")
    with refused(str(tmp_path)):
        read_coco(tmp_path)


def test_annotations_of_absent_pictures_are_kept_apart(tmp_path):
    found = read_coco(
        write_coco(
            tmp_path / "coco.json", [image(1)], [annotation(1), annotation(2, 9), annotation(3)]
        )
    )
    assert [a["id"] for a in found.images[0].annotations] == [1, 3]
    assert [a["id"] for a in found.astray] == [2]


@pytest.mark.parametrize(
    "name",
    [
        "bat_(animal)",
        "杯子",
        "crème brûlée",
        "crème",
        'say "hi"',
        "back\\slash",
        "a|b",
        "<coord_5>",
        " a ",
    ],
)
def test_a_name_is_kept_as_it_is_in_the_form_tokenizers_write(tmp_path, name):
    for written in (name, unicodedata.normalize("NFD", name)):
        path = write_coco(tmp_path / "coco.json", [image(1)], [], [{"id": 1, "name": written}])
        assert read_coco(path).names == {1: unicodedata.normalize("NFC", name)}


@pytest.mark.parametrize(
    ("entry", "name", "lies_at"),
    [
        ({"file_name": "1.jpg"}, "1.jpg", ["1.jpg"]),
        ({"file_name": "val2017/1.jpg"}, "val2017/1.jpg", ["val2017/1.jpg", "1.jpg"]),
        (
            {"coco_url": "http://images.cocodataset.org/val2017/1.jpg"},
            "val2017/1.jpg",
            ["val2017/1.jpg", "1.jpg"],
        ),
        (
            {
                "file_name": "COCO_val2014_1.jpg",
                "coco_url": "http://images.cocodataset.org/val2017/1.jpg",
            },
            "COCO_val2014_1.jpg",
            ["COCO_val2014_1.jpg", "val2017/1.jpg", "1.jpg"],
        ),
        (
            {"file_name": "", "coco_url": "http://a/b/c/1.jpg?size=5#x"},
            "c/1.jpg",
            ["c/1.jpg", "1.jpg"],
        ),
        (
            {"file_name": "0.jpg", "coco_url": "https://bucket.s3.amazonaws.com/1.jpg"},
            "0.jpg",
            ["0.jpg", "1.jpg"],
        ),
        ({"file_name": "0.jpg", "coco_url": "https://bucket.s3.amazonaws.com"}, "0.jpg", ["0.jpg"]),
        (
            {"file_name": "0.jpg", "coco_url": "https://bucket.s3.amazonaws.com/"},
            "0.jpg",
            ["0.jpg"],
        ),
        ({"file_name": "./a//0.jpg", "coco_url": None}, "a/0.jpg", ["a/0.jpg", "0.jpg"]),
    ],
)
def test_a_picture_is_found_under_each_name_the_data_sets_give_it(tmp_path, entry, name, lies_at):
    path = write_coco(tmp_path / "coco.json", [{"id": 1, "width": 64, "height": 64} | entry], [])
    (found,) = read_coco(path).images
    assert found.paths[0] == name
    assert found.find(tmp_path) is None
    for place in reversed(lies_at):  # an earlier one goes before
        picture(tmp_path / place)
        assert found.find(tmp_path) == tmp_path / place


def test_no_picture_is_looked_for_where_another_one_may_lie(tmp_path):
    images = [
        image(i) | {"file_name": name}
        for i, name in enumerate(("vid0/0.jpg", "vid0/1.jpg", "vid1/1.jpg", "2.jpg"))
    ]
    images.append(image(9) | {"file_name": "b.jpg", "coco_url": "http://a/c/2.jpg"})
    images.append(image(10) | {"file_name": "c.jpg", "coco_url": "http://b/c/2.jpg"})
    found = read_coco(write_coco(tmp_path / "coco.json", images, [])).images
    assert [entry.paths for entry in found] == [
        ("vid0/0.jpg", "0.jpg"),
        ("vid0/1.jpg",),
        ("vid1/1.jpg",),
        ("2.jpg",),
        ("b.jpg",),
        ("c.jpg",),
    ]


def test_a_name_too_long_for_any_file_is_not_found(tmp_path):
    path = write_coco(tmp_path / "coco.json", [image(1) | {"file_name": "x" * 300 + ".jpg"}], [])
    assert read_coco(path).images[0].find(tmp_path) is None


def test_a_list_that_lvis_leaves_empty_says_nothing(tmp_path):
    path = write_coco(tmp_path / "coco.json", [image(1, neg_category_ids=None)], [])
    assert read_coco(path).images[0].metadata == {"image_id": 1}


def test_what_lvis_does_not_say_exhaustively_goes_into_the_metadata(tmp_path):
    lists = {"neg_category_ids": [BAT, 99], "not_exhaustive_category_ids": [CUP]}
    path = write_coco(tmp_path / "coco.json", [image(1, **lists), image(2)], [])
    first, second = read_coco(path).images
    assert first.metadata == {
        "image_id": 1,
        "neg_categories": ["bat_(animal)"],
        "not_exhaustive_categories": ["cup"],
    }
    assert second.metadata == {"image_id": 2}


def damaged(rng: np.random.Generator) -> dict:
    """A good file with one value somewhere in it replaced."""
    content = where = copy.deepcopy(GOOD)
    values = [None, True, -1, 1.5, "x", [], {}, [None], 10**400, "1.jpg", [1, 2, 3, 4]]
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = keys[rng.integers(len(keys))]
        if not (isinstance(where[key], dict | list) and where[key]) or rng.random() < 0.3:
            where[key] = values[rng.integers(len(values))]
            return content
        where = where[key]


def test_no_damage_raises_anything_else(tmp_path):
    for seed in range(300):
        (tmp_path / "coco.json").write_text(json.dumps(damaged(np.random.default_rng(seed))))
        with contextlib.suppress(UserError, DroppedError):
            found = read_coco(tmp_path / "coco.json")
            for entry in found.images:
                for a in entry.annotations:
                    convert_instance(
                        a, found.names, Frame((entry.width, entry.height), (64, 64)), LIMITS
                    )
