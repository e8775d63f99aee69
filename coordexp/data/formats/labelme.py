"""LabelMe: a JSON file a picture, with `imagePath` and `shapes` (rectangles and polygons).

Polygons of one label that share a `group_id` are parts of one object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from coordexp.storage.files import read_json


def read_labelme(source: Source) -> Dataset:
    """Raises UserError: a file is not valid JSON, or is no LabelMe file."""
    dataset = Dataset()
    for file in source.files:
        raw = read_json(file, "mend it, or save it again")
        if not is_labelme(raw):
            dataset.dropped["JSON file that is not LabelMe's"] += 1
            continue
        name = expect(raw["imagePath"], str, f"{file}: imagePath") or file.stem
        sides = (raw.get("imageWidth"), raw.get("imageHeight"))
        shapes = shapes_of(expect(raw["shapes"], list, f"{file}: shapes"), file, dataset)
        if picture := picture_of(source, dataset, name, file, sides):
            dataset.pictures.append(Picture(*picture, shapes))
    return dataset


def is_labelme(raw: Any) -> bool:
    return isinstance(raw, dict) and {"shapes", "imagePath"} <= raw.keys()


def shapes_of(entries: list[Any], file: Path, dataset: Dataset) -> list[Shape]:
    shapes: list[Shape] = []
    grouped: dict[tuple[str, Any], list[list[float]]] = {}  # parts of each object
    for i, entry in enumerate(entries):
        expect(entry, dict, f"{file}: shapes[{i}]")
        with dataset.counting_dropped():
            shape, group = shape_of(entry), entry.get("group_id")
            if shape.rings and isinstance(group, int | str):
                grouped.setdefault((shape.name, group), []).append(list(shape.rings[0]))
            else:
                shapes.append(shape)
    return shapes + [outlined(name, rings, {}) for (name, _), rings in grouped.items()]


def shape_of(entry: dict[str, Any]) -> Shape:
    kind = entry.get("shape_type", "polygon")  # the first versions had polygons only
    if kind not in ("rectangle", "polygon"):
        raise DroppedShapeError(str(kind))
    name = named(entry.get("label"))
    points = entry.get("points")
    if not isinstance(points, list):
        raise DroppedShapeError("broken coordinates")
    ring = [value for point in points for value in numbers(point, 2)]
    if kind == "rectangle" and len(points) == 2:
        x1, y1, x2, y2 = ring
        return Shape(name, box_of(x1, y1, x2, y2))
    return outlined(name, [ring], {})
