"""Pictures as the patches the vision tower takes: the numbers of the library's image processor, in half its time."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def pixel_value_table(images: Any) -> np.ndarray:
    """What the image processor makes of each byte of a channel, by its own arithmetic  # [3, 256] float32"""
    bytes_ = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    return images.normalize(
        images.rescale(bytes_, images.rescale_factor), images.image_mean, images.image_std
    )[:, 0]


def patches_of(picture: Image.Image, images: Any, table: np.ndarray) -> np.ndarray:
    """`pixel_values` of one picture, bit for bit the image processor's, which looks at each pixel in float64 instead  # [n, d]"""
    pixels = np.asarray(picture).transpose(2, 0, 1)
    values = np.stack([of_byte[channel] for of_byte, channel in zip(table, pixels, strict=True)])
    return images.patchify(
        values, images.patch_size, images.merge_size, images.temporal_patch_size
    )[0]
