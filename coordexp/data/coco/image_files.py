"""The source file of each annotated picture, and the name of the written picture.

Both are determined and checked before any picture is converted.
"""

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

LONGEST_PART_BYTES = 255  # of a name between two slashes, on common file systems
LONGEST_NAME_BYTES = 1024  # of a relative path; leaves room for the directory in front of it


@dataclass(frozen=True)
class ImageFile:
    source: Path | None  # None: it is drawn
    written: str  # below images/<split>/


def find_image_files(
    splits: Mapping[str, Split], settings: CocoConfig
) -> dict[str, list[ImageFile]]:
    """The file of each image of each split.

    Raises:
        UserError: pictures are missing and may not be drawn, two images have the same source file,
            or two images would be written to the same file.
    """
    files = {}
    for name, split in splits.items():
        files[name] = [image_file_of(image, settings) for image in split.images]
    if not settings.render_missing:
        refuse_missing(splits, files, settings)
    refuse_one_file_for_two(splits, files)
    refuse_one_name_for_two(splits, files)
    return files


def image_file_of(image: CocoImage, settings: CocoConfig) -> ImageFile:
    source = image.find(Path(settings.images)) if settings.images else None
    return ImageFile(source, written_name(image.paths[0], source is not None))


def written_name(name: str, is_there: bool) -> str:
    """The name of the written picture: the source's own, as JPEG.

    The name of a drawn picture ends in .drawn.png, so that it is not mistaken for a real one. A
    name that is too long for a file system is replaced by its digest.
    """
    if not is_there:
        ending = ".drawn.png"
    elif name.lower().endswith((".jpg", ".jpeg")):
        ending = ""
    else:
        ending = ".jpg"
    written = name + ending
    longest = max(len(part.encode()) for part in written.split("/"))
    if longest <= LONGEST_PART_BYTES and len(written.encode()) <= LONGEST_NAME_BYTES:
        return written
    return hashlib.sha256(name.encode()).hexdigest() + (ending or ".jpg")


def refuse_missing(
    splits: Mapping[str, Split], files: Mapping[str, list[ImageFile]], settings: CocoConfig
) -> None:
    root = Path(settings.images or "")
    if not root.is_dir():
        problem = "not a" if root.exists() else "no such"
        raise UserError(f"data.images={root}: {problem} directory")
    missing = []
    for name, split in splits.items():
        for image, file in zip(split.images, files[name], strict=True):
            if file.source is None:
                missing.append(image.paths[0])
    if missing:
        raise UserError(
            f"data.images={settings.images}: {len(missing)} annotated pictures are missing, "
            f"such as {missing[0]!r}: complete them, or rehearse with data.render_missing=true"
        )


def refuse_one_file_for_two(
    splits: Mapping[str, Split], files: Mapping[str, list[ImageFile]]
) -> None:
    """Refuse two images that are one file under different names.

    COCO says 000000000009.jpg where LVIS says train2017/000000000009.jpg.
    """
    first: dict[str, tuple[str, CocoImage]] = {}
    shared: list[Path] = []
    for name, split in splits.items():
        for image, file in zip(split.images, files[name], strict=True):
            if file.source is None:
                continue
            other_split, other = first.setdefault(os.path.realpath(file.source), (name, image))
            if other_split != name:
                shared.append(file.source)
            elif other is not image:
                both = f"images {other.id!r} and {image.id!r} are one file, {file.source}"
                raise UserError(f"{split.coco.path}: {both}: annotate it once")
    if shared:
        problem = f"{len(shared)} of its pictures are in train as well, such as {shared[0]}"
        raise UserError(f"{splits['val'].coco.path}: {problem}: take them out of one")


def refuse_one_name_for_two(
    splits: Mapping[str, Split], files: Mapping[str, list[ImageFile]]
) -> None:
    """Refuse two images that would be written under one name.

    a.png is written as a.png.jpg, which may be another picture's name.
    """
    for name, split in splits.items():
        first: dict[str, CocoImage] = {}
        for image, file in zip(split.images, files[name], strict=True):
            other = first.setdefault(file.written, image)
            if other is not image:
                names = f"{other.paths[0]!r}, {image.paths[0]!r}"
                raise UserError(
                    f"{split.coco.path}: images {other.id!r} and {image.id!r} ({names}) "
                    f"would both become images/{name}/{file.written}: rename one"
                )
