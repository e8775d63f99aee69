"""A COCO or LVIS annotation file: its pictures, the annotations of each, its names.

A fault of the file ends everything with one line; a fault of one annotation is left to whoever converts it
(instances.py), who drops and counts it. Generated scenes are read by `coco_records`, which forgives nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from coordexp.data.instances import Dropped, Frame, convert_instance
from coordexp.data.records import Record, RecordObject, reading_order
from coordexp.files import read_json
from coordexp.schema import UserError

TOKEN_SPELT = re.compile(r"<\|[^|]*\|>")
LVIS_LISTS = {"neg_category_ids": "neg_categories", "not_exhaustive_category_ids": "not_exhaustive_categories"}


@dataclass(frozen=True)
class CocoImage:
    """A picture and what is annotated in it."""

    id: Any
    paths: tuple[str, ...]  # where the picture may lie below the root; the first is its name
    width: int
    height: int
    metadata: dict[str, Any]  # of its record
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def find(self, root: Path) -> Path | None:
        return next((root / path for path in self.paths if (root / path).is_file()), None)


@dataclass(frozen=True)
class CocoFile:
    path: Path
    names: dict[Any, str]  # of the categories, by id
    images: list[CocoImage]
    astray: list[dict[str, Any]]  # annotations of pictures that the file does not hold


def read_coco(path: Path) -> CocoFile:
    """Raises UserError, in one line, where this is no COCO or LVIS annotation file, or one that contradicts itself."""
    try:
        raw = read_json(path)
        names = _names(raw["categories"], path)
        images = _images(raw["images"], names, path)
        astray: list[dict[str, Any]] = []
        for annotation in raw["annotations"]:
            image = images.get(annotation["image_id"])
            hash(annotation["category_id"])  # raises where it could be no key of `names`
            (image.annotations if image else astray).append(annotation)
    except (OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({error!r})") from error
    return CocoFile(path, names, list(images.values()), astray)


def _names(categories: list[dict[str, Any]], path: Path) -> dict[Any, str]:
    """Names as they stand, in Unicode's NFC, in which tokenizers write them."""
    names: dict[Any, str] = {}
    for category in categories:
        where, name = f"{path}: category {category['id']}", category["name"]
        if category["id"] in names:
            raise UserError(f"{where} is there twice: category ids must be unique")
        if not isinstance(name, str) or not name.strip() or not is_text(name):
            raise UserError(f"{where}: the name {name!r} is no text that could be written: name it")
        if spelt := TOKEN_SPELT.search(name):
            raise UserError(f"{where}: the name {name!r} spells the token {spelt[0]}: rename it")
        names[category["id"]] = unicodedata.normalize("NFC", name)
    return names


def is_text(value: str) -> bool:
    """No half of a surrogate pair, which no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _images(raw: list[dict[str, Any]], names: Mapping[Any, str], path: Path) -> dict[Any, CocoImage]:
    images: dict[Any, CocoImage] = {}
    of_path: dict[str, Any] = {}
    for entry in raw:
        if entry["id"] in images:
            raise UserError(f"{path}: image {entry['id']} is there twice: image ids must be unique")
        images[entry["id"]] = image = _image(entry, names, f"{path}: image {entry['id']}")
        if (other := of_path.setdefault(image.paths[0], image.id)) != image.id:
            raise UserError(f"{path}: images {other} and {image.id} are the same picture {image.paths[0]}")
    return images


def _image(image: dict[str, Any], names: Mapping[Any, str], where: str) -> CocoImage:
    width, height = image["width"], image["height"]
    if not all(type(side) is int and side > 1 for side in (width, height)):
        raise UserError(f"{where}: width and height must be whole pixels above 1, not {width!r} x {height!r}")
    metadata = {"image_id": image["id"]}
    for key, readable in LVIS_LISTS.items():
        if key in image:
            metadata[readable] = [names[i] for i in image[key] if i in names]
    return CocoImage(image["id"], _paths(image, where), width, height, metadata)


def _paths(image: dict[str, Any], where: str) -> tuple[str, ...]:
    """COCO has `file_name`, relative to the pictures' directory; LVIS a `coco_url` that ends in val2017/000000397133.jpg.

    The picture may lie under either name, or, all in one directory, under the last part of one.
    """
    given = [image["file_name"]] if image.get("file_name") else []
    if image.get("coco_url"):
        given.append("/".join(PurePosixPath(urlsplit(image["coco_url"]).path).parts[-2:]))
    if not given:
        raise UserError(f"{where}: has neither file_name nor coco_url")
    for path in given:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path or not is_text(path):
            raise UserError(f"{where}: file_name {path!r} does not lie below the pictures' directory")
    return tuple(dict.fromkeys([*given, *(PurePosixPath(path).name for path in given)]))


def coco_records(path: Path, root: Path) -> list[Record]:
    """Boxes of an annotation file without a fault, in its order of images. Picture paths are relative to `root`.

    Raises:
        UserError: naming file and annotation: an unknown image or category, a box that is not finite, reaches beyond
            its picture or has no area, a missing picture.
    """
    coco = read_coco(path)
    for annotation in coco.astray:
        raise UserError(f"{_where(coco, annotation)}: unknown image")
    records = []
    for image in coco.images:
        if not (root / image.paths[0]).is_file():
            raise UserError(f"{path}: image {image.id}: the picture {root / image.paths[0]} is missing")
        size = (image.width, image.height)
        objects = [_strictly(coco, annotation, Frame(size, size)) for annotation in image.annotations]
        records.append(Record(image.paths[0], *size, reading_order(objects), {"image_id": image.id}))
    return records


def _strictly(coco: CocoFile, annotation: dict[str, Any], frame: Frame) -> RecordObject:
    try:
        instance = convert_instance(annotation, coco.names, frame)
    except Dropped as dropped:
        shown = f"bbox {annotation.get('bbox')}"
        raise UserError(f"{_where(coco, annotation)}: {dropped}: {shown}: remove the annotation or mend it") from dropped
    if instance.clipped:
        raise UserError(f"{_where(coco, annotation)}: bbox {annotation['bbox']} reaches beyond the picture: mend it")
    return instance.object


def _where(coco: CocoFile, annotation: dict[str, Any]) -> str:
    return f"{coco.path}: annotation {annotation.get('id')} of image {annotation['image_id']}"
