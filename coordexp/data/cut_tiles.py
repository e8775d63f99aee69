"""Cut pictures into tiles, which show a few objects at a size that a small model can see.

Each tile is a function of (seed, picture, number), so all variants train on the same ones.
"""

from __future__ import annotations

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

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.conversion import NothingLeftError
from coordexp.data.coco.images import save_picture
from coordexp.data.parallel import in_parallel
from coordexp.data.records import (
    ORDER,
    TILE,
    Record,
    in_order,
    read_records,
    reading_order,
    write_records,
)
from coordexp.data.tiles import Tile, grid, objects_in, pixels_in, random_tile, standardised


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
        NothingLeftError: no tile of a split holds an object.
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
            raise NothingLeftError(
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
    least = settings.tile_min_visible
    counting = "all of its box" if least == 1 else f"{least:.0%} of its box or more"
    return (
        f"tiles of {'about ' if split == 'train' else ''}{side} px, cut {how} from {n_pictures} "
        f"pictures: the model sees tiles, not whole pictures, and an object counts where "
        f"{counting} is in the tile"
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


def named_cut(index: int, record: Record, tiles: Sequence[Tile]) -> Cut:
    return Cut(record, tuple((f"{index:06d}-{k:03d}.jpg", tile) for k, tile in enumerate(tiles)))


def write_tiles(
    settings: CocoConfig, whole: Path, out: Path, split: str, cut: Cut
) -> tuple[list[Record], Counter[str]]:
    """Write the tiles of one picture; returns their records, and counts what is left out."""
    px = settings.tile_px
    assert px is not None, "tiles are asked for"
    records, counts = [], Counter[str]()
    with Image.open(whole / cut.record.image) as opened:
        picture = opened.convert("RGB")
    if settings.tile_contrast is not None:
        picture = standardised(picture, settings.tile_contrast)
    for name, tile in cut.tiles:
        objects = objects_in(tile, cut.record, px, settings.tile_min_visible, counts)
        if not objects:
            counts["left out: no object in it"] += 1
            continue
        path = out / "images" / split / name
        save_picture(pixels_in(tile, picture, px), path)
        metadata = cut.record.metadata | {TILE: {"of": cut.record.image, **vars(tile)}}
        if ORDER in metadata:
            rng = np.random.default_rng([settings.seed, *name.encode()])
            metadata[ORDER] = rng.permutation(len(objects)).tolist()
        ordered = in_order(reading_order(objects), metadata.get(ORDER))
        records.append(Record(str(path.relative_to(out)), px, px, ordered, metadata))
    return records, counts
