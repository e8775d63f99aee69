"""The objective from hidden states, in one pass over row chunks, with its gradients formed in the forward.

The full logits [N, V] never exist: a chunk's logits become probabilities and then their own gradient in place, and
leave as two matrix products, into the gradient of the hidden states and into that of the head. All that a log row or a
token table asks about is read off on the way. Same numbers as `reference.objective`, for every variant:

    text row          L = lse(z) - z_y                 dL/dz = softmax(z) - onehot(y)
    coordinate row    L = alpha lse(z / T) + f(z_C)    dL/dz = alpha softmax(z / T) / T,  + f'(z_C) on the bins

alpha, T and f are the variant's (`chunk.py`, `slices.py`). The bins have a matrix product of their own, in at least float32: they
may be the only rows of the head that are trained, and which of them is the highest matters to a hair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coordexp.losses.chunk import coord_rows, text_rows
from coordexp.losses.terms import SUMS, Output, group_scales, total_loss
from coordexp.schema import VariantConfig

CHUNK_BYTES = {"cpu": 96 << 20, "cuda": 384 << 20}  # of a chunk's logits in float32: larger products are faster ones
HEAD_BLOCK = 1 << 15  # rows of the head whose gradient is formed at once in half precision, and added up in float32


def objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bins: Tensor,
    coord_ids: Tensor,
    variant: VariantConfig,
    denominators: Tensor,
    *,
    world: int = 1,
    coord_weight: Tensor | None = None,
    chunk_rows: int | None = None,
) -> Output:
    """Loss, sums and columns of N supervised rows; the loss is differentiable in `hidden`, `weight` and `coord_weight`.

    Args:
        hidden: [N, d] of the positions whose next token is supervised.
        weight: [V, d] of the output head. Where it is frozen no gradient of it is formed.
        targets: [N] token ids.
        bins: [N] ground-truth bin, or -1 on text.
        coord_ids: [K] token ids of the bins, in order.
        denominators: [2] text and coordinate tokens of the whole optimizer step.
        world: ranks over which gradients are averaged; the loss is multiplied by it.
        coord_weight: [K, d], stands in for `weight[coord_ids]`: what an adapter trains of the head.
        chunk_rows: rows at once; default: what CHUNK_BYTES allows, a power of two.

    The gradients are handed over by the first `backward`; a second one raises. In half precision (that of `hidden`, or
    of an autocast region) the products over the vocabulary are taken in it, and everything else in float32.
    """
    on_coord = (bins >= 0).nonzero()[:, 0]
    rows = Rows(
        order=torch.cat([(bins < 0).nonzero()[:, 0], on_coord]),
        bins=bins[on_coord],
        targets=targets,
        coord_ids=coord_ids,
        variant=variant,
        denominators=denominators,
        world=world,
        chunk=chunk_rows or rows_at_once(weight.shape[0], hidden.device.type),
        forms_gradients=torch.is_grad_enabled(),
    )
    loss, sums, columns, logits = Fused.apply(hidden, weight, coord_weight, rows)
    named = {"hit": columns[0] > 0, "argmax_bin": columns[1].long(), "coord_mass": columns[2], "abs_err": columns[3]}
    return Output(loss, sums, named, None if rows.forms_gradients else logits)


@dataclass(frozen=True)
class Rows:
    """What is asked of N rows, C of them coordinates."""

    order: Tensor  # [N] where a row lies among the hidden states: text first, then coordinates
    bins: Tensor  # [C]
    targets: Tensor  # [N], in the order of the hidden states
    coord_ids: Tensor  # [K]
    variant: VariantConfig
    denominators: Tensor  # [2]
    world: int
    chunk: int
    forms_gradients: bool

    def of_chunk(self, first: int) -> tuple[int, Tensor]:
        """Of the chunk that begins at row `first`: how many of its rows are text, and the bins of the others."""
        n_text = len(self.order) - len(self.bins)
        text = min(max(n_text - first, 0), self.chunk)
        return text, self.bins[max(first - n_text, 0) : max(first + self.chunk - n_text, 0)]


@dataclass
class Gradients:
    """Of those inputs that want one, a factor `unit` too large: half precision would lose 1 / D_g to underflow."""

    hidden: Tensor | None  # [N, d]
    weight: Tensor | None  # [V, d]
    coord_weight: Tensor | None  # [K, d]
    unit: Tensor

    def add(self, at: Tensor, h: Tensor, dz: Tensor, head: Tensor, ds: Tensor | None, bins_head: Tensor) -> None:
        """A chunk's share  # [n], [n, d], [n, V], [V, d]; [n, K], [K, d] where the bins have a product of their own"""
        if self.hidden is not None:
            dh = dz @ head
            self.hidden[at] = (dh if ds is None else dh + ds @ bins_head).to(self.hidden)
        if self.coord_weight is not None and ds is not None:
            self.coord_weight.addmm_(ds.T, h.to(ds))
        if self.weight is not None and dz.dtype == self.weight.dtype:
            self.weight.addmm_(dz.T, h)
        elif self.weight is not None:
            for block, some in zip(self.weight.split(HEAD_BLOCK), dz.split(HEAD_BLOCK, dim=1), strict=True):
                block += some.T @ h.to(dz)


class Fused(torch.autograd.Function):
    """(hidden, weight, coord_weight) -> loss, and without gradients: sums, columns [4, C], the bins' logits [C, K]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, coord_weight: Tensor | None, rows: Rows) -> tuple[Tensor, ...]:
        wanted = [rows.forms_gradients and needed for needed in ctx.needs_input_grad[:3]]
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            *found, ctx.gradients = one_pass(hidden, weight, coord_weight, rows, wanted, dtype)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, coord_weight)]
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused objective hands its gradients over once: a second backward has none")
        found, ctx.gradients = ctx.gradients, None
        factor = found.unit * grad_loss
        each = zip((found.hidden, found.weight, found.coord_weight), ctx.dtypes, strict=True)
        return *(None if gradient is None else gradient.mul_(factor).to(dtype) for gradient, dtype in each), None


def one_pass(
    hidden: Tensor, weight: Tensor, coord_weight: Tensor | None, rows: Rows, wanted: list[bool], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Gradients]:
    """Loss, sums, columns and bins' logits of all rows, and the gradients that are wanted; products in `dtype`."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    apart = coord_weight is not None or dtype != wide  # the bins have a product of their own
    head, ids, v = weight.to(dtype), rows.coord_ids, rows.variant
    bins_head = (weight[ids] if coord_weight is None else coord_weight).to(wide)  # [K, d]
    scales = torch.stack(group_scales(rows.denominators, v))
    text_scale, coord_scale = (scales / scales.max()).to(wide)
    gradients = Gradients(
        hidden=torch.empty_like(hidden) if wanted[0] else None,
        weight=torch.zeros_like(weight, dtype=wide) if wanted[1] else None,
        coord_weight=torch.zeros_like(bins_head) if apart and (wanted[1] or wanted[2]) else None,
        unit=(rows.world * scales.max()).to(wide),
    )
    logits = hidden.new_empty(min(rows.chunk, len(rows.order)), len(head), dtype=wide)
    sums = hidden.new_zeros(len(SUMS), dtype=torch.float64)
    columns, kept = [hidden.new_empty(4, 0, dtype=wide)], [hidden.new_empty(0, len(ids), dtype=wide)]
    for first in range(0, len(rows.order), rows.chunk):
        at = rows.order[first : first + rows.chunk]
        text, bins = rows.of_chunk(first)
        h = hidden[at]  # [n, d]
        z = product(h.to(dtype), head, logits[: len(at)])  # [n, V]
        s = h.to(wide) @ bins_head.T if apart else z.index_select(1, ids)  # [n, K]
        if apart:
            z.index_copy_(1, ids, s)
        sums += text_rows(z[:text], s[:text], rows.targets[at[:text]], text_scale)
        watched, found = coord_rows(z[text:], s[text:], bins, ids, v, coord_scale)
        sums += watched
        columns.append(found)
        if not rows.forms_gradients:
            kept.append(s[text:])
            continue
        ds = z.index_select(1, ids) if apart else None
        if apart:
            z.index_fill_(1, ids, 0.0)
        gradients.add(at, h, z.to(dtype), head, ds, bins_head)
    if coord_weight is None and gradients.weight is not None and gradients.coord_weight is not None:
        gradients.weight.index_add_(0, ids, gradients.coord_weight)
        gradients.coord_weight = None
    loss = rows.world * total_loss(dict(zip(SUMS, sums, strict=True)), rows.denominators, v)
    return loss.to(wide), sums, torch.cat(columns, 1), torch.cat(kept), gradients


def product(h: Tensor, head: Tensor, out: Tensor) -> Tensor:
    """h @ head.T, written into `out`, which may be wider  # [n, d], [V, d], [n, V] -> [n, V]"""
    if h.dtype == out.dtype:
        return torch.mm(h, head.T, out=out)
    return out.copy_(h @ head.T)


def rows_at_once(vocabulary: int, device: str) -> int:
    """The largest power of two of rows whose logits stay within CHUNK_BYTES in float32."""
    fits = CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]) // (4 * vocabulary)
    return 1 << max(fits, 1).bit_length() - 1
