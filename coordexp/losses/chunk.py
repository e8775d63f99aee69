"""A chunk of rows: its logits to sums and columns, and, in place, to the gradient of its loss.

n rows, vocabulary V, K = 1000 bins. The vocabulary falls in two: `s` are the logits of the bins, at least float32; `z` are
those of all other tokens, the words, with -inf in the columns of the bins. So 1000 columns can be exact where the other
150,000 are in half precision, and what a softmax over the whole vocabulary needs of the bins is one number, lse(s).
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from coordexp.config.schema import VariantConfig
from coordexp.losses.diagnostics import distribution_columns
from coordexp.losses.slices import full_vocabulary_term, slice_terms
from coordexp.losses.terms import SUMS, WATCHED

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 96 << 20}  # of a softmax beside the chunk


def text_rows(z: Tensor, s: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of text rows, and scale dL/ds; leaves scale dL/dz in `z`  # [n, V], [n, K], [n] -> [len(SUMS)], [n, K]"""
    at = targets[:, None]
    at_target, top_bin = z.gather(-1, at).to(s), s.amax(-1, keepdim=True)
    top, lse, _ = words_to_gradient_(z, s, scale, 1.0, at)
    sums = {
        "n_text": s.new_full((), len(s)),
        "text_hits": (at_target >= torch.maximum(top, top_bin)).sum(),
        "to_coord": (top_bin >= top).sum(),
        "text_ce": (lse - at_target).sum(dtype=torch.float64),
    }
    return in_order(sums), (s - lse).exp_().mul_(scale)


def coord_rows(
    z: Tensor, s: Tensor, bins: Tensor, variant: VariantConfig, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of coordinate rows, the columns hit, argmax_bin, coord_mass, abs_err (T = 1), and scale dL/ds; leaves scale
    dL/dz in `z`

    # [n, V], [n, K], [n] -> [len(SUMS)], [4, n], [n, K]
    """
    full_term, alpha, temperature = full_vocabulary_term(variant)
    terms, gradient = slice_terms(s, bins, variant)
    top, lse1, lse = words_to_gradient_(z, s, scale * (alpha / temperature), temperature)
    if alpha:
        terms[full_term] = terms[full_term] + lse[:, 0]
        gradient += (s / temperature - lse).exp_().mul_(alpha / temperature)

    at_t = {t: distribution_columns(s, bins, t) for t in {1.0, variant.temperature}}
    for columns in at_t.values():
        columns["abs_err"] = (columns["expected_bin"] - bins).abs()
    top_bin = s.max(-1, keepdim=True)
    hit = s.gather(-1, bins[:, None]) >= torch.maximum(top, top_bin.values)
    mass = (torch.logsumexp(s, -1, keepdim=True) - lse1).exp()
    sums = {
        "n_coord": s.new_full((), len(s)),
        **{name: values.sum(dtype=torch.float64) for name, values in terms.items()},
        "coord_hits": hit.sum(),
        "coord_mass": mass.sum(dtype=torch.float64),
        "to_text": (top_bin.values < top).sum(),
        **{f"{name}_t1": at_t[1.0][name].sum(dtype=torch.float64) for name in WATCHED},
        **{
            f"{name}_own": at_t[variant.temperature][name].sum(dtype=torch.float64)
            for name in WATCHED
        },
    }
    found = torch.stack(
        [hit[:, 0].to(s), top_bin.indices[:, 0].to(s), mass[:, 0], at_t[1.0]["abs_err"]]
    )
    return in_order(sums), found, gradient.mul_(scale)


def in_order(sums: dict[str, Tensor]) -> Tensor:
    """As the vector that SUMS describes, 0 where there is none  # [len(SUMS)] float64"""
    zero = torch.zeros((), dtype=torch.float64, device=next(iter(sums.values())).device)
    return torch.stack([sums.get(name, zero).double() for name in SUMS])


def has_kernel(device: str, dtype: torch.dtype) -> bool:
    """Whether `words_to_gradient_` is one kernel there: then logits may stay in half precision, and are read twice."""
    return (
        device == "cuda"
        and dtype != torch.float64
        and importlib.util.find_spec("triton") is not None
    )


def words_to_gradient_(
    z: Tensor, s: Tensor, scale: Tensor, temperature: float, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns the words' logits into scale (softmax(z / T) - onehot(y)), the softmax being over words and bins.

    # [n, V], [n, K], scalar, T, [n, 1] -> [n, 1] each: the highest word, lse over the whole vocabulary at 1 and at T
    """
    bins1 = torch.logsumexp(s, -1, keepdim=True)
    bins = bins1 if temperature == 1 else torch.logsumexp(s / temperature, -1, keepdim=True)
    if has_kernel(z.device.type, z.dtype):
        from coordexp.losses import kernel

        return kernel.words_to_gradient_(z, bins1, bins, scale, temperature, targets)
    top = z.amax(-1, keepdim=True)
    lse1 = None if temperature == 1 else torch.logaddexp(log_sum_exp(z, top), bins1)
    of_words = softmax_(z, top, temperature)
    lse = torch.logaddexp(of_words, bins)
    z.mul_(scale * (of_words - lse).exp())
    if targets is not None:
        z.scatter_add_(-1, targets, -scale.expand(len(z), 1))
    return top, lse if lse1 is None else lse1, lse


def softmax_(z: Tensor, top: Tensor, temperature: float) -> Tensor:
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
