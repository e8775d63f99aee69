"""Pictures as training wants them: upright, RGB, sides in multiples of 32 px within a budget. And drawn ones."""

from __future__ import annotations

import colorsys
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from coordexp.data.coco.polygons import Ring
from coordexp.storage.files import naming_full_disk

CELL_PX = 32  # what one visual token covers: a patch of 16 px, merged 2 x 2
MAX_SOURCE_PX = 40_000_000  # a picture whose header claims more is not decoded
JPEG_QUALITY = 95
ORIENTATION = 0x0112  # the Exif tag

# What pictures of data sets come in (MPO is JPEG's). Not the forty others that Pillow knows, of which one runs
# Ghostscript, and some raise on damage whatever comes.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "TIFF", "GIF", "BMP", "PPM")
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    RuntimeError,
)  # what these raise on broken files


class LeftOutError(Exception):
    """Why a picture does not become a record: a reason to be counted, and what was found."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason, found)
        self.reason, self.found = reason, found


def fitted_size(width: int, height: int, pixel_budget: int) -> tuple[int, int]:
    """The nearest sides in multiples of 32 px, shrunk in proportion where they exceed the budget (of at least one cell).

    `smart_resize` of Qwen2-VL's image processor without its lower bound; a picture longer than the budget allows at
    one cell's height, which that would let through, is shortened.
    """
    cells = [max(1, round(side / CELL_PX)) for side in (width, height)]
    budget_cells = pixel_budget // CELL_PX**2
    if cells[0] * cells[1] * CELL_PX**2 > pixel_budget:
        shrink = math.sqrt(width * height / pixel_budget)
        cells = [max(1, math.floor(side / shrink / CELL_PX)) for side in (width, height)]
        if cells[0] * cells[1] > budget_cells:
            cells = [min(side, budget_cells // min(cells)) for side in cells]
    return cells[0] * CELL_PX, cells[1] * CELL_PX


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture, its header read, to be decoded within.

    Raises:
        LeftOutError: too large (known before anything is decoded), or not readable, here or when it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; of size, which is looked at here
            # from a file, not its name: Pillow maps a TIFF into memory in the size that it has when turned
            with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_SOURCE_PX:
                    found = f"{picture.width} x {picture.height} px, more than {MAX_SOURCE_PX // 10**6} megapixels"
                    raise LeftOutError("picture too large", found)
                yield picture
    except Image.DecompressionBombError as error:
        raise LeftOutError("picture too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise LeftOutError(
            "picture not readable", f"none of {', '.join(FORMATS)}, or its header is broken"
        ) from error
    except UNREADABLE as error:
        raise LeftOutError("picture not readable", str(error)) from error


def read_picture(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture in RGB as it was annotated, at `size`.

    The pixels are taken as they are stored, whose size COCO tells, unless only its Exif orientation gives that size.

    Raises:
        LeftOutError: too large, not readable, or of another size.
    """
    with opened(path) as stored:
        turned = stored.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        if stored.size != size and not (turned and stored.size[::-1] == size):
            raise of_another_size(stored, size)
        picture = stored if stored.size == size else ImageOps.exif_transpose(stored)
        if picture.size != size:  # a TIFF, which Pillow turns by itself
            raise of_another_size(picture, size)
        if picture.mode.startswith("I;16"):  # of which Pillow would keep the lower byte
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture.convert("RGB")


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
    """Named shapes on a plain ground, large ones first, each name in its own colour. The same every time."""
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
    """As JPEG or PNG by its name, without metadata; renamed when whole. Not fsynced: it can be made again."""
    temporary = path.with_name(
        f".{os.getpid()}.tmp"
    )  # one at a time a process; short, because names may be long
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(
            temporary, format=kind, quality=JPEG_QUALITY, compress_level=1
        )  # each takes what is its own
        os.replace(temporary, path)
