"""Boxes of another form than declared are recognised; right boxes are left alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import LVIS, annotation, image, rows, settings, write_coco

from coordexp.config.schema import BoxFormat
from coordexp.data.coco.annotations import read_coco
from coordexp.data.coco.box_formats import box_set, in_coco_form
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.coordinate_forms import FORMS, LARGEST, BoxSet, Form, form_named
from coordexp.data.misread_boxes import misread

COCO = Form("xywh")
OTHERS = [form for form in FORMS if form != COCO]
SIZES = [(640, 480), (480, 640), (500, 375), (1280, 720)]
REAL = LVIS.parent / "real"


def scene(n: int, seed: int = 0, sizes: list[tuple[int, int]] = SIZES) -> BoxSet:
    """N boxes in COCO's form, in pictures of these sizes; no area and no outline."""
    rng = np.random.default_rng([n, seed])
    size = np.array([sizes[i % len(sizes)] for i in range(n)], float)
    sides = np.round(size * rng.uniform(0.1, 0.5, (n, 2)))
    corner = np.round((size - sides) * rng.uniform(0, 1, (n, 2)))
    unknown = np.full((n, 4), np.nan)
    return BoxSet(np.hstack([corner, sides]), size, unknown[:, 0], unknown)


def with_area(boxes: BoxSet) -> BoxSet:
    return dataclasses.replace(boxes, areas=boxes.values[:, 2] * boxes.values[:, 3])


def with_outline(boxes: BoxSet) -> BoxSet:
    corner, sides = boxes.values[:, :2], boxes.values[:, 2:]
    return dataclasses.replace(
        boxes, outlines=np.hstack([corner, corner + sides]), areas=0.6 * sides.prod(1)
    )


def written(boxes: BoxSet, form: Form) -> BoxSet:
    """Boxes of COCO's form as a tool that writes `form` would write them."""
    x, y, w, h = boxes.values.T
    if form.unit:
        wide, high = (boxes.sizes - 1 if form.unit == "bins" else boxes.sizes).T
        per_px = LARGEST[form.unit]
        digits = {"fraction": 5, "percent": 2}.get(form.unit, 0)
        right, low = (
            np.round((x + w) / wide * per_px, digits),
            np.round((y + h) / high * per_px, digits),
        )
        x, y = np.round(x / wide * per_px, digits), np.round(y / high * per_px, digits)
        w, h = np.minimum(right, per_px) - x, np.minimum(low, per_px) - y
    values = {
        "xywh": (x, y, w, h),
        "xyxy": (x, y, x + w, y + h),
        "yxyx": (y, x, y + h, x + w),
        "cxcywh": (x + w / 2, y + h / 2, w, h),
    }[form.layout]
    return dataclasses.replace(boxes, values=np.stack(values, 1))


@pytest.mark.parametrize("form", OTHERS, ids=lambda form: form.name)
@pytest.mark.parametrize("known", [lambda boxes: boxes, with_area, with_outline])
def test_sixty_four_boxes_of_another_form_are_recognised(form, known):
    right = known(scene(64))
    assert misread(right, COCO) is None
    wrong = written(right, form)
    found = misread(wrong, COCO)
    assert found is not None
    # Where no box ends at 1000, bins and thousandths are the same numbers.
    names = {f.name.replace("thousandths", "bins") for f in found.forms}
    assert form.name.replace("thousandths", "bins") in names
    if known is with_outline:
        assert len(names) == 1
    assert misread(wrong, form) is None


# Masks may be in the unit of their boxes, so bins that are also masks' extents cannot be refused.
CONTRADICTED = [f for f in OTHERS if f.layout != "xywh" or f.unit in ("fraction", "percent")]


@pytest.mark.parametrize("form", CONTRADICTED, ids=lambda form: form.name)
def test_boxes_of_cocos_form_are_not_of_another_declared_one(form):
    found = misread(with_outline(scene(64)), form)
    assert found is not None
    assert found.forms == (COCO,)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_boxes_with_outlines_are_recognised(n):
    for form in OTHERS:
        for seed in range(5):
            found = misread(written(with_outline(scene(n, seed)), form), COCO)
            assert found is not None
            assert form.layout in {f.layout for f in found.forms}


@pytest.mark.parametrize("seed", range(60))
def test_right_boxes_of_any_set_are_left_alone(seed):
    """Tiny objects and large ones, few boxes, square pictures of 1000 px, areas and outlines
    given or not, areas of masks smaller than their boxes.
    """
    rng = np.random.default_rng(seed)
    sizes = [(640, 480), (1000, 1000), (1024, 1024), (128, 128), (1920, 1080), (100, 100)]
    size = np.tile(np.array(sizes[seed % 6], float), ((3, 8, 20, 64, 300)[seed % 5], 1))
    largest = (0.02, 0.1, 0.3, 0.7)[seed % 4]
    sides = np.maximum(1, np.round(size * rng.uniform(largest / 4, largest, size.shape)))
    shape = (1, 1, 2, 4)[seed % 4]  # uniform, or most of them in the middle
    corner = np.round((size - sides) * rng.beta(shape, shape, size.shape), seed % 3)
    area = sides.prod(1) * (rng.uniform(0.3, 1, len(size)) if seed % 3 == 0 else 1)
    outlines = np.hstack([corner, corner + sides]) + rng.normal(0, 0.2, (len(size), 4))
    boxes = BoxSet(
        np.hstack([corner, sides]),
        size,
        area if seed % 7 else np.full(len(size), np.nan),
        outlines if seed % 2 else np.full((len(size), 4), np.nan),
    )
    assert misread(boxes, COCO) is None


@pytest.mark.parametrize("form", OTHERS, ids=lambda form: form.name)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_part_of_another_form_is_recognised_by_its_outlines(form, share):
    """Two tools have written into one file."""
    right = with_outline(scene(200))
    is_other = np.random.default_rng(0).random(200) < share
    values = np.where(is_other[:, None], written(right, form).values, right.values)
    found = misread(dataclasses.replace(right, values=values), COCO)
    assert found is not None
    assert found.is_part
    assert form in found.forms or Form(form.layout, "bins") in found.forms
    assert abs(found.n - is_other.sum()) <= 0.05 * 200


@pytest.mark.parametrize("seed", range(20))
def test_boxes_beyond_their_pictures_are_no_part_of_another_form(seed):
    rng = np.random.default_rng(seed)
    boxes = scene(64, seed)
    moved = rng.random(64) < (0.15, 0.4)[seed % 2]
    values = boxes.values.copy()
    values[moved, 0] = boxes.sizes[moved, 0] - rng.uniform(0.5, 0.9, 64)[moved] * values[moved, 2]
    known = (lambda boxes: boxes, with_area, with_outline)[seed % 3]
    assert misread(known(dataclasses.replace(boxes, values=values)), COCO) is None


@pytest.mark.parametrize("form", OTHERS, ids=lambda form: form.name)
@pytest.mark.parametrize("known", [lambda boxes: boxes, with_area, with_outline])
def test_a_few_broken_boxes_change_nothing(form, known):
    right = known(scene(200))
    wrong = written(right, form)
    for boxes, is_misread in ((right, False), (wrong, True)):
        boxes.values[::67] = [5e5, -3e4, 7.5, 0]
        assert (misread(boxes, COCO) is not None) == is_misread


@pytest.mark.parametrize("name", ["lvis_val_100.json", *(f"real/{p}" for p in (
    "bccd/train.json", "bccd/val.json", "coco_cc/instances.json"))])  # fmt: skip
def test_real_files_are_left_alone(name):
    path = LVIS.parent / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    boxes = box_set(read_coco(path))
    assert len(boxes.values) > 200
    assert misread(boxes, COCO) is None


CASES = LVIS.parents[1] / "cases" / "coco"


@pytest.mark.parametrize(
    ("name", "option"),
    [("good", None), ("rotated", None), ("xyxy", "=xyxy;"), ("norm01", "=xywh_fraction;")],
)
def test_cases(refused, name, option):
    if not CASES.exists():
        pytest.skip(f"needs {CASES}")
    coco = read_coco(CASES / f"{name}.json")
    if option is None:
        assert in_coco_form(coco, settings()) is coco
    else:
        with refused(f"{name}.json: 80 of 80 boxes look like", f"data.box_format{option}"):
            in_coco_form(coco, settings())


# --- files --------------------------------------------------------------------------------------


def file_of(path: Path, boxes: BoxSet, polygons: bool = False) -> Path:
    """A picture for each box; with `polygons`, its corners in the unit of the box."""
    annotations = []
    for i, (box, area) in enumerate(zip(boxes.values.tolist(), boxes.areas.tolist(), strict=True)):
        more = {} if np.isnan(area) else {"area": area}
        if polygons:
            x, y, w, h = box
            more["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations.append(annotation(i, i, box, **more))
    images = [image(i, (int(w), int(h))) for i, (w, h) in enumerate(boxes.sizes.tolist())]
    return write_coco(path, images, annotations)


def pixels(split: str) -> np.ndarray:
    """Boxes of a converted split in the order of its images, x1 y1 x2 y2."""
    found = sorted(rows(Path(f"out/{split}.jsonl")), key=lambda row: row["metadata"]["image_id"])
    return np.array([o["bbox_2d"] for row in found for o in row["objects"]])


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("form", OTHERS, ids=lambda form: form.name)
def test_the_named_option_converts(refused, form):
    right = with_area(scene(40))
    file_of(Path("coco.json"), right)
    convert_annotations(settings(), Path("out"), 1)
    expected = {split: pixels(split) for split in ("train", "val")}
    file_of(Path("coco.json"), written(right, form))
    with refused("coco.json: ", "boxes look like", "data.box_format=", "data.check_boxes=false"):
        convert_annotations(settings(), Path("out"), 1)
    convert_annotations(settings(box_format=BoxFormat[form.name]), Path("out"), 1)
    for split, boxes in expected.items():
        # Half a step of the unit, in a picture of at most 1280 px, at the right and the left.
        assert np.abs(pixels(split) - boxes).max() <= (1.3 if form.unit else 1e-3)


@pytest.mark.usefixtures("in_tmp")
def test_polygons_in_the_unit_of_the_boxes_are_converted_with_them():
    right = scene(20)
    file_of(Path("coco.json"), right, polygons=True)
    convert_annotations(settings("data.geometry=poly_prefer"), Path("out"), 1)
    expected = Path("out/train.jsonl").read_text()
    fractions = dataclasses.replace(right, values=right.values / np.tile(right.sizes, 2))
    file_of(Path("coco.json"), fractions, polygons=True)
    given = settings("data.geometry=poly_prefer", box_format=BoxFormat.xywh_fraction)
    convert_annotations(given, Path("out"), 1)
    for row, old in zip(rows(Path("out/train.jsonl")), expected.splitlines(), strict=True):
        for obj, other in zip(row["objects"], json.loads(old)["objects"], strict=True):
            assert np.allclose(obj["poly"], other["poly"], atol=1e-3)


@pytest.mark.usefixtures("in_tmp")
def test_boxes_are_converted_as_they_are_on_request():
    file_of(Path("coco.json"), written(with_area(scene(40)), Form("xyxy")))
    convert_annotations(settings(check_boxes=False), Path("out"), 1)
    assert len(pixels("val")) == 8


def test_every_form_is_a_setting():
    assert [form.name for form in FORMS] == [member.value for member in BoxFormat]
    assert all(form_named(form.name) == form for form in FORMS)
