"""Scenes, COCO files, records and batches (design section 4)."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_OVERRIDES, composed
from PIL import Image

from coordexp.data.coco.annotations import coco_records
from coordexp.data.prepare import prepare_data
from coordexp.data.records import Record, RecordObject, read_records
from coordexp.data.scenes import CATEGORIES, Shape, draw_scene, place_shapes, visible_box
from coordexp.storage.files import read_json, sha256_directory

SPLITS = ("train", "val")
SCENES_CFG = composed(*TINY_OVERRIDES).data


def prepare(*overrides: str) -> Path:
    return prepare_data(composed(*TINY_OVERRIDES, *overrides)).absolute().parent


# --- scenes -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_tmp")
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(scenes):
    again, other = prepare(), prepare("data.seed=1")
    assert (again / "data.json").read_bytes() == (scenes.path / "data.json").read_bytes()
    assert sha256_directory(again) == sha256_directory(scenes.path)
    for split in SPLITS:
        assert sha256_directory(other / "images" / split) != sha256_directory(
            again / "images" / split
        )
    assert (again / "images/train/000000.png").read_bytes() != (
        again / "images/val/000000.png"
    ).read_bytes()


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
    (path / "data.json").unlink()
    prepare()
    assert (path / "data.json").read_bytes() == (scenes.path / "data.json").read_bytes()


@pytest.mark.usefixtures("in_tmp")
def test_a_picture_depends_on_seed_split_and_index_only(scenes):
    more = prepare("data.train_images=14")
    for i in range(12):
        name = f"images/train/{i:06d}.png"
        assert (more / name).read_bytes() == (scenes.path / name).read_bytes()


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_boxes_are_tight_to_within_a_pixel(category, cut):
    cfg = dataclasses.replace(SCENES_CFG, image_size=128, min_objects=1, max_objects=1, cut=cut)
    for seed in range(6):
        (shape,) = place_shapes(cfg, np.random.default_rng([category, seed]))
        shape = Shape(category, shape.box)
        drawn, empty = (
            np.asarray(draw_scene(128, shapes, np.random.default_rng(seed))).astype(int)
            for shapes in ([shape], [])
        )
        ys, xs = np.nonzero(np.abs(drawn - empty).max(-1))
        box = visible_box(shape, 128)
        assert np.abs(np.array([xs.min(), ys.min(), xs.max(), ys.max()]) - box).max() <= 1
        assert (box == shape.box) == (cut == 0)


def test_the_border_cuts_as_many_sides_as_asked_for():
    cfg = dataclasses.replace(SCENES_CFG, image_size=128, min_objects=3, max_objects=3, cut=0.2)
    boxes = [
        visible_box(shape, 128)
        for seed in range(600)
        for shape in place_shapes(cfg, np.random.default_rng(seed))
    ]
    assert len(boxes) > 1700
    at_border = np.isin(boxes, [0, 127])
    assert at_border.mean() == pytest.approx(0.1, abs=0.012), "one end of each cut side"
    assert at_border.any(0).all(), "each of the four borders cuts some"


def test_the_counts_and_sizes_are_those_asked_for(scenes):
    sides, counts = [], set()
    for split, n in (("train", 12), ("val", 9)):
        records = read_records(scenes.path / f"{split}.jsonl")
        assert len(records) == n
        counts |= {len(r.objects) for r in records}
        sides += [
            max(b - a for a, b in ((o.box[0], o.box[2]), (o.box[1], o.box[3]))) / 64
            for r in records
            for o in r.objects
            if o.box[0] > 0 and o.box[1] > 0 and o.box[2] < 63 and o.box[3] < 63  # whole ones
        ]
    assert counts == {1, 2, 3}
    assert min(sides) >= 0.2
    assert max(sides) <= 0.4 * np.exp(0.175) + 0.01


CANNOT = (
    "image_size=100",
    "min_objects=0",
    "max_objects=0",
    "max_side=1.2",
    "min_side=0",
    "train_images=0",
)


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("override", CANNOT)
def test_scenes_that_cannot_be_drawn(refused, override):
    with refused(f"data.{override.split('=')[0]}"):
        prepare(f"data.{override}")


# --- COCO -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_annotation_file_is_coco_and_converts_to_the_records(scenes, split):
    raw = read_json(scenes.path / "annotations" / f"{split}.json")
    sizes = {image["id"]: (image["width"], image["height"]) for image in raw["images"]}
    names = {category["id"]: category["name"] for category in raw["categories"]}
    assert len({a["id"] for a in raw["annotations"]}) == len(raw["annotations"])
    boxes = []
    for a in raw["annotations"]:
        x, y, w, h = a["bbox"]
        assert w > 0
        assert h > 0
        assert a["area"] == pytest.approx(w * h, abs=0.01)
        assert a["iscrowd"] == 0
        assert x >= 0
        assert y >= 0
        assert x + w <= sizes[a["image_id"]][0]
        assert y + h <= sizes[a["image_id"]][1]
        boxes.append((a["image_id"], names[a["category_id"]], x, y, x + w, y + h))
    records = read_records(scenes.path / f"{split}.jsonl")
    assert records == coco_records(scenes.path / "annotations" / f"{split}.json", scenes.path)
    found = [(r.metadata["image_id"], o.desc, *o.pixels) for r in records for o in r.objects]
    assert sorted(row[:2] for row in found) == sorted(row[:2] for row in boxes)
    assert np.allclose(
        sorted(row[2:] for row in found), sorted(row[2:] for row in boxes), atol=1e-3
    )


@pytest.mark.parametrize("split", SPLITS)
def test_objects_stand_in_reading_order(scenes, split):
    for record in read_records(scenes.path / f"{split}.jsonl"):
        corners = [(o.box[1], o.box[0]) for o in record.objects]
        assert corners == sorted(corners)


def coco(tmp_path: Path) -> dict:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    image = {"id": 7, "file_name": "a.png", "width": 64, "height": 64}
    annotation = {"id": 31, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3.5, 4]}
    return {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 2, "name": "cup"}],
    }


def test_a_good_coco_file_converts(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(coco(tmp_path)))
    (record,) = coco_records(tmp_path / "coco.json", tmp_path)
    assert record == Record(
        "a.png", 64, 64, (RecordObject("cup", "bbox_2d", (1, 2, 4.5, 6)),), {"image_id": 7}
    )


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        *(
            (("annotations", 0, "bbox"), box, "31")
            for box in (
                [1, 2, math.nan, 4],
                [1, 2, math.inf, 4],
                [-1, 2, 3, 4],
                [1, -2, 3, 4],
                [1, 2, 0, 4],
                [1, 2, 3, 0],
                [1, 2, -3, 4],
                [1, 2, 3],
                [1, 2, 3, 4, 5],
                ["1", 2, 3, 4],
                [True, 2, 3, 4],
                [None, 2, 3, 4],
                "1234",
            )
        ),
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
)
def test_bad_annotations_are_one_line(tmp_path, refused, where, value, named):
    content = coco(tmp_path)
    holder = content
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with refused("coco.json", named):
        coco_records(tmp_path / "coco.json", tmp_path)
