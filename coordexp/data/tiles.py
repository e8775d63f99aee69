"""Square tiles cut from pictures: each shows a few objects, at a size that a small model can see.

Training tiles lie at random places, have random sizes, and may be mirrored or turned. Each is a
function of (seed, picture, number), so all variants train on the same ones. Validation tiles lie on
a grid that covers the picture, and are never changed.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from coordexp.config.schema import CocoConfig, TileTurns
from coordexp.data.coco.images import save_picture
from coordexp.data.coco.instances import Box, DroppedError, Frame, box_in_record
from coordexp.data.parallel import in_parallel
from coordexp.data.records import (
    ORDER,
    TILE,
    Record,
    RecordObject,
    in_order,
    read_records,
    reading_order,
    write_records,
)
from coordexp.errors import UserError

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


@dataclass(frozen=True)
class Cut:
    """What is cut from one picture, and where it is written below `images/<split>/`."""

    record: Record
    tiles: tuple[tuple[str, Tile], ...]


def cut_tiles(settings: CocoConfig, whole: Path, out: Path, workers: int) -> dict[str, Any]:
    """Write `out`/{train,val}.jsonl and the tiles they name, from the whole pictures in `whole`.

    Returns:
        Of each split, what conversion.json says of its tiles.

    Raises:
        UserError: no tile of a split holds an object.
    """
    records = {split: read_records(whole / f"{split}.jsonl") for split in ("train", "val")}
    side = side_of_tiles(records["train"], settings.tile_objects)
    shutil.rmtree(out / "images", ignore_errors=True)  # of a conversion that was killed
    reports = {}
    for split, cuts in (
        ("train", training_cuts(records["train"], side, settings)),
        ("val", validation_cuts(records["val"], side, settings)),
    ):
        write = partial(write_tiles, settings, whole, out, split)
        results = in_parallel(write, cuts, workers)
        label = f"{settings.name} {split} tiles"
        bar = tqdm(results, total=len(cuts), desc=label, unit="img", mininterval=1.0)
        written: list[Record] = []
        counts: Counter[str] = Counter()
        for tiles, counted in bar:
            written += tiles
            counts += counted
        if not written:
            raise UserError(
                f"{whole / f'{split}.jsonl'}: no tile of {side} px holds an object: raise "
                f"data.tile_objects={settings.tile_objects:g} or lower data.tile_min_visible="
                f"{settings.tile_min_visible:g}"
            )
        write_records(out / f"{split}.jsonl", written)
        n_objects = sum(len(record.objects) for record in written)
        told = note(split, side, len(records[split]), settings)
        reports[split] = {
            "tiles": {"kept": len(written), "side_px": side, "objects": n_objects, **counts},
            "noted": {told: len(written)},
        }
    return reports


def note(split: str, side: int, n_pictures: int, settings: CocoConfig) -> str:
    """What the card says of the tiles of a split, after their number."""
    how = "at random" if split == "train" else "on a grid"
    return (
        f"tiles of {'about ' if split == 'train' else ''}{side} px, cut {how} from {n_pictures} "
        f"pictures: the model sees tiles, not whole pictures, and an object counts where "
        f"{settings.tile_min_visible:.0%} of its box or more is in the tile"
    )


def side_of_tiles(records: Iterable[Record], n_sides: float) -> int:
    """The side of a validation tile in px: `n_sides` times the side of the median object."""
    boxes = np.array([obj.box for record in records for obj in record.objects])  # [N, 4]
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    return max(2, round(n_sides * float(np.median(sides))))


def training_cuts(records: Sequence[Record], side: int, settings: CocoConfig) -> list[Cut]:
    """`data.tile_train` random tiles, spread evenly over the pictures."""
    cuts = []
    for index, record in enumerate(records):
        n_tiles = len(range(index, settings.tile_train, len(records)))
        tiles = [
            random_tile(record, side, settings, np.random.default_rng([settings.seed, index, k]))
            for k in range(n_tiles)
        ]
        cuts.append(named_cut(index, record, tiles))
    return cuts


def random_tile(record: Record, side: int, settings: CocoConfig, rng: np.random.Generator) -> Tile:
    zoomed = side * math.exp(rng.uniform(-math.log(ZOOM), math.log(ZOOM)))
    fitted = max(2, min(round(zoomed), record.width, record.height))
    left = int(rng.integers(record.width - fitted + 1))
    top = int(rng.integers(record.height - fitted + 1))
    turns = TURNS[settings.tile_turns]
    return Tile(left, top, fitted, *turns[rng.integers(len(turns))])


def validation_cuts(records: Sequence[Record], side: int, settings: CocoConfig) -> list[Cut]:
    """The tiles of a grid over each picture; of all of them a sample of `data.tile_val`."""
    grids = [grid(record, side) for record in records]
    places = [(index, k) for index, tiles in enumerate(grids) for k in range(len(tiles))]
    drawn = np.random.default_rng([settings.seed, 2]).permutation(len(places))
    chosen = {places[i] for i in drawn[: settings.tile_val].tolist()}
    cuts = []
    for index, (record, tiles) in enumerate(zip(records, grids, strict=True)):
        kept = [tile for k, tile in enumerate(tiles) if (index, k) in chosen]
        cuts.append(named_cut(index, record, kept))
    return cuts


def grid(record: Record, side: int) -> list[Tile]:
    """The fewest tiles that cover a picture, evenly spaced; row by row."""
    fitted = min(side, record.width, record.height)
    lefts, tops = offsets(record.width, fitted), offsets(record.height, fitted)
    return [Tile(left, top, fitted) for top in tops for left in lefts]


def offsets(length: int, side: int) -> list[int]:
    """Where the fewest intervals of `side` begin that cover `length`, evenly spaced."""
    n = math.ceil(length / side)
    return [round(i * (length - side) / max(1, n - 1)) for i in range(n)]


def named_cut(index: int, record: Record, tiles: Sequence[Tile]) -> Cut:
    return Cut(record, tuple((f"{index:06d}-{k:03d}.jpg", tile) for k, tile in enumerate(tiles)))


def write_tiles(
    settings: CocoConfig, whole: Path, out: Path, split: str, cut: Cut
) -> tuple[list[Record], Counter[str]]:
    """Write the tiles of one picture; returns their records, and counts what is left out."""
    records, counts = [], Counter[str]()
    with Image.open(whole / cut.record.image) as opened:
        picture = opened.convert("RGB")
    if settings.tile_contrast is not None:
        picture = standardised(picture, settings.tile_contrast)
    for name, tile in cut.tiles:
        objects = objects_in(tile, cut.record, settings, counts)
        if not objects:
            counts["left out: no object in it"] += 1
            continue
        path = out / "images" / split / name
        save_picture(pixels_in(tile, picture, settings.tile_px or 0), path)
        metadata = cut.record.metadata | {TILE: {"of": cut.record.image, **vars(tile)}}
        if ORDER in metadata:
            rng = np.random.default_rng([settings.seed, *cut.record.image.encode(), tile.left])
            metadata[ORDER] = rng.permutation(len(objects)).tolist()
        ordered = in_order(reading_order(objects), metadata.get(ORDER))
        size = (settings.tile_px or 0,) * 2
        records.append(Record(str(path.relative_to(out)), *size, ordered, metadata))
    return records, counts


def standardised(picture: Image.Image, contrast: float) -> Image.Image:
    """Each channel with mean 0.5 and standard deviation `contrast`, of 0 … 1; clipped.

    A microscope's picture is one bright tone with faint shapes: the tone is most of what a vision
    tower without pretraining receives, and it is the same everywhere.
    """
    pixels = np.asarray(picture, dtype=np.float32) / 255  # [H, W, 3]
    deviation = np.maximum(pixels.std((0, 1)), 1 / 255)  # of one tone: it stays one
    scaled = 0.5 + (pixels - pixels.mean((0, 1))) / deviation * contrast
    return Image.fromarray((255 * scaled.clip(0, 1)).round().astype(np.uint8))


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


def objects_in(
    tile: Tile, record: Record, settings: CocoConfig, counts: Counter[str]
) -> list[RecordObject]:
    """The objects that are visible in the tile, clipped to it, in px of the tile's picture."""
    px = settings.tile_px or 0
    frame = Frame((tile.side, tile.side), (px, px))
    found = []
    for obj in record.objects:
        box = edges(obj.box, record)
        share = visible_share(box, tile)
        if share == 0:
            continue
        if share < settings.tile_min_visible:
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
