"""YOLO: a text file a picture, a line an object: class and box (or outline) as fractions.

Class names are in `data.yaml` (Ultralytics, Roboflow), or in `classes.txt` or `obj.names` (Darknet,
CVAT, Label Studio). Which file belongs to which picture is in yolo_files.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from coordexp.config.yaml_file import check_yaml_file
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
from coordexp.data.formats.splits import split_of_path
from coordexp.data.formats.yolo_files import NAME_FILES, LabelFiles, listed_pictures
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes

HEAD_BYTES = 4096
LARGEST_FRACTION = 1.5  # of a box or an outline that goes beyond its picture; more is pixels


def read_yolo(source: Source) -> Dataset:
    """Raises UserError: there are no class names, or the directories of `data.yaml` are missing."""
    (file,) = source.files
    names, n_keypoints, entries = described(file)
    dataset = Dataset()
    labels = LabelFiles(file.parent)
    for split, path in listed_pictures(source, entries, dataset):
        label = labels.of(source.pictures.root / path)
        if label is None:
            dataset.dropped["picture without a label file"] += 1
            continue
        size = source.pictures.size(path)
        if size is None:
            dataset.dropped["picture not readable"] += 1
            dataset.notes.append(f"{path}: not a readable picture")
            continue
        shapes = shapes_of(rows_of(label), names, size, n_keypoints, dataset)
        split = split or split_of_path(label.relative_to(labels.root).as_posix())
        dataset.pictures.append(Picture(path, *size, shapes, split))
    if not dataset.pictures:
        raise UserError(f"{source.path}: no picture with a label file was found: name --images")
    for label in labels.without(source.pictures):
        if is_label_file(label):  # not an empty one, nor the text of a tool
            dataset.dropped["label file without a picture"] += 1
            dataset.notes.append(f"{label.relative_to(labels.root)}: no picture of this name")
    return dataset


def described(file: Path) -> tuple[dict[int, str], int, dict[str, Any]]:
    """Class names, numbers of a row that are keypoints, and what `data.yaml` holds."""
    text = read_bytes(file).decode("utf-8-sig", errors="replace")
    if file.name in NAME_FILES:
        lines = [line.strip() for line in text.splitlines()]
        return {n: name for n, name in enumerate(lines) if name}, 0, {}
    check_yaml_file(file)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML: mend it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be an object with names, train and val")
    listed = content.get("names")
    names = dict(enumerate(listed)) if isinstance(listed, list) else listed
    if not isinstance(names, dict) or not all(type(k) is int for k in names):
        raise UserError(f"{file}: names must be a list, or an object with a name for each number")
    if not all(isinstance(name, str | int | float) for name in names.values()):
        raise UserError(f"{file}: names must hold text: correct it")
    n_keypoints = keypoint_numbers(content.get("kpt_shape"), file)
    return {k: str(name) for k, name in names.items()}, n_keypoints, content


def keypoint_numbers(shape: Any, file: Path) -> int:
    """How many numbers of a row are keypoints, from kpt_shape such as [17, 3]."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or any(type(n) is not int for n in shape):
        raise UserError(f"{file}: kpt_shape must be two whole numbers, not {shape!r}")
    return shape[0] * shape[1]


def rows_of(label: Path) -> list[list[str]]:
    text = read_bytes(label).decode("utf-8-sig", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def shapes_of(
    rows: list[list[str]],
    names: dict[int, str],
    size: tuple[int, int],
    n_keypoints: int,
    dataset: Dataset,
) -> list[Shape]:
    shapes = []
    for row in rows:
        with dataset.counting_dropped():
            shapes.append(shape_of(row, names, size, n_keypoints))
    if n_keypoints:
        dataset.dropped["keypoints of an object (its box is kept)"] += len(rows)
    return shapes


def shape_of(
    row: list[str], names: dict[int, str], size: tuple[int, int], n_keypoints: int
) -> Shape:
    """The object of a row: 5 numbers are a box by its centre, more are an outline."""
    values = [number(word) for word in row]
    if n_keypoints and len(values) == 5 + n_keypoints:
        values = values[:5]
    if values[0] not in names:
        raise DroppedShapeError("unknown class")
    if max(map(abs, values[1:]), default=0) > LARGEST_FRACTION:
        raise DroppedShapeError("coordinates that are no fractions of the picture")
    name, (width, height) = names[int(values[0])], size
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
    if not path.is_file():  # a pipe, or a link to a device, which has no end
        return False
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    first = head.split("\n")[0].split()
    if len(first) < 5 or not first[0].isdigit() or is_picture(path.name):
        return False
    try:
        return all(abs(float(word)) <= LARGEST_FRACTION for word in first[1:5])
    except ValueError:
        return False
