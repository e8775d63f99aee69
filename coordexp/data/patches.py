"""Convert pictures to patches for the vision tower.

The values equal those of transformers' image processor, in less time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def pixel_value_table(images: Any) -> np.ndarray:
    """Lookup table of normalised pixel values, computed by the image processor itself.

    It holds the value of each of the 256 bytes for each channel.

    Returns: [3, 256] float32
    """
    bytes_ = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    return images.normalize(
        images.rescale(bytes_, images.rescale_factor), images.image_mean, images.image_std
    )[:, 0]


def patches_of(picture: Image.Image, images: Any, table: np.ndarray) -> np.ndarray:
    """`pixel_values` of one picture, bit for bit equal to those of the image processor.

    The image processor normalises each pixel in float64 and then moves the floats. This function
    moves the bytes, and then looks each one up in `table`.

    Args:
        picture: RGB, [H, W].
        images: the image processor.
        table: `pixel_value_table(images)`, [3, 256].

    Returns: [n patches, d] float32; patches of a cell stand together
    """
    side, merged, frames = images.patch_size, images.merge_size, images.temporal_patch_size
    rows, columns = (length // (side * merged) for length in (picture.height, picture.width))
    cells = np.asarray(picture).reshape(rows, merged, side, columns, merged, side, 3)
    of_channel = cells.transpose(6, 0, 3, 1, 4, 2, 5).reshape(3, -1, side * side)
    patches = np.empty((of_channel.shape[1], 3, frames, side * side), np.float32)
    for channel, bytes_ in enumerate(of_channel):
        patches[:, channel] = np.take(table[channel], bytes_, mode="clip")[:, None]
    return patches.reshape(len(patches), -1)
