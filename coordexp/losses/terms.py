"""Sums over supervised tokens, from which the loss and every value of a log row are computed.

Sums can be added over micro-batches, ranks and steps; means cannot. Text tokens and coordinate
tokens are two groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.metrics import COORD_TERMS

# Diagnostics that are summed both at T = 1 and at the variant's own temperature.
WATCHED = ("abs_err", "w1_to_delta", "p_gt", "entropy")

# The order of the values in `Output.sums`: token counts, unweighted loss terms, diagnostics that
# are only logged.
SUMS = (
    *("n_text", "n_coord", "text_ce", "coord_token_ce"),
    *COORD_TERMS,
    *("text_hits", "coord_hits", "coord_mass", "to_text", "to_coord"),
    *(f"{name}_t1" for name in WATCHED),
    *(f"{name}_own" for name in WATCHED),
)


@dataclass
class Output:
    """The objective of one micro-batch with C coordinate tokens. Only `loss` carries a gradient."""

    loss: Tensor  # scalar
    sums: Tensor  # [len(SUMS)] float64, in the order of SUMS
    columns: dict[str, Tensor]  # {name: [C]}: hit, argmax_bin, coord_mass; abs_err at T = 1, bins
    coord_logits: Tensor | None  # [C, K]; None after a pass that computes gradients


def group_scales(denominators: Tensor, variant: VariantConfig) -> tuple[Tensor, Tensor]:
    """1 / D_g in float64 for the text and the coordinate group  # [2] -> two scalars

    A group without tokens has sums of 0, so any finite scale is right; 1 / 0 would give NaN.
    """
    n_text, n_coord = denominators.double().unbind()
    if variant.token_groups is TokenGroups.joint:
        n_text = n_coord = n_text + n_coord
    return 1 / n_text.clamp(min=1), 1 / n_coord.clamp(min=1)


def total_loss(terms: Mapping[str, Tensor], denominators: Tensor, variant: VariantConfig) -> Tensor:
    """sum over groups g of S_g / D_g, in float64  # {term: scalar sum}, [2] -> scalar

    Args:
        terms: unweighted sums: text_ce, and the coordinate terms that the variant uses.
        denominators: text and coordinate tokens of the whole optimizer step.
        variant: the objective's weights and token groups.
    """
    text_scale, coord_scale = group_scales(denominators, variant)
    if variant.token_groups is TokenGroups.joint:
        return text_scale * (terms["text_ce"] + terms["coord_token_ce"])
    coordinates: Tensor | float = 0.0
    for term, weight in term_weights(variant).items():
        coordinates = coordinates + weight * terms[term]
    return text_scale * terms["text_ce"] + coord_scale * coordinates


def term_weights(variant: VariantConfig) -> dict[str, float]:
    """{coordinate term: weight} of the terms that the variant uses."""
    weights = {term: getattr(variant, term) for term in COORD_TERMS}
    return {term: weight for term, weight in weights.items() if weight}


def loss_values(sums: Tensor, variant: VariantConfig) -> dict[str, float]:
    """The loss keys of a log row, nats per token  # [len(SUMS)] -> {key: value}

    `sums` may cover any number of tokens: a window of training steps, the validation set.
    """
    s = dict(zip(SUMS, sums.tolist(), strict=True))
    n_text, n_coord = max(s["n_text"], 1.0), max(s["n_coord"], 1.0)
    text_ce = s["text_ce"] / n_text
    if variant.token_groups is TokenGroups.joint:
        base_ce = (s["text_ce"] + s["coord_token_ce"]) / max(s["n_text"] + s["n_coord"], 1.0)
        return {"loss": base_ce, "base_ce/loss": base_ce, "text_ce/loss": text_ce}

    row = {}
    coordinates = 0.0
    for term, weight in term_weights(variant).items():
        value = weight * s[term] / n_coord
        row[f"coord_softce_w1/{term}"] = value
        coordinates += value
    return {
        "loss": text_ce + coordinates,
        "base_ce/loss": text_ce,
        "text_ce/loss": text_ce,
        "coord_softce_w1/loss": coordinates,
        **row,
    }


def watched_values(
    sums: Tensor, abs_err_p90: float | None, variant: VariantConfig
) -> dict[str, float]:
    """The diagnostic keys of a log row, means over tokens  # [len(SUMS)] -> {key: value}

    Errors and distances are in bins, entropies in nats, the rest are shares of tokens or
    probabilities. `abs_err_p90` is the 90th percentile of the absolute error, which sums cannot
    give; with None its key is left out.
    """
    s = dict(zip(SUMS, sums.tolist(), strict=True))
    n_text, n_coord = max(s["n_text"], 1.0), max(s["n_coord"], 1.0)
    row = {"coord_diag/enabled": float(variant.token_groups is TokenGroups.split)}
    for prefix, label in (("coord_diag", "t1"), ("coord_diag_own_t", "own")):
        row[f"{prefix}/expected_bin_mae"] = s[f"abs_err_{label}"] / n_coord
        row[f"{prefix}/w1_to_delta"] = s[f"w1_to_delta_{label}"] / n_coord
        row[f"{prefix}/p_gt_mean"] = s[f"p_gt_{label}"] / n_coord
        row[f"{prefix}/entropy_mean"] = s[f"entropy_{label}"] / n_coord
    if abs_err_p90 is not None:
        row["coord_diag/expected_bin_abs_err_p90"] = abs_err_p90
    return row | {
        "coord_diag/coord_mass_mean": s["coord_mass"] / n_coord,
        "coord_diag/flips_to_text": s["to_text"] / n_coord,
        "coord_diag/flips_to_coord": s["to_coord"] / n_text,
        "coord_token_acc": s["coord_hits"] / n_coord,
        "text_token_acc": s["text_hits"] / n_text,
    }
