"""A COCO or LVIS annotation file: its pictures, the annotations of each, its category names.

An error in the form of the file raises a one-line UserError. An invalid annotation is passed on:
the conversion (instances.py) drops and counts it. `coco_records` reads generated scenes and accepts
no invalid annotation.
"""

from __future__ import annotations

import os
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordexp.config.schema import DataConfig, source_files
from coordexp.data.coco.instances import DroppedError, Frame, convert_instance
from coordexp.data.formats.recognise import what_instead
from coordexp.data.picture_paths import is_text, lies_below, paths_of
from coordexp.data.records import (
    MAX_SIDE_PX,
    TOKEN_SPELT,
    Record,
    RecordObject,
    all_finite,
    reading_order,
)
from coordexp.errors import UserError
from coordexp.storage.files import read_json

LVIS_LISTS = {
    "neg_category_ids": "neg_categories",
    "not_exhaustive_category_ids": "not_exhaustive_categories",
}
LISTS = ("images", "annotations", "categories")


RawEntry = dict[str, Any]  # an entry of one of the lists, as the file has it


@dataclass(frozen=True)
class CocoImage:
    """A picture and its annotations."""

    id: Any
    paths: tuple[str, ...]  # candidates below the root; the first is its name
    width: int
    height: int
    metadata: dict[str, Any]  # of its record
    annotations: list[RawEntry] = field(default_factory=list)

    def find(self, root: Path) -> Path | None:
        """The picture's file below `root`; None where it is missing."""
        for path in self.paths:
            if os.path.isfile(root / path):  # False also for a name that no file can have
                return root / path
        return None


@dataclass(frozen=True)
class CocoFile:
    path: Path
    names: dict[Any, str]  # of the categories, by id
    images: list[CocoImage]
    astray: list[RawEntry]  # annotations whose picture is not in the file


class NotCocoError(Exception):
    """An entry does not have COCO's form; the message names entry, key and expected value."""


def read_coco(path: Path) -> CocoFile:
    """Read and check an annotation file.

    Raises:
        UserError: this is no COCO or LVIS annotation file (one of another format is named, with
            the command that converts it), or it contradicts itself.
    """
    try:
        return _read(path)
    except UserError as error:
        if told := what_instead(path):
            raise UserError(told) from error
        raise


def annotated_names(settings: DataConfig) -> list[str]:
    """The names of the categories of all annotation files, each once.

    Raises:
        UserError: a file is not a COCO annotation file.
    """
    files = [read_coco(Path(path)) for path in source_files(settings)]
    return sorted({name for file in files for name in file.names.values()})


def _read(path: Path) -> CocoFile:
    try:
        raw = read_json(path, "mend it, or export it again")
        refuse_other_forms(raw)
        names = _names(raw["categories"], path)
        images = _images(raw["images"], names, path)
        astray = _distribute(raw["annotations"], images)
    except (OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except NotCocoError as fault:
        raise UserError(f"{path}: not a COCO annotation file: {fault}") from fault
    return CocoFile(path, names, list(images.values()), astray)


def refuse_other_forms(raw: Any) -> None:
    """Check that the file is an object with the three lists, and that their entries have ids.

    Raises:
        NotCocoError: the file does not have this form.
    """
    if not isinstance(raw, dict):
        raise NotCocoError(f"it {expected('an object with ' + ', '.join(LISTS), raw)}")
    for key in LISTS:
        if not isinstance(raw.get(key), list):
            raise NotCocoError(f"{key} {expected('a list', raw.get(key))}")
        for i, entry in enumerate(raw[key]):
            if not isinstance(entry, dict):
                raise NotCocoError(f"{key}[{i}] {expected('an object', entry)}")
            if key != "annotations" and not is_id(entry.get("id")):
                raise NotCocoError(
                    f"{key}[{i}]: id {expected('a number or text', entry.get('id'))}"
                )


def expected(kind: str, found: Any) -> str:
    """`must be a list, not {'a': 1}`. None stands for JSON's null or a missing key."""
    if found is None:
        return f"must be {kind}, and is missing"
    return f"must be {kind}, not {reprlib.repr(found)}"


def is_id(value: Any) -> bool:
    return is_text(value) if isinstance(value, str) else all_finite([value])


def _names(categories: list[RawEntry], path: Path) -> dict[Any, str]:
    """Category names by id, normalised to Unicode NFC as tokenizers do."""
    names: dict[Any, str] = {}
    for category in categories:
        where, name = f"{path}: category {category['id']!r}", category.get("name")
        if category["id"] in names:
            raise UserError(f"{where} is there twice: category ids must be unique")
        if not isinstance(name, str) or not name.strip() or not is_text(name):
            raise UserError(f"{where}: the name {name!r} is no text that could be written: name it")
        if spelt := TOKEN_SPELT.search(name):
            raise UserError(f"{where}: the name {name!r} spells the token {spelt[0]}: rename it")
        names[category["id"]] = unicodedata.normalize("NFC", name)
    return names


def _images(raw: list[RawEntry], names: Mapping[Any, str], path: Path) -> dict[Any, CocoImage]:
    """Pictures by id.

    A candidate path that two pictures share is removed from both. Otherwise vid0/1.jpg and
    vid1/1.jpg could both be found as the file 1.jpg.
    """
    images: dict[Any, CocoImage] = {}
    of_path: dict[str, Any] = {}
    for entry in raw:
        if entry["id"] in images:
            raise UserError(
                f"{path}: image {entry['id']!r} is there twice: image ids must be unique"
            )
        images[entry["id"]] = image = _image(entry, names, f"{path}: image {entry['id']!r}")
        if (other := of_path.setdefault(image.paths[0], image.id)) != image.id:
            raise UserError(
                f"{path}: images {other!r} and {image.id!r} are the same picture "
                f"{image.paths[0]!r} below the pictures' directory"
            )
    n_claims: Counter[str] = Counter()
    for image in images.values():
        n_claims.update(image.paths)
    for image_id, image in images.items():
        own = [path for path in image.paths[1:] if n_claims[path] == 1]
        images[image_id] = replace(image, paths=(image.paths[0], *own))
    return images


def _image(image: RawEntry, names: Mapping[Any, str], where: str) -> CocoImage:
    width: Any = image.get("width")
    height: Any = image.get("height")
    if not all(type(side) is int and 1 < side <= MAX_SIDE_PX for side in (width, height)):
        found = f"{reprlib.repr(width)} x {reprlib.repr(height)}"
        raise UserError(
            f"{where}: width and height must be whole pixels above 1 (and below 2^31), not {found}"
        )
    metadata = {"image_id": image["id"]}
    for key, readable in LVIS_LISTS.items():
        ids = image.get(key)
        if not isinstance(ids, list | None) or any(isinstance(i, list | dict) for i in ids or ()):
            raise NotCocoError(
                f"image {image['id']!r}: {key} {expected('a list of category ids', ids)}"
            )
        if ids is not None:
            metadata[readable] = [names[i] for i in ids if i in names]
    return CocoImage(image["id"], _paths(image, where), width, height, metadata)


def _paths(image: RawEntry, where: str) -> tuple[str, ...]:
    """Paths below the pictures' directory under which the picture may lie, likeliest first.

    COCO has `file_name`, relative to that directory. LVIS has a `coco_url` that ends in
    val2017/000000397133.jpg. The candidates are both paths, and the last parts of each
    (picture_paths.py).
    """
    for key in ("file_name", "coco_url"):
        if not isinstance(image.get(key), str | None):
            raise NotCocoError(f"image {image['id']!r}: {key} {expected('text', image[key])}")
    given = {"file_name": image.get("file_name"), "coco_url": _end_of_url(image)}
    if not any(given.values()):
        raise UserError(f"{where}: has neither file_name nor coco_url that names a picture")
    if given["coco_url"] and not lies_below(given["coco_url"]):
        raise UserError(
            f"{where}: coco_url {image['coco_url']!r} does not lie below the pictures' directory"
        )
    own = paths_of(given["file_name"] or "")
    if given["file_name"] and not own:
        raise UserError(f"{where}: file_name {image['file_name']!r} names no file")
    other = paths_of(given["coco_url"] or "")
    return tuple(dict.fromkeys([*own[:1], *other[:1], *own[1:], *other[1:]]))


def _end_of_url(image: Mapping[str, Any]) -> str:
    """The last two parts of the path of `coco_url`; fewer where it has fewer."""
    try:
        path = urlsplit(image.get("coco_url") or "").path
    except ValueError as error:
        raise NotCocoError(
            f"image {image['id']!r}: coco_url {expected('a URL', image['coco_url'])}"
        ) from error
    return "/".join([part for part in path.split("/") if part][-2:])


def _distribute(annotations: list[RawEntry], images: Mapping[Any, CocoImage]) -> list[RawEntry]:
    """Add each annotation to its picture; returns the annotations of unknown pictures."""
    astray: list[RawEntry] = []
    for i, annotation in enumerate(annotations):
        try:
            image = images.get(annotation["image_id"])
            hash(annotation["category_id"])  # raises if it cannot be a key of `names`
        except (KeyError, TypeError) as error:
            where = f"annotations[{i}]"
            if is_id(annotation.get("id")):
                where = f"annotation {annotation['id']!r}"
            image_id_is_usable = isinstance(annotation.get("image_id", []), Hashable)
            key = "category_id" if image_id_is_usable else "image_id"
            problem = expected("a number or text", annotation.get(key))
            raise NotCocoError(f"{where}: {key} {problem}") from error
        (image.annotations if image else astray).append(annotation)
    return astray


def coco_records(path: Path, root: Path) -> list[Record]:
    """Records of an annotation file without faults, boxes only, in its order of pictures.

    Picture paths are relative to `root`.

    Raises:
        UserError: naming file and annotation: an unknown picture or category; a box that is not
            finite, reaches beyond its picture or has no area; a missing picture.
    """
    coco = read_coco(path)
    for annotation in coco.astray:
        raise UserError(f"{_where(coco, annotation)}: unknown image")
    records = []
    for image in coco.images:
        if not (root / image.paths[0]).is_file():
            raise UserError(
                f"{path}: image {image.id}: the picture {root / image.paths[0]} is missing"
            )
        size = (image.width, image.height)
        objects = [
            _strictly(coco, annotation, Frame(size, size)) for annotation in image.annotations
        ]
        records.append(
            Record(image.paths[0], *size, reading_order(objects), {"image_id": image.id})
        )
    return records


def _strictly(coco: CocoFile, annotation: RawEntry, frame: Frame) -> RecordObject:
    """The object of an annotation; UserError where the conversion drops it, or counts a clip."""
    try:
        instance = convert_instance(annotation, coco.names, frame)
    except DroppedError as dropped:
        shown = f"bbox {annotation.get('bbox')}"
        raise UserError(
            f"{_where(coco, annotation)}: {dropped}: {shown}: remove the annotation or mend it"
        ) from dropped
    if instance.clipped:
        problem = f"bbox {annotation['bbox']} reaches beyond the picture: mend it"
        raise UserError(f"{_where(coco, annotation)}: {problem}")
    return instance.object


def _where(coco: CocoFile, annotation: RawEntry) -> str:
    return f"{coco.path}: annotation {annotation.get('id')} of image {annotation['image_id']}"
