"""CreateML: a JSON list; coordinates in pixels, x and y are the centre of the box."""

from __future__ import annotations

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
    picture_of,
)
from coordexp.storage.files import read_json


def read_createml(source: Source) -> Dataset:
    """Raises UserError: a file does not have CreateML's form."""
    dataset = Dataset()
    for file in source.files:
        for i, entry in enumerate(read_json(file, "mend it, or export it again")):
            where = f"{file}: [{i}]"
            expect(entry, dict, where)
            name = expect(entry.get("image"), str, f"{where}: image")
            found = picture_of(source, dataset, name, file)
            shapes = []
            for annotation in expect(entry.get("annotations"), list, f"{where}: annotations"):
                with dataset.counting_dropped():
                    shapes.append(shape_of(annotation))
            if found:
                dataset.pictures.append(Picture(*found, shapes))
    return dataset


def shape_of(annotation: Any) -> Shape:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("coordinates"), dict):
        raise DroppedShapeError("broken coordinates")
    sides = annotation["coordinates"]
    x, y, w, h = numbers([sides.get(key) for key in ("x", "y", "width", "height")])
    box = box_of(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return Shape(named(annotation.get("label")), box)


def is_createml(raw: Any) -> bool:
    return (
        isinstance(raw, list)
        and bool(raw)
        and all(isinstance(e, dict) and {"image", "annotations"} <= e.keys() for e in raw[:20])
    )
