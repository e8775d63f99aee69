"""A tile: a square of a picture, and the objects and pixels in it.

A training tile shows one object whole, chosen at random, at a random place in it; it has a random
size, and may be mirrored or turned. The tiles of a grid cover the picture and are never turned.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from coordexp.config.schema import CocoConfig, TileTurns
from coordexp.data.coco.instances import Box, DroppedError, Frame, box_in_record
from coordexp.data.records import Record, RecordObject

ZOOM = 4 / 3  # training tiles are at most so much larger or smaller than validation tiles
# How a square can be turned: mirrored left to right, then top to bottom, then along its diagonal.
TURNS = {
    TileTurns.none: ((False, False, False),),
    TileTurns.mirror: ((False, False, False), (True, False, False)),
    TileTurns.all: tuple(
        (mirrored, flipped, transposed)
        for mirrored in (False, True)
        for flipped in (False, True)
        for transposed in (False, True)
    ),
}


@dataclass(frozen=True)
class Tile:
    """A square of a picture, in its px."""

    left: int
    top: int
    side: int
    mirrored: bool = False
    flipped: bool = False
    transposed: bool = False


def random_tile(record: Record, side: int, settings: CocoConfig, rng: np.random.Generator) -> Tile:
    """A tile that shows a random object of the record whole, or a part of a larger one."""
    zoomed = side * math.exp(rng.uniform(-math.log(ZOOM), math.log(ZOOM)))
    fitted = max(2, min(round(zoomed), record.width, record.height))
    around: Box = (0, 0, record.width, record.height)  # anywhere
    if record.objects:
        around = edges(record.objects[rng.integers(len(record.objects))].box, record)
    left = offset_around(around[0], around[2], record.width, fitted, rng)
    top = offset_around(around[1], around[3], record.height, fitted, rng)
    turns = TURNS[settings.tile_turns]
    return Tile(left, top, fitted, *turns[rng.integers(len(turns))])


def offset_around(
    start: float, end: float, length: int, side: int, rng: np.random.Generator
) -> int:
    """Where an interval of `side` in 0 … `length` begins, at random, that holds `start` … `end`.

    Of a longer one it holds a part.
    """
    low, high = sorted((math.ceil(end) - side, math.floor(start)))
    most = length - side
    return int(rng.integers(min(max(low, 0), most), min(max(high, 0), most) + 1))


def grid(record: Record, side: int) -> list[Tile]:
    """The fewest tiles that cover a picture, evenly spaced; row by row."""
    fitted = min(side, record.width, record.height)
    lefts, tops = offsets(record.width, fitted), offsets(record.height, fitted)
    return [Tile(left, top, fitted) for top in tops for left in lefts]


def offsets(length: int, side: int) -> list[int]:
    """Where the fewest intervals of `side` begin that cover `length`, evenly spaced."""
    n = math.ceil(length / side)
    return [round(i * (length - side) / max(1, n - 1)) for i in range(n)]


def pixels_in(tile: Tile, picture: Image.Image, px: int) -> Image.Image:
    """The tile's picture, turned, with sides of `px`."""
    box = (tile.left, tile.top, tile.left + tile.side, tile.top + tile.side)
    cut = picture.crop(box).resize((px, px), Image.Resampling.BICUBIC)
    for is_done, how in (
        (tile.mirrored, Image.Transpose.FLIP_LEFT_RIGHT),
        (tile.flipped, Image.Transpose.FLIP_TOP_BOTTOM),
        (tile.transposed, Image.Transpose.TRANSPOSE),
    ):
        if is_done:
            cut = cut.transpose(how)
    return cut


def standardised(picture: Image.Image, contrast: float) -> Image.Image:
    """Each channel with mean 0.5 and standard deviation `contrast`, of 0 … 1; clipped.

    A microscope's picture is one bright tone with faint shapes: the tone is most of what a vision
    tower without pretraining receives, and it is the same everywhere.
    """
    pixels = np.asarray(picture, dtype=np.float32) / 255  # [H, W, 3]
    deviation = np.maximum(pixels.std((0, 1)), 1 / 255)  # of one tone: it stays one
    scaled = 0.5 + (pixels - pixels.mean((0, 1))) / deviation * contrast
    return Image.fromarray((255 * scaled.clip(0, 1)).round().astype(np.uint8))


def objects_in(
    tile: Tile, record: Record, px: int, min_visible: float, counts: Counter[str]
) -> list[RecordObject]:
    """The objects that are visible in the tile, clipped to it, in px of the tile's picture."""
    frame = Frame((tile.side, tile.side), (px, px))
    found = []
    for obj in record.objects:
        box = edges(obj.box, record)
        share = visible_share(box, tile)
        if share == 0:
            continue
        if share < min_visible:
            counts["objects too little of which is in the tile"] += 1
            continue
        try:
            pixels = box_in_record(box_in_tile(box, tile), frame)
        except DroppedError:  # thinner than the rounding of a record
            counts["objects without area"] += 1
            continue
        found.append(RecordObject(obj.desc, "bbox_2d", pixels))
    return found


def edges(box: Box, record: Record) -> Box:
    """The box as COCO measures it, from edge to edge: a record ends at the last pixel's centre."""
    x1, y1, x2, y2 = box
    right, bottom = record.width - 1, record.height - 1
    return x1, y1, x2 if x2 < right else record.width, y2 if y2 < bottom else record.height


def visible_share(box: Box, tile: Tile) -> float:
    """The part of the box's area that lies in the tile."""
    x1, y1, x2, y2 = box
    width = min(x2, tile.left + tile.side) - max(x1, tile.left)
    height = min(y2, tile.top + tile.side) - max(y1, tile.top)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((x2 - x1) * (y2 - y1))


def box_in_tile(box: Box, tile: Tile) -> Box:
    """The box in px of the tile, clipped to it, and turned as it is."""
    x1, x2 = (min(max(x - tile.left, 0.0), tile.side) for x in (box[0], box[2]))
    y1, y2 = (min(max(y - tile.top, 0.0), tile.side) for y in (box[1], box[3]))
    if tile.mirrored:
        x1, x2 = tile.side - x2, tile.side - x1
    if tile.flipped:
        y1, y2 = tile.side - y2, tile.side - y1
    if tile.transposed:
        x1, y1, x2, y2 = y1, x1, y2, x2
    return x1, y1, x2, y2
