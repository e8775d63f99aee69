"""The objective from hidden states, in one pass over chunks of tokens, gradients included.

The full logits [N, V] never exist. The logits of a chunk are overwritten by their probabilities and
then by their gradient. Two matrix products propagate that gradient to the hidden states and to the
head. The values of a log row and of a token table are computed in the same pass. The values equal
those of `reference.objective` for every variant (lse is logsumexp, z the logits, z_C those of the
bins):

    text token          L = lse(z) - z_y               dL/dz = softmax(z) - onehot(y)
    coordinate token    L = alpha lse(z / T) + f(z_C)  dL/dz = alpha softmax(z / T) / T,
                                                               + f'(z_C) on the bins

alpha, T and f depend on the variant (`chunk.py`, `slices.py`).

In half precision, or when an adapter trains the coordinate rows, the bins' logits are computed in a
separate matrix product, in float32 at least: argmax over bins is sensitive to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coordexp.config.schema import VariantConfig
from coordexp.losses.chunk import coord_rows, text_rows
from coordexp.losses.gradients import Gradients, scaled
from coordexp.losses.products import buffer, product, rows_at_once
from coordexp.losses.terms import SUMS, Output, group_scales, total_loss


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
    """Loss, sums and diagnostics of N supervised tokens, C of them coordinates.

    The loss is differentiable in `hidden`, `weight` and `coord_weight`. Its gradients are computed
    in the forward pass; `backward` returns them and may be called once. In half precision (the
    dtype of `hidden`, or of an autocast region) the matrix products over the vocabulary are in that
    precision, and everything else is in float32.

    Args:
        hidden: [N, d] hidden states of the positions whose next token is supervised.
        weight: [V, d] output head. No gradient of it is computed where it is frozen.
        targets: [N] token ids, int64.
        bins: [N] ground-truth bin of each token, int64, or -1 for text.
        coord_ids: [K] token ids of the bins, in order.
        variant: the objective's terms, weights, temperature and token groups.
        denominators: [2] text and coordinate tokens of the whole optimizer step: every micro-batch
            of every rank.
        world: number of ranks over which gradients are averaged; multiplies the loss.
        coord_weight: [K, d] trained coordinate rows, used instead of `weight[coord_ids]`.
        chunk_rows: tokens per chunk; by default a power of two that CHUNK_BYTES allows.

    Returns:
        The loss in nats, `world * sum_g S_g / D_g` over token groups g; the sums S of everything a
        log row needs; and per coordinate token hit, argmax_bin, coord_mass and abs_err (bins, T =
        1). Without gradients also the bins' logits.

    Raises:
        RuntimeError: `backward` is called a second time.
    """
    on_coord = (bins >= 0).nonzero()[:, 0]
    on_text = (bins < 0).nonzero()[:, 0]
    rows = Rows(
        order=torch.cat([on_text, on_coord]),
        bins=bins[on_coord],
        targets=targets,
        coord_ids=coord_ids,
        variant=variant,
        denominators=denominators,
        world=world,
        chunk=chunk_rows,
        with_gradients=torch.is_grad_enabled(),
    )
    loss, sums, columns, coord_logits = Fused.apply(hidden, weight, coord_weight, rows)
    named = {
        "hit": columns[0] > 0,
        "argmax_bin": columns[1].long(),
        "coord_mass": columns[2],
        "abs_err": columns[3],
    }
    return Output(loss, sums, named, None if rows.with_gradients else coord_logits)


@dataclass(frozen=True)
class Rows:
    """The supervised tokens (N, C of them coordinates) and the settings of their objective."""

    order: Tensor  # [N] indices into the hidden states: text tokens first, then coordinates
    bins: Tensor  # [C]
    targets: Tensor  # [N], in the order of the hidden states
    coord_ids: Tensor  # [K]
    variant: VariantConfig
    denominators: Tensor  # [2]
    world: int
    chunk: int | None
    with_gradients: bool

    def split(self, chunk: int) -> Iterator[tuple[Tensor, int, Tensor]]:
        """For each chunk: its indices, its number of text tokens, and the bins of the others."""
        n_text = len(self.order) - len(self.bins)
        for first in range(0, len(self.order), chunk):
            indices = self.order[first : first + chunk]
            text = min(max(n_text - first, 0), chunk)
            first_bin = max(first - n_text, 0)
            yield indices, text, self.bins[first_bin : first_bin + len(indices) - text]


class Fused(torch.autograd.Function):
    """(hidden, weight, coord_weight) -> loss, sums, columns [4, C], and the bins' logits [C, K].

    The logits have no rows in a pass with gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, coord_weight: Tensor | None, rows: Rows
    ) -> tuple[Tensor, ...]:
        wanted = [rows.with_gradients and needed for needed in ctx.needs_input_grad[:3]]
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            *results, ctx.gradients = one_pass(hidden, weight, coord_weight, rows, wanted, dtype)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, coord_weight)]
        ctx.mark_non_differentiable(*results[1:])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the fused objective hands its gradients over once: a second backward has none"
            )
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place below: usable only once
        factor = gradients.unit * grad_loss
        of_inputs = (gradients.hidden, gradients.weight, gradients.coord_weight)
        scaled_gradients = [
            None if gradient is None else scaled(gradient, factor, dtype)
            for gradient, dtype in zip(of_inputs, ctx.dtypes, strict=True)
        ]
        return *scaled_gradients, None


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    coord_weight: Tensor | None,
    rows: Rows,
    wanted: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Gradients]:
    """Loss, sums, columns and bins' logits of all tokens, and the gradients that are wanted.

    `wanted` has a flag for each input (hidden, weight, coord_weight). Matrix products over the
    vocabulary are in `dtype`, everything else in float32 at least.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    separate_bins = coord_weight is not None or dtype != wide
    head, ids, variant = weight.to(dtype), rows.coord_ids, rows.variant
    bins_head = (weight[ids] if coord_weight is None else coord_weight).to(wide)  # [K, d]

    # Divide both groups' scales 1 / D_g by the larger one; it is multiplied in at the end (see
    # Gradients.unit).
    scales = torch.stack(group_scales(rows.denominators, variant))
    text_scale, coord_scale = (scales / scales.max()).to(wide)
    unit = (rows.world * scales.max()).to(wide)
    gradients = Gradients.zeros(hidden, weight, bins_head, wanted, separate_bins, unit)

    chunk = rows.chunk or rows_at_once(len(head), hidden.device.type, dtype)
    logits = buffer(min(chunk, len(rows.order)), len(head), hidden.device, dtype)
    sums = hidden.new_zeros(len(SUMS), dtype=torch.float64)
    columns = [hidden.new_empty(4, 0, dtype=wide)]
    coord_logits = [hidden.new_empty(0, len(ids), dtype=wide)]
    for indices, text, bins in rows.split(chunk):
        # Logits in two parts: s of the bins, z of all other tokens (see chunk.py).
        h = hidden[indices]  # [n, d]
        z = product(h.to(dtype), head, logits[: len(indices)])  # [n, V]
        s = h.to(wide) @ bins_head.T if separate_bins else z.index_select(1, ids)  # [n, K]
        z.index_fill_(1, ids, -torch.inf)

        # Terms and sums. From here z holds dL/dz, with 0 in the columns of the bins.
        targets = rows.targets[indices[:text]]
        text_sums, ds_text = text_rows(z[:text], s[:text], targets, text_scale)
        coord_sums, values, ds_coord = coord_rows(z[text:], s[text:], bins, variant, coord_scale)
        sums += text_sums + coord_sums
        columns.append(values)
        if rows.with_gradients:
            ds = torch.cat([ds_text, ds_coord])  # [n, K]
            if not separate_bins:
                z.index_copy_(1, ids, ds)
            gradients.add(indices, h, z.to(dtype), head, ds if separate_bins else None, bins_head)
        else:
            coord_logits.append(s[text:])
    if coord_weight is None:
        gradients.move_bins_to_head(ids)
    loss = rows.world * total_loss(dict(zip(SUMS, sums, strict=True)), rows.denominators, variant)
    return loss.to(wide), sums, torch.cat(columns, 1), torch.cat(coord_logits), gradients
