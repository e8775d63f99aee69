"""The source file of each annotated picture, and the name of the written picture.

Both are determined and checked before any picture is converted.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import CocoConfig, MissingPictures
from coordexp.data.coco.annotations import CocoImage
from coordexp.data.coco.conversion_stats import BY_END
from coordexp.data.coco.picture_directories import PictureDirectory, directory_of
from coordexp.data.coco.splits import Split
from coordexp.errors import UserError

LONGEST_PART_BYTES = 255  # of a name between two slashes, on common file systems
LONGEST_NAME_BYTES = 1024  # of a relative path; leaves room for the directory in front of it


@dataclass(frozen=True)
class ImageFile:
    source: Path | None  # None: it is missing, and may be drawn
    written: str  # below images/<split>/
    by_end: bool = False  # found under the last parts of its name only


def find_image_files(
    splits: Mapping[str, Split], settings: CocoConfig
) -> dict[str, list[ImageFile]]:
    """The file of each image of each split, as `data.missing` has it where one is missing.

    With `skip` the image is taken out of its split and counted there.

    Raises:
        UserError: pictures are missing and must not be, two images have the same source file, or
            two images would be written to the same file.
    """
    directories = {}
    files = {}
    for name, split in splits.items():
        directories[name] = directory_of(name, split.coco.path, split.coco.images, settings)
        files[name] = [image_file_of(image, directories[name].path) for image in split.images]
        if not directories[name].setting and any(file.source for file in files[name]):
            where = f"{directories[name].path}, beside {split.coco.path}"
            print(f"{name}: the pictures are those in {where}", file=sys.stderr)
    if settings.missing is MissingPictures.refuse:
        refuse_missing(splits, files, directories)
    if settings.missing is MissingPictures.skip:
        for name, split in splits.items():
            files[name] = leave_out_missing(split, files[name])
    refuse_one_file_for_two(splits, files)
    refuse_one_name_for_two(splits, files)
    for name, split in splits.items():
        if n_by_end := sum(file.by_end for file in files[name]):
            split.stats.pictures[BY_END] += n_by_end
    return files


def image_file_of(image: CocoImage, root: Path) -> ImageFile:
    source = image.find(root)
    by_end = source is not None and source != root / image.paths[0]
    return ImageFile(source, written_name(image.paths[0], source is not None), by_end)


def leave_out_missing(split: Split, files: Sequence[ImageFile]) -> list[ImageFile]:
    """Take the images without a file out of the split; returns the files of the others."""
    images, found = [], []
    for image, file in zip(split.images, files, strict=True):
        if file.source is None:
            fault = f"{image.paths[0]}: no such picture"
            split.stats.leave_out("picture missing", len(image.annotations), fault)
        else:
            images.append(image)
            found.append(file)
    split.images[:] = images
    return found


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
    splits: Mapping[str, Split],
    files: Mapping[str, list[ImageFile]],
    directories: Mapping[str, PictureDirectory],
) -> None:
    """Refuse missing pictures; those of splits that share a directory are counted together."""
    missing: dict[tuple[str, Path], list[str]] = {}  # by setting, and directory or annotation file
    for name, split in splits.items():
        setting = directories[name].setting
        where = (setting, directories[name].path if setting else split.coco.path)
        names = [
            image.paths[0]
            for image, file in zip(split.images, files[name], strict=True)
            if file.source is None
        ]
        if names:
            missing.setdefault(where, []).extend(names)
    for (setting, path), names in missing.items():
        n_missing = f"{len(names)} annotated pictures are missing"
        if setting:
            found, advice = f"{setting}: {n_missing}", "complete them"
        else:
            found = f"{path}: data.images is not set, and {n_missing} beside it"
            advice = "set data.images=DIRECTORY"
        raise UserError(
            f"{found}, such as {names[0]!r}: {advice}, leave them out with data.missing=skip, "
            "or rehearse with data.missing=draw"
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
