"""The objective from hidden states, in one pass over row chunks, with its gradients formed in the forward.

The full logits [N, V] never exist: a chunk's logits become probabilities and then their own gradient in place, and
leave as two matrix products, into the gradient of the hidden states and into that of the head. All that a log row or a
token table asks about is read off on the way. Same numbers as `reference.objective`, for every variant:

    text row          L = lse(z) - z_y                 dL/dz = softmax(z) - onehot(y)
    coordinate row    L = alpha lse(z / T) + f(z_C)    dL/dz = alpha softmax(z / T) / T,  + f'(z_C) on the bins

alpha, T and f are the variant's (`chunk.py`, `slices.py`). In half precision, or with rows of their own, the bins have a
matrix product of their own, in at least float32: they may be the only rows of the head that are trained, and which of
them is the highest matters to a hair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coordexp.config.schema import VariantConfig
from coordexp.losses.chunk import coord_rows, has_kernel, text_rows
from coordexp.losses.terms import SUMS, Output, group_scales, total_loss

CHUNK_BYTES = {
    "cpu": 96 << 20,
    "cuda": 640 << 20,
}  # of a chunk's logits: larger products are faster ones
HEAD_BLOCK = (
    1 << 15
)  # rows of the head whose gradient is formed at once in half precision, and added up in float32
TILE = 64  # tokens; in half precision a product over a vocabulary that is no multiple of it takes a GPU twice as long


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
        chunk=chunk_rows,
        forms_gradients=torch.is_grad_enabled(),
    )
    loss, sums, columns, logits = Fused.apply(hidden, weight, coord_weight, rows)
    named = {
        "hit": columns[0] > 0,
        "argmax_bin": columns[1].long(),
        "coord_mass": columns[2],
        "abs_err": columns[3],
    }
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
    chunk: int | None
    forms_gradients: bool

    def split(self, chunk: int) -> Iterator[tuple[Tensor, int, Tensor]]:
        """Of each chunk: where its rows lie, how many of them are text, and the bins of the others."""
        n_text = len(self.order) - len(self.bins)
        for first in range(0, len(self.order), chunk):
            at = self.order[first : first + chunk]
            text = min(max(n_text - first, 0), chunk)
            yield at, text, self.bins[max(first - n_text, 0) :][: len(at) - text]


@dataclass
class Gradients:
    """Of those inputs that want one, a factor `unit` too large: half precision would lose 1 / D_g to underflow."""

    hidden: Tensor | None  # [N, d]
    weight: Tensor | None  # [V, d]
    coord_weight: Tensor | None  # [K, d]
    unit: Tensor

    def add(
        self, at: Tensor, h: Tensor, dz: Tensor, head: Tensor, ds: Tensor | None, bins_head: Tensor
    ) -> None:
        """A chunk's share  # [n], [n, d], [n, V], [V, d]; [n, K], [K, d] where the bins have a product of their own"""
        tiles = whole_tiles(len(head), dz.dtype)
        if self.hidden is not None:
            parts = [dz[:, some] @ head[some] for some in tiles] + (
                [] if ds is None else [ds @ bins_head]
            )
            self.hidden[at] = sum(parts[:-1], start=parts[-1]).to(self.hidden)
        if self.coord_weight is not None and ds is not None:
            self.coord_weight.addmm_(ds.T, h.to(ds))
        if self.weight is not None:
            for some in tiles:
                add_product_(self.weight[some], dz[:, some].T, h.to(dz))


class Fused(torch.autograd.Function):
    """(hidden, weight, coord_weight) -> loss, and without gradients: sums, columns [4, C], the bins' logits [C, K]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, coord_weight: Tensor | None, rows: Rows
    ) -> tuple[Tensor, ...]:
        wanted = [rows.forms_gradients and needed for needed in ctx.needs_input_grad[:3]]
        device = hidden.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        )
        with torch.autocast(device, enabled=False):
            *found, ctx.gradients = one_pass(hidden, weight, coord_weight, rows, wanted, dtype)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, coord_weight)]
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the fused objective hands its gradients over once: a second backward has none"
            )
        found, ctx.gradients = ctx.gradients, None
        factor = found.unit * grad_loss
        each = zip((found.hidden, found.weight, found.coord_weight), ctx.dtypes, strict=True)
        return *(
            None if gradient is None else scaled(gradient, factor, dtype)
            for gradient, dtype in each
        ), None


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    coord_weight: Tensor | None,
    rows: Rows,
    wanted: list[bool],
    dtype: torch.dtype,
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
    chunk = rows.chunk or rows_at_once(len(head), hidden.device.type, dtype)
    logits = buffer(min(chunk, len(rows.order)), len(head), hidden.device, dtype)
    sums = hidden.new_zeros(len(SUMS), dtype=torch.float64)
    columns, kept = (
        [hidden.new_empty(4, 0, dtype=wide)],
        [hidden.new_empty(0, len(ids), dtype=wide)],
    )
    for at, text, bins in rows.split(chunk):
        h = hidden[at]  # [n, d]
        z = product(h.to(dtype), head, logits[: len(at)])  # [n, V]
        s = h.to(wide) @ bins_head.T if apart else z.index_select(1, ids)  # [n, K]
        z.index_fill_(1, ids, -torch.inf)
        of_text, ds_text = text_rows(z[:text], s[:text], rows.targets[at[:text]], text_scale)
        of_coord, found, ds_coord = coord_rows(z[text:], s[text:], bins, v, coord_scale)
        sums += of_text + of_coord
        columns.append(found)
        if not rows.forms_gradients:
            kept.append(s[text:])
            continue
        ds = torch.cat([ds_text, ds_coord])  # [n, K]; in z their columns are 0 by now
        if not apart:
            z.index_copy_(1, ids, ds)
        gradients.add(at, h, z.to(dtype), head, ds if apart else None, bins_head)
    if coord_weight is None and gradients.weight is not None and gradients.coord_weight is not None:
        gradients.weight.index_add_(0, ids, gradients.coord_weight)
        gradients.coord_weight = None
    loss = rows.world * total_loss(dict(zip(SUMS, sums, strict=True)), rows.denominators, v)
    return loss.to(wide), sums, torch.cat(columns, 1), torch.cat(kept), gradients


def product(h: Tensor, head: Tensor, out: Tensor) -> Tensor:
    """h @ head.T, written into `out`, which may be wider  # [n, d], [V, d], [n, V] -> [n, V]"""
    for some in whole_tiles(len(head), h.dtype):
        if h.dtype == out.dtype:
            torch.mm(h, head[some].T, out=out[:, some])
        else:
            out[:, some] = h @ head[some].T
    return out


def whole_tiles(vocabulary: int, dtype: torch.dtype) -> list[slice]:
    """The vocabulary in half precision as whole tiles and a narrow rest, else in one piece."""
    rest = vocabulary % TILE if dtype.itemsize < 4 else 0
    return [
        part
        for part in (slice(0, vocabulary - rest), slice(vocabulary - rest, vocabulary))
        if part.start < part.stop
    ]


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, added up in the precision of `total`, which may be wider  # [V, d], [V, n], [n, d]"""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, total.dtype, out=total)
    else:
        for block, some in zip(total.split(HEAD_BLOCK), a.split(HEAD_BLOCK), strict=True):
            block += some @ b


def scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor in `dtype`; `gradient` is used up."""
    return torch.mul(
        gradient,
        factor,
        out=gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype),
    )


def held_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """In which logits are held whose product is taken in `dtype`."""
    return dtype if has_kernel(device, dtype) else torch.promote_types(dtype, torch.float32)


def buffer(n_rows: int, vocabulary: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Room for a chunk of logits  # [n_rows, V]"""
    held = held_dtype(device.type, dtype)
    width = vocabulary + -vocabulary % TILE if held.itemsize < 4 else vocabulary
    return torch.empty(n_rows, width, device=device, dtype=held)[:, :vocabulary]


def rows_at_once(vocabulary: int, device: str, dtype: torch.dtype) -> int:
    """The largest power of two of rows whose logits stay within CHUNK_BYTES."""
    fits = CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]) // (
        held_dtype(device, dtype).itemsize * vocabulary
    )
    return 1 << max(fits, 1).bit_length() - 1


def chunk_bytes(n_rows: int, vocabulary: int, device: str, dtype: torch.dtype) -> int:
    """What a pass over so many rows holds of logits; where they are wider than the product, that lies beside them."""
    held = held_dtype(device, dtype)
    rows = min(rows_at_once(vocabulary, device, dtype), n_rows)
    return rows * vocabulary * (held.itemsize + (dtype.itemsize if held != dtype else 0))
