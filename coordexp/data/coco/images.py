"""Pictures for training: upright, RGB, sides in multiples of 32 px; and drawn ones."""

from __future__ import annotations

import colorsys
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from coordexp.data.coco.polygons import Ring
from coordexp.data.pictures import ORIENTATION, TURNING, LeftOutError, eight_bit, opened
from coordexp.storage.files import naming_full_disk

CELL_PX = 32  # what one visual token covers: a patch of 16 px, merged 2 x 2
JPEG_QUALITY = 95

# What is told of pictures with an Exif orientation other than upright.
TURNED = "pictures turned as Exif says, because the annotated size is the displayed one"
NOT_TURNED = "pictures not turned as Exif says, because the annotated size is the stored one"
UNDECIDED = (
    "pictures that Exif mirrors or turns without another size, used as stored: look at them, "
    "their boxes may be as displayed"
)


def fitted_size(width: int, height: int, pixel_budget: int) -> tuple[int, int]:
    """The nearest sides in multiples of 32 px, scaled down if the picture exceeds the budget.

    This is `smart_resize` of Qwen2-VL's image processor without its lower bound, and with one
    difference: `smart_resize` returns a size over the budget for a picture that is one cell high
    and very long. Here such a picture is shortened.

    Args:
        pixel_budget: px of the whole picture, at least one cell (32 x 32).
    """
    columns = max(1, round(width / CELL_PX))
    rows = max(1, round(height / CELL_PX))
    if columns * rows * CELL_PX**2 > pixel_budget:
        # Scale both sides by the factor that makes the area equal to the budget; round down.
        shrink = math.sqrt(width * height / pixel_budget)
        columns = max(1, math.floor(width / shrink / CELL_PX))
        rows = max(1, math.floor(height / shrink / CELL_PX))
        # Rounding a side up to one cell can exceed the budget again: shorten the longer side.
        budget_cells = pixel_budget // CELL_PX**2
        if columns * rows > budget_cells:
            longest = budget_cells // min(columns, rows)
            columns, rows = min(columns, longest), min(rows, longest)
    return columns * CELL_PX, rows * CELL_PX


def read_picture(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture in RGB as it was annotated, at `size`.

    COCO gives the size of the stored pixels, so they are used as they are. The Exif orientation is
    applied only if the stored size is the transposed annotated size.

    Raises:
        LeftOutError: too large, not readable, or of another size.
    """
    with opened(path) as stored:
        turned = stored.getexif().get(ORIENTATION) in TURNING
        if stored.size != size and not (turned and stored.size[::-1] == size):
            raise of_another_size(stored, size)
        picture = stored if stored.size == size else ImageOps.exif_transpose(stored)
        if picture.size != size:  # a TIFF: Pillow rotates it by itself
            raise of_another_size(picture, size)
        return eight_bit(picture).convert("RGB")


def orientation_note(path: Path, size: tuple[int, int]) -> str | None:
    """What to know of a picture that an Exif orientation mirrors or turns; None without one.

    Args:
        size: as annotated.
    """
    with opened(path) as stored:
        orientation = stored.getexif().get(ORIENTATION, 1)
        if orientation not in range(2, 9):
            return None
        if stored.format == "TIFF" or stored.size != size:
            return TURNED
        return NOT_TURNED if orientation in TURNING and size[0] != size[1] else UNDECIDED


def of_another_size(picture: Image.Image, size: tuple[int, int]) -> LeftOutError:
    return LeftOutError(
        "picture of another size",
        f"{picture.width} x {picture.height} px, annotated as {size[0]} x {size[1]}",
    )


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def rendered(
    size: tuple[int, int], shapes: Sequence[tuple[str, Sequence[Ring]]], seed: str
) -> Image.Image:
    """Named shapes on a plain background, large ones first, a colour per name; deterministic."""
    shade = 90 + zlib.crc32(seed.encode()) % 101
    picture = Image.new("RGB", size, (shade, shade, shade))
    draw = ImageDraw.Draw(picture)
    for name, rings in sorted(shapes, key=lambda shape: -sum(extent(ring) for ring in shape[1])):
        for ring in rings:
            draw.polygon(ring, fill=colour_of(name))
    return picture


def extent(ring: Ring) -> float:
    """Area of its box, px²."""
    xs, ys = [x for x, _ in ring], [y for _, y in ring]
    return (max(xs) - min(xs)) * (max(ys) - min(ys))


def colour_of(name: str) -> tuple[int, int, int]:
    digest = zlib.crc32(name.encode())
    hue, value = digest % 360 / 360, (1.0, 0.75, 0.5)[digest // 360 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a JPEG or PNG, by its name, without metadata.

    It is written to a temporary name and renamed. There is no fsync: it can be made again.
    """
    # A short temporary name, because the picture's own name may be at the limit. It is unique
    # because a process writes one picture at a time.
    temporary = path.with_name(f".{os.getpid()}.tmp")
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # JPEG reads `quality`, PNG reads `compress_level`; each ignores the other's.
        picture.save(temporary, format=kind, quality=JPEG_QUALITY, compress_level=1)
        os.replace(temporary, path)
