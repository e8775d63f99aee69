"""A COCO annotation file (boxes) to records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from coordexp.data.records import Record, RecordObject, check_geometry, reading_order
from coordexp.files import read_json
from coordexp.schema import UserError


def coco_records(path: Path, root: Path) -> list[Record]:
    """Records of a COCO annotation file, in its order of images. Picture paths are relative to `root`.

    Raises:
        UserError: naming file and annotation: an unknown image or category, a box that is not finite, negative
            or without area, a missing picture.
    """
    raw = read_json(path)
    try:
        names = {c["id"]: c["name"] for c in raw["categories"]}
        objects: dict[Any, list[RecordObject]] = {}
        for image in raw["images"]:
            if image["id"] in objects:
                raise UserError(f"{path}: image {image['id']} is there twice: image ids must be unique")
            if not (root / image["file_name"]).is_file():
                raise UserError(f"{path}: image {image['id']}: the picture {root / image['file_name']} is missing")
            objects[image["id"]] = []
        for annotation in raw["annotations"]:
            where = f"{path}: annotation {annotation['id']} of image {annotation['image_id']}"
            if annotation["image_id"] not in objects or annotation["category_id"] not in names:
                raise UserError(f"{where}: unknown image or category {annotation['category_id']}")
            objects[annotation["image_id"]].append(_object(annotation["bbox"], names[annotation["category_id"]], where))
        return [_record(image, objects[image["id"]]) for image in raw["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({error!r})") from error


def _record(image: dict[str, Any], objects: list[RecordObject]) -> Record:
    metadata = {"image_id": image["id"]}
    return Record(image["file_name"], image["width"], image["height"], reading_order(objects), metadata)


def _object(bbox: list[float], name: str, where: str) -> RecordObject:
    """From COCO's [x, y, width, height]."""
    if len(bbox) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in bbox):
        raise UserError(f"{where}: bbox {bbox} must be four finite numbers: remove the annotation or mend it")
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        raise UserError(f"{where}: bbox {bbox} has no area: remove the annotation or mend it")
    pixels = (x, y, round(x + w, 4), round(y + h, 4))
    check_geometry("bbox_2d", pixels, where)
    return RecordObject(name, "bbox_2d", pixels)
