"""YOLO's files: the pictures of each split, and the label file of each picture.

Labels lie in `labels/` where the pictures are in `images/`, or beside their pictures. Where the
pictures are elsewhere (an export without pictures, and --images), the name decides.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from coordexp.data.formats.dataset import Dataset, Source
from coordexp.data.formats.picture_files import PictureFiles
from coordexp.data.picture_paths import paths_of
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

NAME_FILES = ("classes.txt", "obj.names")
SPLITS = ("train", "val", "test")


def listed_pictures(
    source: Source, entries: Mapping[str, Any], dataset: Dataset
) -> Iterator[tuple[str, str]]:
    """Split and path of each picture that `data.yaml` lists; without one, of every picture.

    Raises:
        UserError: a directory of train or val is missing, or lies outside that of the pictures.
    """
    (file,) = source.files
    root = os.path.realpath(source.pictures.root)
    elsewhere = not is_below(os.path.realpath(file.parent), root) and not is_below(
        root, os.path.realpath(file.parent)
    )
    if elsewhere or not any(entries.get(split) for split in SPLITS):
        yield from (("", path) for path in source.pictures.paths)
        return
    for split in SPLITS:
        for place in places_of(split, entries.get(split), entries.get("path"), file):
            yield from ((split, path) for path in pictures_in(source, place, dataset))


def is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root.rstrip(os.sep)}{os.sep}")


def places_of(split: str, entry: Any, base: Any, file: Path) -> Iterator[Path]:
    """The directories of a split's pictures, or the files that list them.

    Roboflow writes `../train/images` for `train/images`, and names a test split that it may not
    have exported. Of a path on another machine, the last parts are looked for.
    """
    for word in entry if isinstance(entry, list) else [entry]:
        if not isinstance(word, str):
            continue
        below = word
        while below.startswith(("../", "./")):
            below = below.partition("/")[2]
        around = [file.parent / str(base or ""), file.parent]
        found = [root / name for root in around for name in (word, below)]
        found += [file.parent / end for end in paths_of(word)]
        found = [path for path in found if os.path.exists(path)]
        if found:
            yield found[0]
        elif split != "test":
            raise UserError(
                f"{file}: {split}: there is no {word!r} beside it: correct the path, or name the "
                "directory of pictures that lie elsewhere with --images DIRECTORY"
            )


def pictures_in(source: Source, place: Path, dataset: Dataset) -> list[str]:
    """The pictures of a directory or a list, relative to the root of all pictures.

    Raises:
        UserError: the directory lies elsewhere.
    """
    if place.is_file():
        lines = read_bytes(place).decode("utf-8-sig", errors="replace").splitlines()
        found = [source.pictures.find(line.strip(), place) for line in lines if line.strip()]
        dataset.dropped[f"picture of {place.name} that is missing"] += found.count(None)
        return [path for path in found if path is not None]
    relative = os.path.relpath(os.path.realpath(place), os.path.realpath(source.pictures.root))
    if relative.startswith(".."):
        raise UserError(
            f"{place}: lies outside {source.pictures.root}: name a directory that holds all "
            "pictures with --images"
        )
    if relative == ".":
        return source.pictures.paths
    return [path for path in source.pictures.paths if path.startswith(f"{relative}/")]


class LabelFiles:
    """The label files below the directory of `data.yaml` or of the class names."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        stems: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(self.root.rglob("*.txt")):
            if path.name not in NAME_FILES:
                stems[path.stem].append(path)
        return stems

    def of(self, picture: Path) -> Path | None:
        """The label file of a picture; None where there is none: YOLO then has a background."""
        picture = picture.absolute()
        if picture.is_relative_to(self.root):
            return next((path for path in label_paths(picture) if path.is_file()), None)
        named_alike = self.by_stem.get(picture.stem, [])
        return named_alike[0] if len(named_alike) == 1 else None

    def without(self, pictures: PictureFiles) -> list[Path]:
        """The text files that belong to no picture, also to none that `data.yaml` leaves out."""
        owned = [self.of(pictures.root / path) for path in pictures.paths]
        real = {os.path.realpath(label) for label in owned if label}
        every = [path for paths in self.by_stem.values() for path in paths]
        return [path for path in every if os.path.realpath(path) not in real]


def label_paths(picture: Path) -> Iterator[Path]:
    """Where the label file may be: in `labels/` for the last `images/`, or beside the picture."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            yield Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            break
    yield picture.with_suffix(".txt")
