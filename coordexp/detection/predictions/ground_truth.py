"""The ground truth of predictions that hold none: COCO annotations, or records of this project."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.data.coco.annotations import CocoFile, CocoImage, read_coco
from coordexp.data.records import Record, read_records
from coordexp.detection.predictions.boxes import IN_TRUTH, MalformedError, of_size, quad_of
from coordexp.detection.predictions.images import Frame, TrueObject
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

NEEDED = "give what they are scored against, --ground-truth FILE"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of a COCO annotation file with its true objects."""

    name: str
    frame: Frame
    objects: tuple[TrueObject, ...]


@dataclass
class Annotations:
    """A COCO annotation file: its images by id, and the names of its categories by id."""

    images: dict[Any, AnnotatedImage]
    names: dict[Any, str]
    dropped: Counter[str] = field(default_factory=Counter)


def read_annotations(path: Path) -> Annotations:
    """Read COCO or LVIS annotations; one without a usable box is dropped and counted.

    Raises:
        UserError: the file is no COCO or LVIS annotation file.
    """
    coco = read_coco(path)
    names = category_names(coco)
    dropped: Counter[str] = Counter()
    if coco.astray:
        dropped["ground truth of an unknown image"] = len(coco.astray)
    images = {image.id: _annotated(image, names, dropped) for image in coco.images}
    if not images:
        raise UserError(f"{path}: holds no image")
    return Annotations(images, names, dropped)


def category_names(coco: CocoFile) -> dict[Any, str]:
    """Names by id; a name that two categories share is followed by the id."""
    shared = Counter(coco.names.values())
    return {
        number: name if shared[name] == 1 else f"{name} ({number})"
        for number, name in coco.names.items()
    }


def _annotated(image: CocoImage, names: dict[Any, str], dropped: Counter[str]) -> AnnotatedImage:
    objects = []
    for entry in image.annotations:
        try:
            box = of_size(quad_of(entry.get("bbox")))
        except MalformedError as reason:
            dropped[f"{reason} {IN_TRUTH}"] += 1
            continue
        name = name_of(entry.get("category_id"), names)
        objects.append(TrueObject(name, box, entry.get("iscrowd") in (1, True)))
    return AnnotatedImage(image.paths[0], (image.width - 1, image.height - 1), tuple(objects))


def name_of(category: Any, names: dict[Any, str]) -> str:
    """The name of a category; one that the file does not have matches no other."""
    return names.get(category, f"category {category}")


def records_of(path: Path | None, what: Path) -> list[Record]:
    """The records that rollouts of this project are scored against.

    Raises:
        UserError: none are given, or they cannot be read.
    """
    if path is None:
        raise UserError(f"{what}: rollouts of this project hold no ground truth: {NEEDED}")
    return read_records(path, with_pictures=False)


def is_records(path: Path) -> bool:
    """Whether a file of ground truth looks like records: JSON lines instead of one object."""
    first = read_bytes(path).lstrip().split(b"\n", 1)[0]
    return b'"objects"' in first and b'"annotations"' not in first
