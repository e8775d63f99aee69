"""Matrix products with the output head [V, d], and the memory for a chunk's logits.

Half precision needs three measures. A GPU is slow if the vocabulary is not a multiple of the tile
size, so the product is split (`whole_tiles`). Sums over tokens are accumulated in float32. Logits
stay in half precision only if the Triton kernel reads them (`chunk.has_kernel`); otherwise they are
converted to float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.losses.chunk import has_kernel

CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 640 << 20}  # of a chunk's logits

# On a GPU, a half-precision product takes twice as long if the vocabulary is not a multiple of
# this.
TILE = 64

# In half precision on a CPU, the head's gradient is computed for this many of its rows at a time,
# and accumulated in float32.
HEAD_BLOCK = 1 << 15


def product(hidden: Tensor, head: Tensor, out: Tensor) -> Tensor:
    """hidden @ head.T, written into `out`  # [n, d], [V, d], [n, V] -> [n, V]

    `out` may have a wider dtype than `hidden` and `head`.
    """
    for tile in whole_tiles(len(head), hidden.dtype):
        if hidden.dtype == out.dtype:
            torch.mm(hidden, head[tile].T, out=out[:, tile])
        else:
            out[:, tile] = hidden @ head[tile].T
    return out


def whole_tiles(vocabulary: int, dtype: torch.dtype) -> list[slice]:
    """Slices of the vocabulary: one; in half precision a multiple of TILE, and the remainder."""
    rest = vocabulary % TILE if dtype.itemsize < 4 else 0
    parts = [slice(0, vocabulary - rest), slice(vocabulary - rest, vocabulary)]
    return [part for part in parts if part.start < part.stop]


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, accumulated in the dtype of `total`  # [V, d], [V, n], [n, d]

    `total` may have a wider dtype than `a` and `b`.
    """
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, total.dtype, out=total)
    else:
        for block, rows in zip(total.split(HEAD_BLOCK), a.split(HEAD_BLOCK), strict=True):
            block += rows @ b


def held_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which logits are stored after a product in `dtype`, on this device type."""
    return dtype if has_kernel(device, dtype) else torch.promote_types(dtype, torch.float32)


def buffer(n_rows: int, vocabulary: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Memory for a chunk of logits whose product is computed in `dtype`  # [n_rows, V]"""
    held = held_dtype(device.type, dtype)
    width = vocabulary
    if held.itemsize < 4:  # pad the rows so that each starts at a full tile
        width += -vocabulary % TILE
    return torch.empty(n_rows, width, device=device, dtype=held)[:, :vocabulary]


def rows_at_once(vocabulary: int, device: str, dtype: torch.dtype) -> int:
    """The largest power of two of tokens whose logits stay within CHUNK_BYTES, at least 1."""
    row_bytes = held_dtype(device, dtype).itemsize * vocabulary
    fits = CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]) // row_bytes
    return 1 << max(fits, 1).bit_length() - 1


def chunk_bytes(n_rows: int, vocabulary: int, device: str, dtype: torch.dtype) -> int:
    """Memory that a pass over `n_rows` tokens needs for the logits of one chunk, bytes.

    If logits are converted to float32, the half-precision product exists at the same time.
    """
    held = held_dtype(device, dtype)
    element_bytes = held.itemsize
    if held != dtype:
        element_bytes += dtype.itemsize
    return min(rows_at_once(vocabulary, device, dtype), n_rows) * vocabulary * element_bytes
