"""VIA (VGG Image Annotator): JSON project or annotations of version 1 or 2, or its CSV export.

A region has attributes; one of them is the name. Sizes of pictures are not in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordexp.data.formats.csv_file import read_csv
from coordexp.data.formats.dataset import (
    Dataset,
    DroppedShapeError,
    Picture,
    Shape,
    Source,
    box_of,
    expect,
    named,
    numbers,
    outlined,
    picture_of,
)
from coordexp.errors import UserError
from coordexp.storage.files import read_json

CSV_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}
# What the attribute with the name may be called, likeliest first.
NAMES = ("label", "name", "class", "category", "type", "object")

Region = tuple[dict[str, Any], dict[str, Any]]  # shape_attributes, region_attributes


def read_via(source: Source) -> Dataset:
    """Raises UserError: not VIA's form, or several attributes could be the name."""
    dataset = Dataset()
    for file in source.files:
        pictures = list(entries_of(file))
        key = source.label or name_attribute(file, [region for _, r in pictures for region in r])
        for name, regions in pictures:
            if picture := picture_of(source, dataset, name, file):
                dataset.pictures.append(Picture(*picture, shapes_of(regions, key, dataset)))
    return dataset


def entries_of(file: Path) -> Iterator[tuple[str, list[Region]]]:
    """The name of each picture, and its regions."""
    if file.suffix.lower() == ".csv":
        yield from csv_entries(file)
        return
    raw = read_json(file, "mend it, or export it again")
    for key, entry in raw.get("_via_img_metadata", raw).items():
        expect(entry, dict, f"{file}: {key}")
        name = expect(entry.get("filename"), str, f"{file}: {key}: filename")
        regions = entry.get("regions") or []
        if isinstance(regions, dict):  # version 1 numbers them
            regions = list(regions.values())
        listed = expect(regions, list, f"{file}: {key}: regions")
        where = f"{file}: {key}: a region"
        yield name, [region_of(expect(region, dict, where), where) for region in listed]


def region_of(region: dict[str, Any], where: str) -> Region:
    shape = expect(region.get("shape_attributes"), dict, f"{where}: shape_attributes")
    return shape, expect(region.get("region_attributes") or {}, dict, f"{where}: region_attributes")


def csv_entries(file: Path) -> Iterator[tuple[str, list[Region]]]:
    regions: dict[str, list[Region]] = {}
    for n, row in read_csv(file, CSV_COLUMNS):
        try:
            shape = json.loads(row["region_shape_attributes"] or "{}")
            attributes = json.loads(row["region_attributes"] or "{}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}:{n}: not VIA's CSV ({error})") from error
        of_picture = regions.setdefault(row["filename"], [])
        if shape:  # a picture without regions has a row without a shape
            entry = {"shape_attributes": shape, "region_attributes": attributes}
            of_picture.append(region_of(entry, f"{file}:{n}"))
    yield from regions.items()


def name_attribute(file: Path, regions: list[Region]) -> str:
    """The attribute that holds the name: the only one, or the one with a usual name for it.

    Raises:
        UserError: there is none, or another could be meant.
    """
    keys = sorted({key for _, attributes in regions for key in attributes})
    usual = [key for word in NAMES for key in keys if key.lower() == word]
    if len(keys) == 1 or usual:
        return (usual or keys)[0]
    if not keys:
        raise UserError(f"{file}: its regions have no attribute, so no name: add one in VIA")
    raise UserError(
        f"{file}: which attribute is the name? add --label NAME: one of {', '.join(keys)}"
    )


def shapes_of(regions: list[Region], key: str, dataset: Dataset) -> list[Shape]:
    shapes = []
    for shape, attributes in regions:
        with dataset.counting_dropped():
            shapes.append(shape_of(shape, attributes.get(key)))
    return shapes


def shape_of(shape: dict[str, Any], value: Any) -> Shape:
    if isinstance(value, dict):  # check boxes: {"cat": true}
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        value = ticked[0] if len(ticked) == 1 else None
    kind = shape.get("name")
    if kind == "rect":
        x, y, w, h = numbers([shape.get(side) for side in ("x", "y", "width", "height")])
        return Shape(named(value), box_of(x, y, x + w, y + h))
    if kind == "polygon":
        xs, ys = numbers(shape.get("all_points_x")), numbers(shape.get("all_points_y"))
        if len(xs) != len(ys):
            raise DroppedShapeError("broken coordinates")
        ring = [value for point in zip(xs, ys, strict=True) for value in point]
        return outlined(named(value), [ring], {})
    raise DroppedShapeError(str(kind))


def is_via(raw: Any) -> bool:
    if not isinstance(raw, dict) or not raw:
        return False
    entries = raw.get("_via_img_metadata", raw)
    return (
        isinstance(entries, dict)
        and bool(entries)
        and all(
            isinstance(e, dict) and {"filename", "regions"} <= e.keys() for e in entries.values()
        )
    )
