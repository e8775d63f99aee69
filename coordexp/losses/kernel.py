"""The GPU kernel (Triton) of `chunk.words_to_gradient_`: softmax over the vocabulary, and gradient.

It reads a row of logits once for its maximum and its sums of exponentials, and a second time to
overwrite it with its gradient. Intermediate values are float32 in registers, so the logits may be
in half precision. Plain PyTorch reads or writes the logits ten times for text tokens and fifteen
times for coordinate tokens, mostly in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8  # columns processed at once, and the warps that share them


@triton.jit
def _rows(z, stride, bins_1, bins_t, scale, targets, top, lse_1, lse_t, n_columns, per_t,
          COOL: tl.constexpr, TARGETED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One program per row of z. COOL: T is not 1. TARGETED: the row's target is a word.

    `per_t` is 1 / T. `bins_1` and `bins_t` hold lse(s) of the row at 1 and at T; `top`, `lse_1` and
    `lse_t` are written.
    """
    row = tl.program_id(0).to(tl.int64)
    z += row * stride
    columns = tl.arange(0, BLOCK)
    # Only the last, incomplete block is masked: an unmasked load is as wide as the hardware allows.
    whole = n_columns // BLOCK * BLOCK
    inside = whole + columns < n_columns

    # First pass. Each lane computes the maximum and the sums of its own columns.
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    sum_1 = tl.zeros([BLOCK], tl.float32)
    sum_t = tl.zeros([BLOCK], tl.float32)
    for first in range(0, whole, BLOCK):
        highest, sum_1, sum_t = _with(
            tl.load(z + first + columns), highest, sum_1, sum_t, per_t, COOL
        )
    rest = tl.load(z + whole + columns, mask=inside, other=float("-inf"))
    highest, sum_1, sum_t = _with(rest, highest, sum_1, sum_t, per_t, COOL)

    # Reduce over the lanes, then add the bins.
    peak = tl.max(highest, 0)
    words_1 = peak + tl.log(tl.sum(sum_1 * tl.exp(highest - peak), 0))
    all_1 = _log_add_exp(words_1, tl.load(bins_1 + row))
    all_t = all_1
    if COOL:
        words_t = peak * per_t + tl.log(tl.sum(sum_t * tl.exp((highest - peak) * per_t), 0))
        all_t = _log_add_exp(words_t, tl.load(bins_t + row))
    tl.store(top + row, peak)
    tl.store(lse_1 + row, all_1)
    tl.store(lse_t + row, all_t)

    # Second pass: overwrite the logits. The incomplete block is still in registers.
    factor = tl.load(scale)
    target = tl.load(targets + row) if TARGETED else -1
    for first in range(0, whole, BLOCK):
        x = tl.load(z + first + columns)
        gradient = _gradient(x, all_t, per_t, factor, first + columns == target, TARGETED)
        tl.store(z + first + columns, gradient)
    gradient = _gradient(rest, all_t, per_t, factor, whole + columns == target, TARGETED)
    tl.store(z + whole + columns, gradient, mask=inside)


@triton.jit
def _with(x, highest, sum_1, sum_t, per_t, COOL: tl.constexpr):
    """Each lane's maximum and sums of exp(x - maximum) at 1 and at T, after one more logit x."""
    x = x.to(tl.float32)
    higher = tl.maximum(highest, x)
    base = tl.where(higher == float("-inf"), 0.0, higher)  # exp(-inf - -inf) is NaN
    sum_1 = sum_1 * tl.exp(highest - base) + tl.exp(x - base)
    if COOL:
        sum_t = sum_t * tl.exp((highest - base) * per_t) + tl.exp((x - base) * per_t)
    return higher, sum_1, sum_t


@triton.jit
def _gradient(x, lse, per_t, factor, is_target, TARGETED: tl.constexpr):
    """factor (softmax(x / T) - onehot), in the dtype of x."""
    gradient = factor * tl.exp(x.to(tl.float32) * per_t - lse)
    if TARGETED:
        gradient -= tl.where(is_target, factor, 0.0)
    return gradient.to(x.dtype)


@triton.jit
def _log_add_exp(a, b):
    """log(exp(a) + exp(b)) without overflow."""
    larger = tl.maximum(a, b)
    return larger + tl.log(tl.exp(a - larger) + tl.exp(b - larger))


def words_to_gradient_(
    z: Tensor,
    bins_1: Tensor,
    bins_t: Tensor,
    scale: Tensor,
    temperature: float,
    targets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunk.words_to_gradient_`, with lse(s) of the bins at 1 and at T instead of s.

    Args:
        z: [n, V] logits of the words, on a GPU. Its columns are contiguous; its rows may be apart.
        bins_1, bins_t: [n, 1] lse of the bins' logits at 1 and at T.
        scale: scalar tensor on the same GPU.
        temperature: T.
        targets: [n, 1] token ids, or None.
    """
    assert z.stride(1) == 1
    bins_1, bins_t = bins_1.contiguous(), bins_t.contiguous()
    top, lse_1, lse_t = (torch.empty_like(bins_1) for _ in range(3))
    if len(z):
        targeted = targets is not None
        # A kernel argument cannot be None. Without targets pass any pointer: it is not read.
        target_pointer = top if targets is None else targets.contiguous()
        inputs = (z, z.stride(0), bins_1, bins_t, scale, target_pointer)
        outputs = (top, lse_1, lse_t)
        _rows[(len(z),)](
            *inputs, *outputs, z.shape[1], 1 / temperature,
            COOL=temperature != 1, TARGETED=targeted, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return top, lse_1, lse_t
