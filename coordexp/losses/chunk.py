"""A chunk of rows: its logits to sums and columns, and, in place, to the gradient of its loss.

n rows, vocabulary V, K = 1000 bins; `z` are the logits over the vocabulary and `s` those of the bins, at least float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.diagnostics import distribution_columns
from coordexp.losses.slices import full_vocabulary_term, slice_terms
from coordexp.losses.terms import SUMS, WATCHED
from coordexp.schema import VariantConfig

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 96 << 20}  # of a softmax beside the chunk


def text_rows(z: Tensor, s: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Sums of text rows; leaves scale (softmax(z) - onehot(y)) in `z`  # [n, V], [n, K], [n] -> [len(SUMS)]"""
    at = targets[:, None]
    at_target, top = z.gather(-1, at), z.amax(-1, keepdim=True)
    sums = {
        "n_text": z.new_tensor(len(z)),
        "text_hits": (at_target >= top).sum(),
        "to_coord": (s.amax(-1, keepdim=True) >= top).sum(),
        "text_ce": (softmax_(z, top) - at_target).sum(dtype=torch.float64),
    }
    z.mul_(scale).scatter_add_(-1, at, -scale.expand(len(z), 1))
    return in_order(sums)


def coord_rows(
    z: Tensor, s: Tensor, bins: Tensor, coord_ids: Tensor, variant: VariantConfig, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums of coordinate rows, and the columns hit, argmax_bin, coord_mass, abs_err (T = 1); leaves the gradient in `z`

    # [n, V], [n, K], [n] -> [len(SUMS)], [4, n]
    """
    full_term, alpha, temperature = full_vocabulary_term(variant)
    terms, gradient = slice_terms(s, bins, variant)
    top, top_bin = z.amax(-1, keepdim=True), s.max(-1, keepdim=True)
    lse1 = None if temperature == 1 else log_sum_exp(z, top)
    lse = softmax_(z, top, temperature)
    lse1 = lse if lse1 is None else lse1
    if alpha:
        terms[full_term] = terms[full_term] + lse[:, 0]
    z.mul_(scale * (alpha / temperature)).index_add_(1, coord_ids, gradient.mul_(scale))

    at_t = {t: distribution_columns(s, bins, t) for t in {1.0, variant.temperature}}
    for columns in at_t.values():
        columns["abs_err"] = (columns["expected_bin"] - bins).abs()
    hit = s.gather(-1, bins[:, None]) >= top
    mass = (torch.logsumexp(s, -1, keepdim=True) - lse1).exp()
    sums = {
        "n_coord": z.new_tensor(len(z)),
        **{name: values.sum(dtype=torch.float64) for name, values in terms.items()},
        "coord_hits": hit.sum(),
        "coord_mass": mass.sum(dtype=torch.float64),
        "to_text": (top_bin.values < top).sum(),
        **{f"{name}_t1": at_t[1.0][name].sum(dtype=torch.float64) for name in WATCHED},
        **{f"{name}_own": at_t[variant.temperature][name].sum(dtype=torch.float64) for name in WATCHED},
    }
    found = torch.stack([hit[:, 0].to(s), top_bin.indices[:, 0].to(s), mass[:, 0], at_t[1.0]["abs_err"]])
    return in_order(sums), found


def in_order(sums: dict[str, Tensor]) -> Tensor:
    """As the vector that SUMS describes, 0 where there is none  # [len(SUMS)] float64"""
    zero = torch.zeros((), dtype=torch.float64, device=next(iter(sums.values())).device)
    return torch.stack([sums.get(name, zero).double() for name in SUMS])


def softmax_(z: Tensor, top: Tensor, temperature: float = 1.0) -> Tensor:
    """Turns `z` into softmax(z / T), with one exponential an element; returns lse(z / T)  # [n, V], [n, 1] -> [n, 1]

    The highest probability is at least 1 / V, so lse(z) = max z - log max softmax(z) loses nothing.
    """
    if temperature != 1:
        z.mul_(1 / temperature)
    torch.softmax(z, -1, out=z)
    return top / temperature - z.amax(-1, keepdim=True).log()


def log_sum_exp(z: Tensor, top: Tensor) -> Tensor:
    """lse(z), `z` untouched  # [n, V], [n, 1] -> [n, 1]

    Blocks that stay in the cache: `torch.logsumexp` over a vocabulary takes 15 times as long on a CPU.
    """
    block = max(1, BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cpu"]) // (4 * z.shape[-1]))
    highest = [torch.softmax(rows, -1).amax(-1, keepdim=True) for rows in z.split(block)]
    return top - torch.cat(highest).log()
