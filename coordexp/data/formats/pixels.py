"""Boxes of whole pixels: Pascal VOC counts from 1, and its last pixel belongs to the box."""

from __future__ import annotations

from dataclasses import replace

from coordexp.data.formats.dataset import Dataset, Picture, Shape, Source

FROM_ONE = "coordinates count pixels from 1, as VOC does: x1 = xmin - 1, x2 = xmax"
FROM_ZERO = "a coordinate is 0, so they are taken as edges from 0: x1 = xmin, x2 = xmax"
OVERRIDE = "(--first-pixel decides otherwise)"


def with_edges(dataset: Dataset, source: Source) -> Dataset:
    """The data set with boxes from edge to edge, where the reader left them as the file has them.

    VOC's pixel 1 is COCO's 0 … 1. Many tools write VOC files with edges from 0. A data set that
    holds a 0 cannot count from 1; in another one the two cannot be told apart.
    """
    first = source.first_pixel
    if first is None:
        lowest = [min(s.box[:2]) for picture in dataset.pictures for s in picture.shapes]
        first = 0 if lowest and min(lowest) < 1 else 1
        dataset.notes.append(f"{FROM_ONE if first else FROM_ZERO} {OVERRIDE}")
    pictures = [shifted(picture, first) for picture in dataset.pictures]
    return replace(dataset, pictures=pictures)


def shifted(picture: Picture, first: int) -> Picture:
    return replace(picture, shapes=[shifted_shape(shape, first) for shape in picture.shapes])


def shifted_shape(shape: Shape, first: int) -> Shape:
    x1, y1, x2, y2 = shape.box
    return replace(shape, box=(x1 - first, y1 - first, x2, y2))
