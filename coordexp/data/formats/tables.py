"""Boxes in CSV files: TensorFlow's object detection (pixels), and Open Images (fractions)."""

from __future__ import annotations

from pathlib import Path

from coordexp.data.formats.csv_file import read_csv
from coordexp.data.formats.dataset import (
    Dataset,
    Picture,
    Shape,
    Source,
    box_of,
    named,
    number,
    picture_of,
    upright,
)
from coordexp.data.formats.pixels import with_edges

TENSORFLOW_COLUMNS = {"filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"}
OPEN_IMAGES_COLUMNS = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}
# Beside Open Images' boxes: the readable name of each LabelName such as /m/01g317.
CLASS_FILES = ("class-descriptions-boxable.csv", "class-descriptions.csv")


def read_tensorflow(source: Source) -> Dataset:
    """`filename,width,height,class,xmin,ymin,xmax,ymax`, a line an object, made from VOC files."""
    dataset = Dataset()
    for file in source.files:
        pictures: dict[str, Picture | None] = {}
        for _, row in read_csv(file, TENSORFLOW_COLUMNS):
            name = row["filename"]
            if name not in pictures:
                sides = (row["width"], row["height"])
                found = picture_of(source, dataset, name, file, sides)
                pictures[name] = Picture(*found, []) if found else None
            add_row(pictures[name], row, dataset)
        dataset.pictures += [picture for picture in pictures.values() if picture]
    return with_edges(dataset, source)


def add_row(picture: Picture | None, row: dict[str, str], dataset: Dataset) -> None:
    if picture is None:
        dataset.dropped["object of a missing picture"] += 1
        return
    with dataset.counting_dropped():
        box = upright(*(number(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")))
        picture.shapes.append(Shape(named(row["class"]), box))


def read_open_images(source: Source) -> Dataset:
    """`ImageID,…,LabelName,…,XMin,XMax,YMin,YMax,…`; IsGroupOf becomes COCO's crowd."""
    dataset = Dataset()
    for file in source.files:
        names = class_names(file)
        pictures: dict[str, Picture | None] = {}
        for _, row in read_csv(file, OPEN_IMAGES_COLUMNS):
            name = row["ImageID"]
            if name not in pictures:
                found = picture_of(source, dataset, name, file)
                pictures[name] = Picture(*found, []) if found else None
            picture = pictures[name]
            if picture is None:
                dataset.dropped["object of a missing picture"] += 1
                continue
            with dataset.counting_dropped():
                picture.shapes.append(open_images_shape(row, names, picture))
        dataset.pictures += [picture for picture in pictures.values() if picture]
    return dataset


def open_images_shape(row: dict[str, str], names: dict[str, str], picture: Picture) -> Shape:
    x1, x2 = (number(row[key]) * picture.width for key in ("XMin", "XMax"))
    y1, y2 = (number(row[key]) * picture.height for key in ("YMin", "YMax"))
    flags = {"occluded": "IsOccluded", "truncated": "IsTruncated"}
    attributes = {name: True for name, key in flags.items() if row.get(key) == "1"}
    label = named(row["LabelName"])
    crowd = row.get("IsGroupOf") == "1"
    return Shape(names.get(label, label), box_of(x1, y1, x2, y2), (), attributes, crowd)


def class_names(file: Path) -> dict[str, str]:
    """Readable names by LabelName, from the file beside the boxes; empty where there is none."""
    for name in CLASS_FILES:
        if (file.parent / name).is_file():
            lines = (file.parent / name).read_text(encoding="utf-8", errors="replace").splitlines()
            pairs = [line.split(",", 1) for line in lines if "," in line]
            return {label: readable.strip().strip('"') for label, readable in pairs}
    return {}
