"""CVAT for images 1.1: one XML file, an `image` for each picture with its `box`es and `polygon`s.

A rotated box is written as CVAT's own COCO export does: the box before its rotation, and
`attributes.rotation` in degrees.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from coordexp.data.formats.dataset import (
    Dataset,
    DroppedShapeError,
    Picture,
    Shape,
    Source,
    box_of,
    named,
    number,
    outlined,
    picture_of,
)
from coordexp.data.formats.splits import split_named
from coordexp.data.formats.xml_file import read_xml
from coordexp.errors import UserError

NO_SHAPES = ("attribute", "tag")  # children of an image that are no shapes


def read_cvat(source: Source) -> Dataset:
    """Raises UserError: the file is not valid XML, holds video tracks, or names no picture."""
    dataset = Dataset()
    for file in source.files:
        root = read_xml(file)
        if root.find("track") is not None:
            raise UserError(
                f"{file}: holds tracks of a video, which name no picture files: "
                "export the task as 'CVAT for images' or 'COCO'"
            )
        for image in root.findall("image"):
            name = image.get("name")
            if not name:
                raise UserError(f"{file}: an image has no name: export it again")
            sides = (image.get("width"), image.get("height"))
            if picture := picture_of(source, dataset, name, file, sides):
                split = split_named(image.get("subset") or "")
                dataset.pictures.append(Picture(*picture, shapes_of(image, dataset), split))
    return dataset


def shapes_of(image: Element, dataset: Dataset) -> list[Shape]:
    shapes = []
    for entry in image:
        if entry.tag in NO_SHAPES:
            continue
        with dataset.counting_dropped():
            shapes.append(shape_of(entry))
    return shapes


def shape_of(entry: Element) -> Shape:
    attributes = attributes_of(entry)
    if entry.tag == "box":
        corners = (number(entry.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
        return Shape(named(entry.get("label")), box_of(*corners), attributes=attributes)
    if entry.tag == "polygon":
        points = [point.split(",") for point in (entry.get("points") or "").split(";")]
        if any(len(point) != 2 for point in points):
            raise DroppedShapeError("broken coordinates")
        ring = [number(value) for point in points for value in point]
        return outlined(named(entry.get("label")), [ring], attributes)
    raise DroppedShapeError(entry.tag)


def attributes_of(entry: Element) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        str(child.get("name")): child.text or "" for child in entry.findall("attribute")
    }
    if entry.get("occluded") == "1":
        attributes["occluded"] = True
    if rotation := number(entry.get("rotation", 0)):
        attributes["rotation"] = rotation
    return attributes
