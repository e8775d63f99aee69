"""The softmax over the vocabulary and its gradient as one Triton kernel: what `chunk.words_to_gradient_` is on a GPU.

A row of logits is read once for its maximum and its sums of exponentials, and once more to be overwritten by its
gradient; everything between is in float32 registers, so the logits themselves may be in half precision. Written out in
PyTorch the same reads or writes them ten times on text and fifteen on coordinates, nearly always in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8  # columns at once, and the warps that share them


@triton.jit
def _rows(z, stride, bins_1, bins_t, scale, targets, top, lse_1, lse_t, n_columns, per_t,
          COOL: tl.constexpr, TARGETED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One row a program. COOL: T is not 1. TARGETED: the row has a word for its target."""
    row = tl.program_id(0).to(tl.int64)
    z += row * stride
    columns = tl.arange(0, BLOCK)
    whole = (
        n_columns // BLOCK * BLOCK
    )  # what lies behind is masked; where nothing is, loads are as wide as can be
    inside = whole + columns < n_columns

    highest = tl.full(
        [BLOCK], float("-inf"), tl.float32
    )  # each lane keeps its own maximum and sums
    sum_1 = tl.zeros([BLOCK], tl.float32)
    sum_t = tl.zeros([BLOCK], tl.float32)
    for first in range(0, whole, BLOCK):
        highest, sum_1, sum_t = _with(
            tl.load(z + first + columns), highest, sum_1, sum_t, per_t, COOL
        )
    rest = tl.load(z + whole + columns, mask=inside, other=float("-inf"))
    highest, sum_1, sum_t = _with(rest, highest, sum_1, sum_t, per_t, COOL)

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

    factor = tl.load(scale)
    target = tl.load(targets + row) if TARGETED else -1
    for first in range(0, whole, BLOCK):
        x = tl.load(z + first + columns)
        tl.store(
            z + first + columns,
            _gradient(x, all_t, per_t, factor, first + columns == target, TARGETED),
        )
    gradient = _gradient(rest, all_t, per_t, factor, whole + columns == target, TARGETED)
    tl.store(z + whole + columns, gradient, mask=inside)


@triton.jit
def _with(x, highest, sum_1, sum_t, per_t, COOL: tl.constexpr):
    """The lanes' maxima, and their sums of exp(x - maximum) at 1 and at T, with one more logit each."""
    x = x.to(tl.float32)
    higher = tl.maximum(highest, x)
    base = tl.where(higher == float("-inf"), 0.0, higher)  # exp(-inf - -inf) is no number
    sum_1 = sum_1 * tl.exp(highest - base) + tl.exp(x - base)
    if COOL:
        sum_t = sum_t * tl.exp((highest - base) * per_t) + tl.exp((x - base) * per_t)
    return higher, sum_1, sum_t


@triton.jit
def _gradient(x, lse, per_t, factor, is_target, TARGETED: tl.constexpr):
    gradient = factor * tl.exp(x.to(tl.float32) * per_t - lse)
    if TARGETED:
        gradient -= tl.where(is_target, factor, 0.0)
    return gradient.to(x.dtype)


@triton.jit
def _log_add_exp(a, b):
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
    """As `chunk.words_to_gradient_`; `bins_1` and `bins_t` [n, 1] are lse(s) at 1 and at T. Rows of `z` may lie apart."""
    assert z.stride(1) == 1
    bins_1, bins_t = bins_1.contiguous(), bins_t.contiguous()
    top, lse_1, lse_t = (torch.empty_like(bins_1) for _ in range(3))
    if len(z):
        targets = top if targets is None else targets.contiguous()
        _rows[(len(z),)](
            *(z, z.stride(0), bins_1, bins_t, scale, targets, top, lse_1, lse_t, z.shape[1], 1 / temperature),
            COOL=temperature != 1, TARGETED=targets is not top, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return top, lse_1, lse_t
