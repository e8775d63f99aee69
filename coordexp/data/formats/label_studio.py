"""Label Studio: JSON and JSON-MIN. Coordinates are per cent of the picture.

A rectangle is turned around its upper left corner; a turned one is written as the polygon of its
corners. Of several annotations of a task the first that was not cancelled is taken.
"""

from __future__ import annotations

import math
import re
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
from coordexp.data.formats.picture_files import is_picture
from coordexp.errors import UserError
from coordexp.storage.files import read_json

# What an upload puts before the name of the file: /data/upload/3/ab12cd34-cat.jpg.
UPLOADED = re.compile(r"^.*/[0-9a-f]{8}-")
PICTURE_KEYS = ("image", "img", "photo", "picture")
LABELS = ("rectanglelabels", "polygonlabels", "labels")  # the key that holds the names
NOT_SHAPES = ("choices", "textarea", "rating", "taxonomy", "number", "relation")


def read_label_studio(source: Source) -> Dataset:
    """Raises UserError: a file does not have Label Studio's form."""
    dataset = Dataset()
    for file in source.files:
        for i, task in enumerate(read_json(file, "mend it, or export it again")):
            where = f"{file}: task {i}"
            expect(task, dict, where)
            name = picture_name(task.get("data", task), where)
            results = results_of(task, dataset)
            if source.pictures.find(name, file) is None:
                name = UPLOADED.sub("", name)
            sides = stated_size(results)
            if picture := picture_of(source, dataset, name, file, sides):
                size = picture[1], picture[2]
                dataset.pictures.append(Picture(*picture, shapes_of(results, size, dataset)))
    return dataset


def picture_name(data: Any, where: str) -> str:
    expect(data, dict, f"{where}: data")
    for key in (*PICTURE_KEYS, *data):
        value = data.get(key)
        if isinstance(value, str) and (key in PICTURE_KEYS or is_picture(value)):
            return value
    raise UserError(f"{where}: its data name no picture")


def results_of(task: dict[str, Any], dataset: Dataset) -> list[dict[str, Any]]:
    """The regions of a task: those of its first annotation, or the list itself in JSON-MIN."""
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list):
        lists = [value for value in task.values() if isinstance(value, list)]
        return [r for results in lists for r in results if isinstance(r, dict)]
    valid = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if len(valid) > 1:
        dataset.dropped["further annotation of a task"] += len(valid) - 1
    results = valid[0].get("result") if valid else []
    if not isinstance(results, list):
        return []
    return [result for result in results if isinstance(result, dict)]


def stated_size(results: list[dict[str, Any]]) -> tuple[Any, Any]:
    for result in results:
        if "original_width" in result:
            return result.get("original_width"), result.get("original_height")
    return None, None


def shapes_of(
    results: list[dict[str, Any]], size: tuple[int, int], dataset: Dataset
) -> list[Shape]:
    shapes = []
    for result in results:
        if result.get("type") in NOT_SHAPES:
            continue
        with dataset.counting_dropped():
            shapes.append(shape_of(result, size))
    return shapes


def shape_of(result: dict[str, Any], size: tuple[int, int]) -> Shape:
    value = result.get("value", result)  # JSON-MIN has the value itself
    keys = [key for key in LABELS if isinstance(value, dict) and key in value]
    if not keys:
        raise DroppedShapeError(str(result.get("type", "another shape")))
    names = value[keys[0]]
    name = named(names[0] if isinstance(names, list) and names else None)
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list):
            raise DroppedShapeError("broken coordinates")
        ring = [v for point in points for v in numbers(point, 2)]
        return outlined(name, [in_pixels(ring, size)], {})
    x, y, w, h = numbers([value.get(key) for key in ("x", "y", "width", "height")])
    (turn,) = numbers([value.get("rotation") or 0])
    x1, y1, x2, y2 = in_pixels([x, y, x + w, y + h], size)
    box = box_of(x1, y1, x2, y2)
    return outlined(name, [turned(box, turn)], {}) if turn % 360 else Shape(name, box)


def in_pixels(per_cent: list[float], size: tuple[int, int]) -> list[float]:
    return [value / 100 * size[i % 2] for i, value in enumerate(per_cent)]


def turned(box: tuple[float, float, float, float], degrees: float) -> list[float]:
    """The corners of a box that is turned clockwise around its upper left corner, in px."""
    x1, y1, x2, y2 = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ring = []
    for dx, dy in ((0.0, 0.0), (x2 - x1, 0.0), (x2 - x1, y2 - y1), (0.0, y2 - y1)):
        ring += [x1 + dx * cos - dy * sin, y1 + dx * sin + dy * cos]
    return ring


def is_label_studio(raw: Any) -> bool:
    if not isinstance(raw, list) or not all(isinstance(task, dict) for task in raw[:20]):
        return False
    if any("data" in task and {"annotations", "completions"} & task.keys() for task in raw[:20]):
        return True
    regions = [
        region
        for task in raw[:20]
        for value in task.values()
        if isinstance(value, list)
        for region in value
    ]
    return any(isinstance(region, dict) and set(LABELS[:2]) & region.keys() for region in regions)
