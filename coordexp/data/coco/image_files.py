"""Which file each annotated picture is, and the name it is written under: known before anything is converted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.annotations import CocoImage
from coordexp.data.coco.splits import Split
from coordexp.errors import UserError

LONGEST_PART_BYTES = 255  # that file systems take, between two slashes
LONGEST_NAME_BYTES = 1024  # of a whole name, to leave room for the directory before it


@dataclass(frozen=True)
class ImageFile:
    source: Path | None  # None: it is drawn
    written: str  # below images/<split>/


def find_image_files(
    splits: Mapping[str, Split], settings: CocoConfig
) -> dict[str, list[ImageFile]]:
    """The place of each image of each split.

    Raises:
        UserError: pictures are missing that may not be drawn, or two images are one file or would become one.
    """
    places = {
        name: [image_file_of(image, settings) for image in split.images]
        for name, split in splits.items()
    }
    if not settings.render_missing:
        refuse_missing(splits, places, settings)
    refuse_one_file_for_two(splits, places)
    refuse_one_name_for_two(splits, places)
    return places


def image_file_of(image: CocoImage, settings: CocoConfig) -> ImageFile:
    source = image.find(Path(settings.images)) if settings.images else None
    return ImageFile(source, written_name(image.paths[0], source is not None))


def written_name(name: str, is_there: bool) -> str:
    """The source's own, as JPEG; a drawn one is never taken for it. Where that is too long for a file, a digest of it."""
    ending = (
        ".drawn.png" if not is_there else "" if name.lower().endswith((".jpg", ".jpeg")) else ".jpg"
    )
    written = name + ending
    longest = max(len(part.encode()) for part in written.split("/"))
    if longest <= LONGEST_PART_BYTES and len(written.encode()) <= LONGEST_NAME_BYTES:
        return written
    return hashlib.sha256(name.encode()).hexdigest() + (ending or ".jpg")


def refuse_missing(
    splits: Mapping[str, Split], places: Mapping[str, list[ImageFile]], settings: CocoConfig
) -> None:
    if not (root := Path(settings.images or "")).is_dir():
        raise UserError(f"data.images={root}: {'not a' if root.exists() else 'no such'} directory")
    missing = [
        image
        for name, split in splits.items()
        for image, place in zip(split.images, places[name], strict=True)
        if place.source is None
    ]
    if missing:
        raise UserError(
            f"data.images={settings.images}: {len(missing)} annotated pictures are missing, such as {missing[0].paths[0]!r}: "
            "complete them, or rehearse with data.render_missing=true"
        )


def refuse_one_file_for_two(
    splits: Mapping[str, Split], places: Mapping[str, list[ImageFile]]
) -> None:
    """Names may differ where the file does not: COCO calls 000000000009.jpg what LVIS calls train2017/000000000009.jpg."""
    first: dict[str, tuple[str, CocoImage]] = {}
    shared: list[Path] = []
    for name, split in splits.items():
        for image, place in zip(split.images, places[name], strict=True):
            if place.source is None:
                continue
            other_split, other = first.setdefault(os.path.realpath(place.source), (name, image))
            if other_split != name:
                shared.append(place.source)
            elif other is not image:
                both = f"images {other.id!r} and {image.id!r} are one file, {place.source}"
                raise UserError(f"{split.coco.path}: {both}: annotate it once")
    if shared:
        told = f"{len(shared)} of its pictures are in train as well, such as {shared[0]}"
        raise UserError(f"{splits['val'].coco.path}: {told}: take them out of one")


def refuse_one_name_for_two(
    splits: Mapping[str, Split], places: Mapping[str, list[ImageFile]]
) -> None:
    """Pictures that are no JPEG get .jpg behind their name, which may be another one's: a.png beside a.png.jpg."""
    for name, split in splits.items():
        first: dict[str, CocoImage] = {}
        for image, place in zip(split.images, places[name], strict=True):
            other = first.setdefault(place.written, image)
            if other is not image:
                both = (
                    f"images {other.id!r} and {image.id!r} ({other.paths[0]!r}, {image.paths[0]!r})"
                )
                raise UserError(
                    f"{split.coco.path}: {both} would both become images/{name}/{place.written}: rename one"
                )
