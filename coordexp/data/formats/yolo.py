"""YOLO: a text file a picture, a line an object: class and box (or outline) as fractions.

Class names and directories are in `data.yaml` (Ultralytics, Roboflow), or names alone in
`classes.txt` or `obj.names` (Darknet, CVAT, Label Studio). Labels lie beside their pictures, or in
`labels/` where the pictures are in `images/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from coordexp.data.formats.dataset import (
    Dataset,
    DroppedShapeError,
    Picture,
    Shape,
    Source,
    box_of,
    number,
    outlined,
)
from coordexp.data.formats.picture_files import is_picture
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

NAME_FILES = ("classes.txt", "obj.names")
SPLITS = ("train", "val", "test")


def read_yolo(source: Source) -> Dataset:
    """Raises UserError: there are no class names, or the directories of `data.yaml` are missing."""
    (file,) = source.files
    names, n_keypoints, places = described(file)
    dataset = Dataset()
    for split, place in places or [("", source.pictures.root)]:
        for path in pictures_in(source, place, dataset):
            rows = label_rows(source.pictures.root / path, dataset)
            if rows is None:
                continue
            size = source.pictures.size(path)
            if size is None:
                dataset.dropped["picture not readable"] += 1
                dataset.notes.append(f"{path}: not a readable picture")
                continue
            shapes = list(shapes_of(rows, names, size, n_keypoints, dataset))
            dataset.pictures.append(Picture(path, *size, shapes, split))
    if not dataset.pictures:
        raise UserError(f"{source.path}: no picture with a label file was found: name --images")
    return dataset


def described(file: Path) -> tuple[dict[int, str], int, list[tuple[str, Path]]]:
    """Class names, numbers of a row that are keypoints, and the places of each split."""
    text = read_bytes(file).decode("utf-8", errors="replace")
    if file.name in NAME_FILES:
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), 0, []
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file}: not valid YAML: mend it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be an object with names, train and val")
    listed = content.get("names")
    names = dict(enumerate(listed)) if isinstance(listed, list) else listed
    if not isinstance(names, dict) or not all(type(k) is int for k in names):
        raise UserError(f"{file}: names must be a list, or an object with a name for each number")
    if not all(isinstance(name, str | int | float) for name in names.values()):
        raise UserError(f"{file}: names must hold text: correct it")
    places = [
        (split, place)
        for split in SPLITS
        for place in places_of(split, content.get(split), content.get("path"), file)
    ]
    n_keypoints = keypoint_numbers(content.get("kpt_shape"), file)
    return {k: str(name) for k, name in names.items()}, n_keypoints, places


def keypoint_numbers(shape: Any, file: Path) -> int:
    """How many numbers of a row are keypoints, from kpt_shape such as [17, 3]."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or any(type(n) is not int for n in shape):
        raise UserError(f"{file}: kpt_shape must be two whole numbers, not {shape!r}")
    return shape[0] * shape[1]


def places_of(split: str, entry: Any, base: Any, file: Path) -> Iterator[Path]:
    """The directories of a split's pictures, or the files that list them.

    Roboflow writes `../train/images` for `train/images`, and names a test split that it may not
    have exported.
    """
    for word in entry if isinstance(entry, list) else [entry]:
        if not isinstance(word, str):
            continue
        below = word
        while below.startswith(("../", "./")):
            below = below.partition("/")[2]
        around = [file.parent / str(base or ""), file.parent]
        found = [root / name for root in around for name in (word, below)]
        found = [path for path in found if os.path.exists(path)]
        if found:
            yield found[0]
        elif split != "test":
            raise UserError(f"{file}: {split}: there is no {word!r} beside it: correct the path")


def pictures_in(source: Source, place: Path, dataset: Dataset) -> list[str]:
    """The pictures of a directory or a list, relative to the root of all pictures.

    Raises:
        UserError: the directory lies elsewhere.
    """
    if place.is_file():
        lines = read_bytes(place).decode("utf-8", errors="replace").splitlines()
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


def label_rows(picture: Path, dataset: Dataset) -> list[list[str]] | None:
    """The rows of a picture's label file. None where there is none: YOLO then has a background."""
    for path in label_paths(picture):
        if path.is_file():
            text = read_bytes(path).decode("utf-8", errors="replace")
            return [line.split() for line in text.splitlines() if line.strip()]
    dataset.dropped["picture without a label file"] += 1
    return None


def label_paths(picture: Path) -> Iterator[Path]:
    """Where the label file may be: in `labels/` for the last `images/`, or beside the picture."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            yield Path(*parts[:i], "labels", *parts[i + 1 :]).with_suffix(".txt")
            break
    yield picture.with_suffix(".txt")


def shapes_of(
    rows: list[list[str]],
    names: dict[int, str],
    size: tuple[int, int],
    n_keypoints: int,
    dataset: Dataset,
) -> Iterator[Shape]:
    for row in rows:
        try:
            yield shape_of(row, names, size, n_keypoints)
        except DroppedShapeError as reason:
            dataset.dropped[str(reason)] += 1
    if n_keypoints:
        dataset.dropped["keypoints of an object (its box is kept)"] += len(rows)


def shape_of(
    row: list[str], names: dict[int, str], size: tuple[int, int], n_keypoints: int
) -> Shape:
    """The object of a row: 5 numbers are a box by its centre, more are an outline."""
    values = [number(word) for word in row]
    if values[0] not in names:
        raise DroppedShapeError("unknown class")
    name, (width, height) = names[int(values[0])], size
    if n_keypoints and len(values) == 5 + n_keypoints:
        values = values[:5]
    if len(values) == 5:
        x, y, w, h = values[1:]
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        return Shape(name, box_of(x1 * width, y1 * height, x2 * width, y2 * height))
    if len(values) == 6:
        raise DroppedShapeError("six numbers: a detection with its confidence")
    if len(values) < 7 or len(values) % 2 == 0:
        raise DroppedShapeError("neither a box nor an outline")
    ring = [value * size[i % 2] for i, value in enumerate(values[1:])]
    return outlined(name, [ring], {})


def is_label_file(path: Path) -> bool:
    """Whether a text file has YOLO's rows: a whole number, then fractions."""
    first = path.read_bytes()[:4096].decode("utf-8", errors="replace").split("\n")[0].split()
    if len(first) < 5 or not first[0].isdigit() or is_picture(path.name):
        return False
    try:
        return all(-0.5 <= float(word) <= 1.5 for word in first[1:5])
    except ValueError:
        return False
