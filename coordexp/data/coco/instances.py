"""Convert one annotation to one object: its box, or its outline if polygons are preferred.

COCO coordinates run from edge to edge of a picture, 0 … W. Record coordinates run from the centre
of the first pixel to the centre of the last one, 0 … W - 1. Coordinates are scaled and then clipped
to W - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco_mask

from coordexp.data.coco.polygons import PolygonLimits, Ring, Simplified, simplify_outline
from coordexp.data.records import RecordObject, all_finite

DECIMALS = 4  # of a pixel, in records
# An overhang up to this is the rounding of the annotations (YOLO's six decimals), not told.
ROUNDED_PX = 0.01
ROTATED = "boxes with attributes.rotation, written as if upright: they are not the objects' extents"

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


class DroppedError(Exception):
    """An annotation gives no object; the message is the counted reason."""


class BoxInsteadError(Exception):
    """An annotation is written as its box although polygons are preferred; the message is why."""


@dataclass(frozen=True)
class Frame:
    """Width and height in px of the annotated picture, and of the record's picture."""

    annotated: tuple[int, int]
    record: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        return self.record[0] / self.annotated[0], self.record[1] / self.annotated[1]

    @property
    def last_pixel(self) -> tuple[float, float]:
        return self.record[0] - 1.0, self.record[1] - 1.0


@dataclass(frozen=True)
class Instance:
    object: RecordObject
    clipped: bool  # the annotation reaches beyond its picture, by more than rounding
    simplified: bool = False
    box_because: str = ""  # where an outline was preferred


def convert_instance(
    annotation: Mapping[str, Any],
    names: Mapping[Any, str],
    frame: Frame,
    limits: PolygonLimits | None = None,
) -> Instance:
    """The object of an annotation; without `limits` always its box.

    Raises:
        DroppedError: the annotation gives no object; the message is the reason.
    """
    name = names.get(annotation["category_id"])
    if name is None:
        raise DroppedError("unknown category")
    refuse_crowd(annotation.get("iscrowd"))
    x1, y1, x2, y2 = box = annotated_box(annotation, frame.annotated)
    width, height = frame.annotated
    clipped = max(-x1, -y1, x2 - width, y2 - height) > ROUNDED_PX
    pixels = box_in_record(box, frame)
    if limits is None:
        return Instance(RecordObject(name, "bbox_2d", pixels), clipped)
    try:
        outline = preferred_outline(annotation.get("segmentation"), frame, limits)
    except BoxInsteadError as reason:
        return Instance(RecordObject(name, "bbox_2d", pixels), clipped, box_because=str(reason))
    return Instance(RecordObject(name, "poly", outline.pixels), clipped, outline.simplified)


def is_rotated(annotation: Mapping[str, Any]) -> bool:
    """Whether CVAT turned the box: then it is not the extent of the object."""
    attributes = annotation.get("attributes")
    rotation: Any = attributes.get("rotation") if isinstance(attributes, Mapping) else None
    return all_finite([rotation]) and rotation % 360 != 0


def refuse_crowd(iscrowd: Any) -> None:
    """Raises DroppedError for a crowd region, or where `iscrowd` is not a number ("0" is not 0)."""
    if not isinstance(iscrowd, int | float | None):
        raise DroppedError("broken iscrowd")
    if iscrowd:
        raise DroppedError("crowd region")


def annotated_box(annotation: Mapping[str, Any], picture: tuple[int, int]) -> Box:
    """COCO's [x, y, width, height], or the extent of the mask where that is missing.

    Returns x1, y1, x2, y2 in px of the annotated picture.
    """
    box = annotation.get("bbox")
    if box is None:
        box = mask_box(annotation.get("segmentation"), picture)
    if not (isinstance(box, Sequence) and len(box) == 4 and all_finite(box)):
        raise DroppedError("broken box")
    x, y, w, h = (float(v) for v in box)
    if w <= 0 or h <= 0:
        raise DroppedError("no area")
    return x, y, x + w, y + h


def mask_box(segmentation: Any, picture: tuple[int, int]) -> list[float]:
    """[x, y, width, height] of polygons or of a run-length encoded mask, compressed or not."""
    if isinstance(segmentation, Mapping):
        return run_length_box(segmentation, picture)
    rings = polygon_parts(segmentation)
    if not rings:
        raise DroppedError("no box and no mask")
    xs: list[float] = []
    ys: list[float] = []
    for ring in rings:
        xs += ring[0::2]
        ys += ring[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def run_length_box(rle: Mapping[str, Any], picture: tuple[int, int]) -> list[float]:
    width, height = picture
    counts = rle.get("counts")
    runs = counts if isinstance(counts, list) else decompressed(counts)
    whole = all(type(run) is int and run >= 0 for run in runs) and sum(runs) == width * height
    if not whole or rle.get("size") != [height, width]:
        raise DroppedError("broken mask")
    return coco_mask.toBbox(
        coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    ).tolist()


def decompressed(counts: Any) -> list[int]:
    """The run lengths of a compressed mask.

    Each character encodes 5 bits. From the fourth run on, a run is stored as the difference from
    the run two before it. pycocotools decodes the same format (rleFrString) without checks: it
    reads beyond its memory if the text is truncated. For a truncated text this function returns
    [-1], which no mask has.

    Raises:
        DroppedError: a character outside the alphabet, or a run of too many characters.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts if isinstance(counts, str) else "\x00":
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DroppedError("broken mask")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        value -= (bits & 0x10) << (shift - 4)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else [-1]


def box_in_record(box: Box, frame: Frame) -> tuple[float, ...]:
    """The box in px of the record's picture: scaled, clipped, rounded."""
    (sx, sy), (last_x, last_y) = frame.scale, frame.last_pixel
    width, height = frame.annotated
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise DroppedError("outside the picture")

    def clipped(value: float, scale: float, last: float) -> float:
        return round(min(max(value * scale, 0.0), last), DECIMALS)

    x1, y1 = clipped(box[0], sx, last_x), clipped(box[1], sy, last_y)
    x2, y2 = clipped(box[2], sx, last_x), clipped(box[3], sy, last_y)
    if x1 >= x2 or y1 >= y2:
        raise DroppedError("no area")
    return x1, y1, x2, y2


def preferred_outline(segmentation: Any, frame: Frame, limits: PolygonLimits) -> Simplified:
    """The simplified outline.

    Raises:
        BoxInsteadError: the annotation is not a single polygon, or cannot be simplified to few
            vertices.
    """
    if isinstance(segmentation, Mapping):
        raise BoxInsteadError("a run-length encoded mask")
    if not isinstance(segmentation, list) or not segmentation:
        raise BoxInsteadError("no mask")
    if len(segmentation) > 1:
        raise BoxInsteadError("several parts")
    rings = outlines_in_record(segmentation, frame)
    if not rings:
        raise BoxInsteadError("a broken polygon")
    found = simplify_outline(rings[0], frame.last_pixel, limits, DECIMALS)
    if isinstance(found, str):
        raise BoxInsteadError(found)
    return found


def polygon_parts(segmentation: Any) -> list[list[float]]:
    """The valid polygons [x1, y1, …] of a segmentation; other parts are left out."""
    if not isinstance(segmentation, list):
        return []
    return [part for part in segmentation if _is_polygon(part)]


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and all_finite(part)


def outlines_in_record(segmentation: Any, frame: Frame) -> list[Ring]:
    """The polygons of a segmentation, scaled to the record's picture, not clipped."""
    sx, sy = frame.scale
    rings = []
    for part in polygon_parts(segmentation):
        points = zip(part[0::2], part[1::2], strict=True)
        rings.append([(x * sx, y * sy) for x, y in points])
    return rings


def drawn_outlines(annotation: Mapping[str, Any], obj: RecordObject, frame: Frame) -> list[Ring]:
    """Outlines to draw for a missing picture: the annotated polygons, or else the object's box."""
    if outlines := outlines_in_record(annotation.get("segmentation"), frame):
        return outlines
    x1, y1, x2, y2 = obj.box
    return [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]]
