"""What a pass over supervised tokens yields: sums, from which the loss and every key of a log row follow.

Sums can be added over micro-batches, ranks and windows; means cannot. Text and coordinate tokens are two groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from coordexp.config.schema import TokenGroups, VariantConfig

# First the loss terms (unweighted), then what is only watched.
COORD_TERMS = ("soft_ce", "w1", "gate", "ce")
WATCHED = ("abs_err", "w1_to_delta", "p_gt", "entropy")
SUMS = (
    *("n_text", "n_coord", "text_ce", "coord_token_ce"),
    *COORD_TERMS,
    *("text_hits", "coord_hits", "coord_mass", "to_text", "to_coord"),
    *(f"{name}_t1" for name in WATCHED),
    *(f"{name}_own" for name in WATCHED),
)


@dataclass
class Output:
    """Of one micro-batch with C coordinate tokens. `loss` is what to call backward on; the rest carries no gradient."""

    loss: Tensor
    sums: Tensor  # [len(SUMS)] float64
    columns: dict[str, Tensor]  # {name: [C]}: hit, argmax_bin, coord_mass, and abs_err at T = 1
    coord_logits: Tensor | None  # [C, K]; kept only by a pass that forms no gradients


def group_scales(denominators: Tensor, variant: VariantConfig) -> tuple[Tensor, Tensor]:
    """1 / D_g in float64, for text and for coordinate tokens; an empty group has nothing to multiply  # [2] -> scalars"""
    n_text, n_coord = denominators.double().unbind()
    if variant.token_groups is TokenGroups.joint:
        n_text = n_coord = n_text + n_coord
    return 1 / n_text.clamp(min=1), 1 / n_coord.clamp(min=1)


def total_loss(terms: Mapping[str, Tensor], denominators: Tensor, variant: VariantConfig) -> Tensor:
    """sum_g S_g / D_g in float64  # {term: sum}, [2] -> scalar"""
    text, coord = group_scales(denominators, variant)
    if variant.token_groups is TokenGroups.joint:
        return text * (terms["text_ce"] + terms["coord_token_ce"])
    return text * terms["text_ce"] + coord * sum(
        getattr(variant, t) * terms[t] for t in COORD_TERMS if getattr(variant, t)
    )


def loss_values(sums: Tensor, variant: VariantConfig) -> dict[str, float]:
    """The loss keys of a log row from sums over any number of tokens (a window of steps, the validation set)."""
    s = dict(zip(SUMS, sums.tolist(), strict=True))
    n_text, n_coord = max(s["n_text"], 1.0), max(s["n_coord"], 1.0)
    text_ce = s["text_ce"] / n_text
    if variant.token_groups is TokenGroups.joint:
        base_ce = (s["text_ce"] + s["coord_token_ce"]) / max(s["n_text"] + s["n_coord"], 1.0)
        return {"loss": base_ce, "base_ce/loss": base_ce, "text_ce/loss": text_ce}
    weighted = {
        term: getattr(variant, term) * s[term] / n_coord
        for term in COORD_TERMS
        if getattr(variant, term)
    }
    coordinates = sum(weighted.values())
    return {
        "loss": text_ce + coordinates,
        "base_ce/loss": text_ce,
        "text_ce/loss": text_ce,
        "coord_softce_w1/loss": coordinates,
        **{f"coord_softce_w1/{term}": value for term, value in weighted.items()},
    }


def watched_values(
    sums: Tensor, abs_err_p90: float | None, variant: VariantConfig
) -> dict[str, float]:
    """The diagnostic keys of a log row, token-weighted."""
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
