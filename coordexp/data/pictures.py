"""Open pictures that may come from anywhere: by content, within a size, with one kind of error."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_SOURCE_PX = 40_000_000  # a picture whose header claims more is not decoded
ORIENTATION = 0x0112  # the Exif tag
TURNING = (5, 6, 7, 8)  # its values that swap width and height

# The formats of pictures in data sets (JPEG covers MPO). Pillow knows forty others: one of them
# runs Ghostscript, and some raise unpredictable errors on damaged files.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "TIFF", "GIF", "BMP", "PPM")
# The exceptions that decoders of these formats raise on broken files.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError)


class LeftOutError(Exception):
    """A picture does not become a record. It holds the reason that is counted, and the details."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(reason, found)
        self.reason, self.found = reason, found


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture: the header is read, the pixels are decoded inside the `with` block.

    Raises:
        LeftOutError: the picture is too large (by its header, before decoding), or the header or
            the pixels are not readable.
    """
    try:
        with warnings.catch_warnings():
            # Ignore Pillow's warnings about metadata and about sizes; sizes are checked below.
            warnings.simplefilter("ignore")
            # Give Pillow a file, not a name: a named TIFF is memory-mapped with the size it has
            # after its rotation.
            with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_SOURCE_PX:
                    limit = f"more than {MAX_SOURCE_PX // 10**6} megapixels"
                    found = f"{picture.width} x {picture.height} px, {limit}"
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


def eight_bit(picture: Image.Image) -> Image.Image:
    """A 16-bit picture with 8 bits; any other as it is."""
    if picture.mode.startswith("I;16"):  # convert() would keep the lower byte
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture
