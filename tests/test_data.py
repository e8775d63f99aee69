"""Scenes, COCO files, records and batches (design section 4)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_OVERRIDES
from omegaconf import OmegaConf
from PIL import Image

from coordexp.config import UserError, compose
from coordexp.data.coco import coco_records
from coordexp.data.prepare import prepare_data
from coordexp.data.records import Record, RecordObject, parse_record, read_records, write_records
from coordexp.data.scenes import CATEGORIES, Shape, draw_scene, place_shapes
from coordexp.files import read_json, sha256_directory

SPLITS = ("train", "val")
SCENES_CFG = OmegaConf.to_object(compose(TINY_OVERRIDES).data)


def prepare(*overrides: str) -> Path:
    return prepare_data(compose([*TINY_OVERRIDES, *overrides])).absolute().parent


# --- scenes ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(scenes, in_tmp):
    again, other = prepare(), prepare("data.seed=1")
    assert (again / "data.json").read_bytes() == (scenes.path / "data.json").read_bytes()
    assert sha256_directory(again) == sha256_directory(scenes.path)
    for split in SPLITS:
        assert sha256_directory(other / "images" / split) != sha256_directory(again / "images" / split)
    assert sha256_directory(again / "images" / "train") != sha256_directory(again / "images" / "val")


def test_drawing_may_stop_and_go_on_anywhere(scenes, in_tmp):
    shutil.copytree(scenes.root / "results", "results")
    path = in_tmp / scenes.path.relative_to(scenes.root)
    for name in ("train/000003", "train/000011", "val/000000"):
        (path / "images" / f"{name}.png").unlink()
    (path / "train.jsonl").unlink()
    (path / "data.json").unlink()
    times = {p: p.stat().st_mtime_ns for p in path.rglob("*.png")}
    assert prepare() == path
    assert (path / "data.json").read_bytes() == (scenes.path / "data.json").read_bytes()
    assert {p: p.stat().st_mtime_ns for p in times} == times, "finished pictures were drawn again"


def test_what_a_killed_drawing_leaves_does_not_count(scenes, in_tmp):
    shutil.copytree(scenes.root / "results", "results")
    path = in_tmp / scenes.path.relative_to(scenes.root)
    (path / "images" / "train" / "000003.4711.tmp").write_bytes(b"half a picture")
    prepare()
    assert (path / "data.json").read_bytes() == (scenes.path / "data.json").read_bytes()


def test_a_picture_depends_on_seed_split_and_index_only(scenes, in_tmp):
    more = prepare("data.train_images=14")
    for i in range(12):
        name = f"images/train/{i:06d}.png"
        assert (more / name).read_bytes() == (scenes.path / name).read_bytes()


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_boxes_are_tight_to_within_a_pixel(category):
    cfg = dataclasses.replace(SCENES_CFG, image_size=128, min_objects=1, max_objects=1)
    for seed in range(3):
        (shape,) = place_shapes(cfg, np.random.default_rng([category, seed]))
        shape = Shape(category, shape.box)
        drawn, empty = (np.asarray(draw_scene(128, shapes, np.random.default_rng(seed))).astype(int) for shapes in ([shape], []))
        ys, xs = np.nonzero(np.abs(drawn - empty).max(-1))
        assert np.abs(np.array([xs.min(), ys.min(), xs.max(), ys.max()]) - shape.box).max() <= 1


def test_the_counts_and_sizes_are_those_asked_for(scenes):
    sides, counts = [], set()
    for split, n in (("train", 12), ("val", 9)):
        records = read_records(scenes.path / f"{split}.jsonl")
        assert len(records) == n
        counts |= {len(r.objects) for r in records}
        sides += [max(b - a for a, b in ((o.box[0], o.box[2]), (o.box[1], o.box[3]))) / 64 for r in records for o in r.objects]
    assert counts == {1, 2, 3}
    assert 0.2 <= min(sides) and max(sides) <= 0.4 * np.exp(0.175) + 0.01


@pytest.mark.parametrize(
    ("override", "key"),
    [("image_size=100", "image_size"), ("min_objects=0", "min_objects"), ("max_objects=0", "max_objects"), ("max_side=1.2", "max_side"),
     ("min_side=0", "min_side"), ("train_images=0", "train_images")],
)  # fmt: skip
def test_scenes_that_cannot_be_drawn(in_tmp, refused, override, key):
    with refused(f"data.{key}"):
        prepare(f"data.{override}")


# --- COCO -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_annotation_file_is_coco_and_converts_to_the_records(scenes, split):
    raw = read_json(scenes.path / "annotations" / f"{split}.json")
    sizes = {image["id"]: (image["width"], image["height"]) for image in raw["images"]}
    names = {category["id"]: category["name"] for category in raw["categories"]}
    assert len({a["id"] for a in raw["annotations"]}) == len(raw["annotations"])
    boxes = []
    for a in raw["annotations"]:
        x, y, w, h = a["bbox"]
        assert w > 0 and h > 0 and a["area"] == pytest.approx(w * h, abs=0.01) and a["iscrowd"] == 0
        assert 0 <= x and 0 <= y and x + w <= sizes[a["image_id"]][0] and y + h <= sizes[a["image_id"]][1]
        boxes.append((a["image_id"], names[a["category_id"]], x, y, x + w, y + h))
    records = read_records(scenes.path / f"{split}.jsonl")
    assert records == coco_records(scenes.path / "annotations" / f"{split}.json", scenes.path)
    found = [(r.metadata["image_id"], o.desc, *o.pixels) for r in records for o in r.objects]
    assert sorted(row[:2] for row in found) == sorted(row[:2] for row in boxes)
    assert np.allclose(sorted(row[2:] for row in found), sorted(row[2:] for row in boxes), atol=1e-3)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_stand_in_reading_order(scenes, split):
    for record in read_records(scenes.path / f"{split}.jsonl"):
        corners = [(o.box[1], o.box[0]) for o in record.objects]
        assert corners == sorted(corners)


def coco(tmp_path: Path) -> dict:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    image = {"id": 7, "file_name": "a.png", "width": 64, "height": 64}
    annotation = {"id": 31, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3.5, 4]}
    return {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "cup"}]}


def test_a_good_coco_file_converts(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(coco(tmp_path)))
    (record,) = coco_records(tmp_path / "coco.json", tmp_path)
    assert record == Record("a.png", 64, 64, (RecordObject("cup", "bbox_2d", (1, 2, 4.5, 6)),), {"image_id": 7})


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        *((("annotations", 0, "bbox"), box, "31") for box in (
            [1, 2, float("nan"), 4], [1, 2, float("inf"), 4], [-1, 2, 3, 4], [1, -2, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0], [1, 2, -3, 4],
            [1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], [True, 2, 3, 4], [None, 2, 3, 4], "1234")),
        (("annotations", 0, "bbox"), None, "coco.json"),
        (("annotations", 0, "category_id"), 3, "31"),
        (("annotations", 0, "image_id"), 8, "31"),
        (("annotations", 0), {"id": 31}, "image_id"),
        (("annotations",), None, "coco.json"),
        (("categories", 0), {"id": 2}, "name"),
        (("images", 0, "file_name"), "b.png", "b.png"),
        (("images", 0), {"id": 7, "file_name": "a.png"}, "width"),
        (("images", 0), {"id": 7, "width": 64, "height": 64}, "file_name"),
        (("images",), [{"id": 7, "file_name": "a.png", "width": 64, "height": 64}] * 2, "7"),
    ],
)  # fmt: skip
def test_bad_annotations_are_one_line(tmp_path, refused, where, value, named):
    content = coco(tmp_path)
    holder = content
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with refused("coco.json", named):
        coco_records(tmp_path / "coco.json", tmp_path)


# --- records --------------------------------------------------------------------------------------------------

GOOD = {"images": ["a.png"], "width": 64, "height": 64, "objects": [{"desc": "cup", "bbox_2d": [1, 2, 3, 4]}]}


def lines_of(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_records_come_back_as_they_were_written(tmp_path):
    coco(tmp_path)
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
    records = [Record("a.png", 64, 48, (o,), {"image_id": i}) for i, o in enumerate(objects)] + [Record("a.png", 64, 48, ())]
    write_records(tmp_path / "some.jsonl", records)
    assert read_records(tmp_path / "some.jsonl") == records


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": []}, "images"),
        ({"images": ["a.png", "a.png"]}, "images"),
        ({"images": "a.png"}, "images"),
        ({"images": ["b.png"]}, "b.png"),
        ({"width": 0}, "width"),
        ({"width": "64"}, "width"),
        ({"height": 64.5}, "height"),
        ({"height": None}, "height"),
        ({"objects": {}}, "objects"),
        ({"metadata": [1]}, "metadata"),
        *(({"objects": [GOOD["objects"][0], broken]}, "object 1") for broken in (
            {"desc": "", "bbox_2d": [1, 2, 3, 4]}, {"desc": " ", "bbox_2d": [1, 2, 3, 4]}, {"desc": 5, "bbox_2d": [1, 2, 3, 4]},
            {"bbox_2d": [1, 2, 3, 4]}, {"desc": "cup"}, "cup", None, {"desc": "cup", "bbox_2d": "1234"},
            {"desc": "cup", "bbox_2d": [1, 2, 3, 4], "poly": [1, 1, 5, 1, 5, 5]}, {"desc": "cup", "bbox_2d": None},
            {"desc": "cup", "bbox_2d": [1, 2, 3]}, {"desc": "cup", "bbox_2d": [1, 2, "3", 4]}, {"desc": "cup", "bbox_2d": [1, 2, True, 4]},
            {"desc": "cup", "bbox_2d": [1, 2, float("nan"), 4]}, {"desc": "cup", "bbox_2d": [-1, 2, 3, 4]},
            {"desc": "cup", "bbox_2d": [3, 2, 3, 4]}, {"desc": "cup", "bbox_2d": [3, 2, 1, 4]}, {"desc": "cup", "bbox_2d": [1, 4, 3, 2]},
            {"desc": "cup", "poly": [1, 1, 5, 1]}, {"desc": "cup", "poly": [1, 1, 5, 1, 5]}, {"desc": "cup", "poly": []},
            {"desc": "cup", "poly": [1, 1, 5, 1, 9, 1]})),
    ],
)  # fmt: skip
def test_bad_records_are_one_line_that_names_file_and_line(tmp_path, refused, change, named):
    coco(tmp_path)
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
    coco(tmp_path)
    (tmp_path / "some.jsonl").write_text(
        lines_of(GOOD | {"objects": [{"desc": "cup", kind: pixels} for kind, pixels in objects]})
    )
    try:
        (record,) = read_records(tmp_path / "some.jsonl")
    except UserError as error:
        assert f"{tmp_path / 'some.jsonl'}:1" in str(error) and "object" in str(error)
    else:
        assert [list(o.pixels) for o in record.objects] == contracts


@pytest.mark.parametrize("line", ["{", "[]", "3", '"x"', "null", "{}", "[" * 100_000, '{"images": ["a.png"]}', "\x00"])
def test_a_line_that_is_no_record(refused, line):
    with refused("here:1"):
        parse_record(line, "here:1")


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_file_that_holds_no_records(tmp_path, refused, content):
    if content is not None:
        (tmp_path / "some.jsonl").write_bytes(content)
    with refused(str(tmp_path / "some.jsonl")):
        read_records(tmp_path / "some.jsonl")
