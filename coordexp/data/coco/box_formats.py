"""The boxes of an annotation file: checked against the declared format, and converted to COCO's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.annotations import CocoFile, CocoImage, RawEntry
from coordexp.data.coco.instances import DroppedError, mask_box, polygon_parts
from coordexp.data.coordinate_forms import (
    PIXELS,
    BoxSet,
    Floats,
    Form,
    form_named,
    overlap,
    to_pixels,
)
from coordexp.data.misread_boxes import misread
from coordexp.data.records import all_finite
from coordexp.errors import UserError

MAX_BOXES = 20_000  # that are checked, evenly spaced through the file
MAX_RUN_LENGTHS = 500  # masks that are decoded for their extent
MAX_PLAUSIBLE = 1e9  # px; a larger number is a broken box
UNKNOWN_BOX = [math.nan] * 4

COCO_FORM = Form("xywh")


def in_coco_form(coco: CocoFile, settings: CocoConfig) -> CocoFile:
    """The file with its boxes as x, y, width, height in px; broken boxes stay as they are.

    Raises:
        UserError: the boxes look like another format than `data.box_format`.
    """
    form = form_named(settings.box_format.value)
    boxes = box_set(coco)
    if settings.check_boxes:
        refuse_misread(coco, boxes, form)
    if form == COCO_FORM:
        return coco
    with_polygons = form.unit != PIXELS and polygons_have_unit(boxes, form)
    images = []
    for image in coco.images:
        annotations = [converted(a, image, form, with_polygons) for a in image.annotations]
        images.append(replace(image, annotations=annotations))
    return replace(coco, images=images)


def refuse_misread(coco: CocoFile, boxes: BoxSet, form: Form) -> None:
    other = misread(boxes, form)
    if other is not None and other.is_part:
        raise UserError(
            f"{coco.path}: {other.n} of {other.of} boxes look like {other}, the others like "
            f"{form}: write all boxes in one form; or set data.check_boxes=false, if they are right"
        )
    if other is not None:
        options = " or ".join(f"data.box_format={found.name}" for found in other.forms)
        raise UserError(
            f"{coco.path}: {other.n} of {other.of} boxes look like {other}, not {form}: "
            f"set {options}; or data.check_boxes=false, if they are right"
        )


def box_set(coco: CocoFile) -> BoxSet:
    """The boxes of a file that can be checked, at most MAX_BOXES, and what is known beside them."""
    usable = [
        (image, annotation)
        for image in coco.images
        for annotation in image.annotations
        if is_usable(annotation.get("bbox")) and not annotation.get("iscrowd")
    ]
    usable = usable[:: math.ceil(len(usable) / MAX_BOXES) or 1]
    n_run_lengths = 0
    outlines = []
    for image, annotation in usable:
        segmentation = annotation.get("segmentation")
        n_run_lengths += isinstance(segmentation, Mapping)
        is_decoded = n_run_lengths <= MAX_RUN_LENGTHS or not isinstance(segmentation, Mapping)
        outlines.append(outline_box(segmentation, image) if is_decoded else UNKNOWN_BOX)
    return BoxSet(
        np.array([a["bbox"] for _, a in usable], float).reshape(-1, 4),
        np.array([(i.width, i.height) for i, _ in usable], float).reshape(-1, 2),
        np.array([known_area(a.get("area")) for _, a in usable], float),
        np.array(outlines, float).reshape(-1, 4),
    )


def is_usable(box: Any) -> bool:
    """Four finite numbers, not all of them 0, of a size that a picture can have."""
    if not (isinstance(box, list) and len(box) == 4 and all_finite(box)):
        return False
    return 0 < max(map(abs, box)) < MAX_PLAUSIBLE


def known_area(area: Any) -> float:
    """The annotated area; NaN where it is missing, broken or 0."""
    return float(area) if all_finite([area]) and 0 < area < MAX_PLAUSIBLE**2 else math.nan


def outline_box(segmentation: Any, image: CocoImage) -> list[float]:
    """x1, y1, x2, y2 of a mask; NaN where it is missing or broken."""
    try:
        x, y, w, h = mask_box(segmentation, (image.width, image.height))
    except DroppedError:
        return UNKNOWN_BOX
    box = [x, y, x + w, y + h]
    return box if max(map(abs, box)) < MAX_PLAUSIBLE else UNKNOWN_BOX


def polygons_have_unit(boxes: BoxSet, form: Form) -> bool:
    """Whether the polygons of a file are in the unit of its boxes, and not in px."""
    in_unit = overlap(to_pixels(boxes.values, boxes.sizes, Form(form.layout)), boxes.outlines)
    in_px = overlap(to_pixels(boxes.values, boxes.sizes, form), boxes.outlines)
    return bool((in_unit > in_px).sum() > (in_unit < in_px).sum())


def converted(annotation: RawEntry, image: CocoImage, form: Form, with_polygons: bool) -> RawEntry:
    """The annotation with its box, and on request its polygons, in COCO's form."""
    box, size = annotation.get("bbox"), np.array([[image.width, image.height]], float)
    if not is_usable(box):
        return annotation
    x1, y1, x2, y2 = to_pixels(np.array([box], float), size, form)[0].tolist()
    changed = annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
    if with_polygons and isinstance(annotation.get("segmentation"), list):
        changed["segmentation"] = list(polygons_in_pixels(annotation["segmentation"], size, form))
    return changed


def polygons_in_pixels(segmentation: Any, size: Floats, form: Form) -> Iterator[list[float]]:
    for part in polygon_parts(segmentation):
        points = np.array(part, float).reshape(-1, 2)
        pairs = np.hstack([points, points])  # as boxes of no size
        yield to_pixels(pairs, size, Form("xyxy", form.unit))[:, :2].flatten().tolist()
