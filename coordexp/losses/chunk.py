"""One chunk of tokens: from its logits to the loss sums and, in place, to the gradient of its loss.

n tokens, vocabulary V, K = 1000 bins. The logits come in two parts. `s` [n, K] are the logits of
the bins, in float32 at least. `z` [n, V] are the logits of all other tokens (called words here),
with -inf in the columns of the bins. This keeps the bins' logits in float32 where the other 150,000
are in half precision. A softmax over the whole vocabulary needs only lse(s) of the bins, one number
per token (lse is logsumexp).
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from coordexp.config.schema import VariantConfig
from coordexp.losses.diagnostics import distribution_columns
from coordexp.losses.slices import full_vocabulary_term, slice_terms
from coordexp.losses.terms import SUMS, WATCHED

# Memory for a temporary softmax, in addition to the chunk. On a CPU it must fit into the cache.
BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 96 << 20}


def text_rows(z: Tensor, s: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and its gradient for n text tokens. Overwrites `z` with scale dL/dz.

    Args:
        z: [n, V] logits of the words.
        s: [n, K] logits of the bins.
        targets: [n] token ids, all of words.
        scale: scalar that the gradients are multiplied by.

    Returns:
        The sums [len(SUMS)] and scale dL/ds [n, K].
    """
    at_target = targets[:, None]
    target_logit, top_bin = z.gather(-1, at_target).to(s), s.amax(-1, keepdim=True)
    top_word, lse, _ = words_to_gradient_(z, s, scale, 1.0, at_target)
    sums = {
        "n_text": s.new_full((), len(s)),
        "text_hits": (target_logit >= torch.maximum(top_word, top_bin)).sum(),
        "to_coord": (top_bin >= top_word).sum(),
        "text_ce": (lse - target_logit).sum(dtype=torch.float64),
    }
    return in_order(sums), (s - lse).exp_().mul_(scale)


def coord_rows(
    z: Tensor, s: Tensor, bins: Tensor, variant: VariantConfig, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinate terms and gradient of n coordinate tokens. Overwrites `z` with scale dL/dz.

    Args:
        z: [n, V] logits of the words.
        s: [n, K] logits of the bins.
        bins: [n] ground-truth bins.
        variant: the objective's weights and temperature.
        scale: scalar that the gradients are multiplied by.

    Returns:
        The sums [len(SUMS)]; the columns hit, argmax_bin, coord_mass and abs_err (bins, at T = 1)
        [4, n]; and scale dL/ds [n, K].
    """
    # L = alpha lse(z / T) over the vocabulary + terms that depend on the bins alone.
    full_term, alpha, temperature = full_vocabulary_term(variant)
    terms, gradient = slice_terms(s, bins, variant)
    top_word, lse1, lse = words_to_gradient_(z, s, scale * (alpha / temperature), temperature)
    # Add the part that `slice_terms` leaves out: alpha lse(z / T), and its gradient with respect to
    # the bins, alpha softmax(z / T) / T.
    if alpha:
        terms[full_term] = terms[full_term] + lse[:, 0]
        gradient += (s / temperature - lse).exp_().mul_(alpha / temperature)

    at_temperature = {}
    for t in {1.0, variant.temperature}:
        at_temperature[t] = distribution_columns(s, bins, t)
        at_temperature[t]["abs_err"] = (at_temperature[t]["expected_bin"] - bins).abs()

    # A hit: no logit of the whole vocabulary is higher than that of the ground-truth bin.
    top_bin = s.max(-1, keepdim=True)
    hit = s.gather(-1, bins[:, None]) >= torch.maximum(top_word, top_bin.values)
    mass = (torch.logsumexp(s, -1, keepdim=True) - lse1).exp()
    sums = {
        "n_coord": s.new_full((), len(s)),
        "coord_hits": hit.sum(),
        "coord_mass": mass.sum(dtype=torch.float64),
        "to_text": (top_bin.values < top_word).sum(),
    }
    for name, values in terms.items():
        sums[name] = values.sum(dtype=torch.float64)
    for name in WATCHED:
        sums[f"{name}_t1"] = at_temperature[1.0][name].sum(dtype=torch.float64)
        sums[f"{name}_own"] = at_temperature[variant.temperature][name].sum(dtype=torch.float64)
    columns = torch.stack(
        [
            hit[:, 0].to(s),
            top_bin.indices[:, 0].to(s),
            mass[:, 0],
            at_temperature[1.0]["abs_err"],
        ]
    )
    return in_order(sums), columns, gradient.mul_(scale)


def in_order(sums: dict[str, Tensor]) -> Tensor:
    """The sums in the order of SUMS, float64; 0 for a missing name  # [len(SUMS)]"""
    zero = torch.zeros((), dtype=torch.float64, device=next(iter(sums.values())).device)
    return torch.stack([sums.get(name, zero).double() for name in SUMS])


def has_kernel(device: str, dtype: torch.dtype) -> bool:
    """Whether `words_to_gradient_` runs as one Triton kernel on this device type.

    The kernel reads half-precision logits and computes in float32. Without it the logits are kept
    in float32.
    """
    return (
        device == "cuda"
        and dtype != torch.float64
        and importlib.util.find_spec("triton") is not None
    )


def words_to_gradient_(
    z: Tensor, s: Tensor, scale: Tensor, temperature: float, targets: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Overwrite `z` with scale (softmax(z / T) - onehot(target)), the softmax over words and bins.

    Args:
        z: [n, V] logits of the words, -inf in the columns of the bins.
        s: [n, K] logits of the bins.
        scale: scalar.
        temperature: T.
        targets: [n, 1] token ids of words, or None: then no onehot is subtracted.

    Returns:
        [n, 1] each: the highest logit of a word, and lse over the whole vocabulary at 1 and at T.
    """
    bins1 = torch.logsumexp(s, -1, keepdim=True)
    bins_t = bins1 if temperature == 1 else torch.logsumexp(s / temperature, -1, keepdim=True)
    if has_kernel(z.device.type, z.dtype):
        from coordexp.losses import kernel

        return kernel.words_to_gradient_(z, bins1, bins_t, scale, temperature, targets)

    # lse over words and bins is the logaddexp of both. At T = 1 it must be computed before softmax_
    # overwrites z.
    top_word = z.amax(-1, keepdim=True)
    if temperature != 1:
        lse1 = torch.logaddexp(log_sum_exp(z, top_word), bins1)
    words_t = softmax_(z, top_word, temperature)
    lse_t = torch.logaddexp(words_t, bins_t)
    if temperature == 1:
        lse1 = lse_t

    # z holds the softmax over words alone. Scale it by exp(words_t - lse_t), the probability of all
    # words in the whole vocabulary.
    z.mul_(scale * (words_t - lse_t).exp())
    if targets is not None:
        z.scatter_add_(-1, targets, -scale.expand(len(z), 1))
    return top_word, lse1, lse_t


def softmax_(z: Tensor, top: Tensor, temperature: float) -> Tensor:
    """Overwrite `z` with softmax(z / T) and return lse(z / T)  # [n, V], maxima [n, 1] -> [n, 1]

    It needs one exponential per element, because lse(z) = max z - log max softmax(z). The highest
    probability is at least 1 / V, so its logarithm is accurate enough.
    """
    if temperature != 1:
        z.mul_(1 / temperature)
    torch.softmax(z, -1, out=z)
    return top / temperature - z.amax(-1, keepdim=True).log()


def log_sum_exp(z: Tensor, top: Tensor) -> Tensor:
    """lse(z), without changing `z`  # [n, V], maxima [n, 1] -> [n, 1]

    It uses the identity of `softmax_` on blocks of rows that fit into the cache. On a CPU
    `torch.logsumexp` over a vocabulary takes 15 times as long.
    """
    block_bytes = BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cpu"])
    rows_per_block = max(1, block_bytes // (4 * z.shape[-1]))
    highest = [torch.softmax(rows, -1).amax(-1, keepdim=True) for rows in z.split(rows_per_block)]
    return top - torch.cat(highest).log()
