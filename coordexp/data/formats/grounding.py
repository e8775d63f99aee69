"""Grounding conversations: a row a picture, boxes in the answers of the assistant.

Read are ms-swift's `objects` ({"ref": […], "bbox": […]}), Qwen-VL's `<ref>cat</ref><box>(x1,y1),
(x2,y2)</box>` (also as `<|object_ref_start|>` …), and a JSON list of {"bbox_2d": […], "label": …}
in the text. LLaVA's conversations have this form, and mostly no boxes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordexp.data.formats.dataset import (
    Coordinates,
    Dataset,
    Picture,
    Shape,
    Source,
    box_of,
    expect,
    named,
    numbers,
    picture_of,
)
from coordexp.errors import UserError
from coordexp.storage.files import read_bytes, read_json

REF_BOX = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>)(?P<name>.*?)(?:</ref>|<\|object_ref_end\|>)"
    r"(?P<boxes>(?:\s*(?:<box>|<\|box_start\|>).*?(?:</box>|<\|box_end\|>))+)",
    re.DOTALL,
)
BOX = re.compile(r"(?:<box>|<\|box_start\|>)(.*?)(?:</box>|<\|box_end\|>)", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
JSON_LIST = re.compile(r"\[\s*\{.*\}\s*\]", re.DOTALL)
PLACEHOLDER = re.compile("<ref-object>|<bbox>")
# What ms-swift says about its numbers: pixels, or fractions.
BBOX_TYPES = {"real": Coordinates.pixels, "norm1": Coordinates.fractions}
WHICH = "its boxes may be pixels, thousandths or fractions of a picture: add --coordinates pixels"
OTHERS = "(or bins1000, fractions)"

Named = tuple[Any, Any]  # the name of a box, and its four numbers, as the file has them


def read_grounding(source: Source) -> Dataset:
    """Raises UserError: there are no boxes, or nobody says what their numbers mean."""
    dataset = Dataset()
    for file in source.files:
        for where, row in rows_of(file):
            boxes, stated = boxes_of(row, dataset)
            coordinates = stated or source.coordinates
            if boxes and coordinates is None:
                raise UserError(f"{where}: {WHICH} {OTHERS}")
            name = picture_name(row)
            if name is None:
                dataset.dropped["row without a picture"] += 1
                continue
            sides = (row.get("width"), row.get("height"))
            if picture := picture_of(source, dataset, name, file, sides):
                size = picture[1], picture[2]
                shapes = shapes_of(boxes, coordinates, size, dataset)
                dataset.pictures.append(Picture(*picture, shapes))
    if not any(picture.shapes for picture in dataset.pictures):
        raise UserError(
            f"{source.path}: these conversations hold no boxes: there is nothing to train "
            "coordinates on"
        )
    return dataset


def rows_of(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, or of a JSON list, each with file and line (or number)."""
    text = read_bytes(file)
    if text.lstrip()[:1] == b"[":
        for i, row in enumerate(read_json(file, "mend it, or export it again")):
            yield f"{file}: [{i}]", expect(row, dict, f"{file}: [{i}]")
        return
    for n, line in enumerate(text.split(b"\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}:{n}: not JSON ({error})") from error
            yield f"{file}:{n}", expect(row, dict, f"{file}:{n}")


def picture_name(row: dict[str, Any]) -> str | None:
    """The one picture of a row; None where it has none or several."""
    found = row.get("images", row.get("image"))
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, dict):
        found = found.get("path")
    if found is None:
        parts = [part for text in contents_of(row) if isinstance(text, list) for part in text]
        named_there = [part.get("image") for part in parts if isinstance(part, dict)]
        found = next((name for name in named_there if name), None)
    return found if isinstance(found, str) else None


def turns_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a conversation; none of what is something else."""
    turns = row.get("messages", row.get("conversations"))
    return [t for t in turns if isinstance(t, dict)] if isinstance(turns, list) else []


def contents_of(row: dict[str, Any]) -> Iterator[Any]:
    for turn in turns_of(row):
        yield turn.get("content", turn.get("value"))


def answers_of(row: dict[str, Any]) -> Iterator[str]:
    """The texts of the assistant."""
    for turn in turns_of(row):
        if turn.get("role", turn.get("from")) in ("user", "human"):
            continue
        content = turn.get("content", turn.get("value"))
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def boxes_of(row: dict[str, Any], dataset: Dataset) -> tuple[list[Named], Coordinates | None]:
    """The boxes of a row with their names, and what their numbers mean where the row says it."""
    objects = row.get("objects")
    if isinstance(objects, str):  # ms-swift 2 has the list as text
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            objects = None
    if isinstance(objects, list):
        entries = [entry for entry in objects if isinstance(entry, dict)]
        stated = BBOX_TYPES.get(str(entries[0].get("bbox_type"))) if entries else None
        return [(entry.get("caption", ""), entry.get("bbox")) for entry in entries], stated
    if isinstance(objects, dict):
        return paired(objects, row, dataset), BBOX_TYPES.get(str(objects.get("bbox_type")))
    return [box for text in answers_of(row) for box in boxes_in_text(text)], None


def paired(objects: dict[str, Any], row: dict[str, Any], dataset: Dataset) -> list[Named]:
    """The name of each box: its own, the only one, or the last before it in the text."""
    refs, boxes = objects.get("ref"), objects.get("bbox")
    if not isinstance(refs, list) or not isinstance(boxes, list):
        dataset.dropped["row whose ref or bbox is no list"] += 1
        return []
    if len(refs) == len(boxes):
        return list(zip(refs, boxes, strict=True))
    if len(refs) == 1:
        return [(refs[0], box) for box in boxes]
    texts = [text for text in contents_of(row) if isinstance(text, str)]
    words = [word for text in texts for word in PLACEHOLDER.findall(text)]
    if words.count("<ref-object>") == len(refs) and words.count("<bbox>") == len(boxes):
        named_boxes: list[Named] = []
        n_refs = 0
        for word in words:
            if word == "<ref-object>":
                n_refs += 1
            elif n_refs:
                named_boxes.append((refs[n_refs - 1], boxes[len(named_boxes)]))
        if len(named_boxes) == len(boxes):
            return named_boxes
    dataset.dropped["box that belongs to no name"] += len(boxes)
    return []


def boxes_in_text(text: str) -> Iterator[Named]:
    for match in REF_BOX.finditer(text):
        for box in BOX.findall(match["boxes"]):
            yield match["name"], NUMBER.findall(box)
    if listed := JSON_LIST.search(text):
        try:
            entries = json.loads(listed[0])
        except (ValueError, RecursionError):
            return
        for entry in entries:
            if isinstance(entry, dict) and (box := entry.get("bbox_2d", entry.get("bbox"))):
                yield entry.get("label", entry.get("desc", "")), box


def shapes_of(
    boxes: list[Named], coordinates: Coordinates | None, size: tuple[int, int], dataset: Dataset
) -> list[Shape]:
    """`size` in px. Where `coordinates` is None there are no boxes."""
    unit = {Coordinates.bins1000: 1000.0, Coordinates.fractions: 1.0}
    shapes = []
    for name, values in boxes:
        with dataset.counting_dropped():
            x1, y1, x2, y2 = numbers(values, 4)
            if coordinates in unit:
                sx, sy = size[0] / unit[coordinates], size[1] / unit[coordinates]
                x1, y1, x2, y2 = x1 * sx, y1 * sy, x2 * sx, y2 * sy
            shapes.append(Shape(named(name), box_of(x1, y1, x2, y2)))
    return shapes


def is_conversation(row: Any) -> bool:
    """Whether a row holds a conversation; a list of such rows is a file of them."""
    return isinstance(row, dict) and any(
        isinstance(row.get(key), list) for key in ("messages", "conversations")
    )


def holds_boxes(row: dict[str, Any]) -> bool:
    return bool(boxes_of(row, Dataset())[0])
