"""A variant as data: sums of its terms over supervised rows, and one division by each group's count.

The loss is computed inside the wrapped module's forward, on the hidden states of supervised rows only: DDP sees
it, and full-sequence logits never exist. With D_g the count of token group g over the whole optimizer step (every
rank, every micro-batch) each micro-batch contributes world * sum_g S_g / D_g; nothing divides by the accumulation
count again, so how a step is cut into micro-batches and ranks does not change its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coordexp.data.batches import Batch
from coordexp.diagnostics import coord_mass, distribution_columns
from coordexp.losses import reference
from coordexp.schema import TokenGroups, VariantConfig

# Sums over rows that a micro-batch yields, in this order: first the loss terms (unweighted), then what is only watched.
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
    """Of one micro-batch. `loss` is what to call backward on; the rest carries no gradient."""

    loss: Tensor
    sums: Tensor  # [len(SUMS)] float64
    coord_logits: Tensor  # [C, K]
    coord_rows: dict[str, Tensor]  # {column: [C]}: hit, argmax_bin, coord_mass, and abs_err at T = 1


class Stage1Model(nn.Module):
    """The vision-language model and its objective in one module, the one that gets wrapped for several ranks."""

    coord_ids: Tensor  # [K]
    is_coord: Tensor  # [V] bool

    def __init__(self, vlm: Any, variant: VariantConfig, coord_ids: list[int]) -> None:
        super().__init__()
        self.vlm, self.variant = vlm, variant
        self.register_buffer("coord_ids", torch.tensor(coord_ids), persistent=False)
        is_coord = torch.zeros(vlm.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        is_coord[coord_ids] = True
        self.register_buffer("is_coord", is_coord, persistent=False)

    def forward(self, batch: Batch, denominators: Tensor, world: int = 1) -> Output:
        """`denominators` [2]: text and coordinate tokens of the whole optimizer step."""
        hidden = self.vlm.model(**batch.inputs, use_cache=False).last_hidden_state  # [B, L, d]
        hidden = hidden.flatten(0, 1)[batch.rows]  # [R, d]
        logits = self.vlm.lm_head(hidden)  # [R, V]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        on_coord = batch.bins >= 0
        text_logits, text_targets = logits[~on_coord], batch.targets[~on_coord]
        full_logits, bins = logits[on_coord], batch.bins[on_coord]
        slice_logits = full_logits[:, self.coord_ids]  # [C, K]
        terms = {
            "text_ce": reference.token_ce(text_logits, text_targets).sum(),
            **coordinate_sums(full_logits, slice_logits, batch.targets[on_coord], bins, self.variant),
        }
        loss = world * total_loss(terms, denominators, self.variant)
        with torch.no_grad():
            watched, rows = self._watch(text_logits, text_targets, full_logits, slice_logits, bins)
            counts = {"n_text": (~on_coord).sum(), "n_coord": on_coord.sum()}
            found = {**counts, **{name: value.detach() for name, value in terms.items()}, **watched}
            zero = torch.zeros((), device=loss.device)
            sums = torch.stack([found.get(name, zero).double() for name in SUMS])
        return Output(loss, sums, slice_logits.detach(), rows)

    def _watch(
        self, text_logits: Tensor, text_targets: Tensor, full_logits: Tensor, slice_logits: Tensor, bins: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        text_top, coord_top = text_logits.argmax(-1), full_logits.argmax(-1)
        rows = {
            "hit": coord_top == self.coord_ids[bins],
            "argmax_bin": slice_logits.argmax(-1),
            "coord_mass": coord_mass(full_logits, slice_logits),
        }
        sums = {
            "text_hits": (text_top == text_targets).sum(),
            "coord_hits": rows["hit"].sum(),
            "coord_mass": rows["coord_mass"].sum(),
            "to_text": (~self.is_coord[coord_top]).sum(),
            "to_coord": self.is_coord[text_top].sum(),
        }
        for label, temperature in (("own", self.variant.temperature), ("t1", 1.0)):
            columns = distribution_columns(slice_logits, bins, temperature)
            columns["abs_err"] = (columns["expected_bin"] - bins).abs()
            sums |= {f"{name}_{label}": columns[name].double().sum() for name in WATCHED}
        rows["abs_err"] = columns["abs_err"]  # at T = 1
        return sums, rows


def coordinate_sums(
    logits: Tensor, slice_logits: Tensor, targets: Tensor, bins: Tensor, variant: VariantConfig
) -> dict[str, Tensor]:
    """Unweighted sums of the terms the variant uses  # [C, V], [C, K], [C], [C] -> {term: scalar}"""
    if variant.token_groups is TokenGroups.joint:
        return {"coord_token_ce": reference.token_ce(logits, targets).sum()}
    t = variant.temperature
    q = reference.soft_target(bins, variant.sigma_bins, variant.radius_bins, slice_logits.dtype)
    formulas = {
        "soft_ce": lambda: reference.soft_ce(slice_logits, q, t),
        "w1": lambda: reference.w1(slice_logits, q, t),
        "gate": lambda: reference.gate(logits, slice_logits, t),
        "ce": lambda: reference.slice_ce(slice_logits, bins),
    }
    return {term: formula().sum() for term, formula in formulas.items() if getattr(variant, term)}


def total_loss(terms: dict[str, Tensor], denominators: Tensor, variant: VariantConfig) -> Tensor:
    """sum_g S_g / D_g; a group with D_g = 0 contributes 0."""
    n_text, n_coord = denominators.unbind()
    if variant.token_groups is TokenGroups.joint:
        return (terms["text_ce"] + terms["coord_token_ce"]) / (n_text + n_coord).clamp(min=1)
    coordinates = sum(getattr(variant, term) * terms[term] for term in COORD_TERMS if term in terms)
    return terms["text_ce"] / n_text.clamp(min=1) + coordinates / n_coord.clamp(min=1)


def loss_values(sums: Tensor, variant: VariantConfig) -> dict[str, float]:
    """The loss keys of a log row from sums over any number of tokens (a window of steps, the validation set)."""
    s = dict(zip(SUMS, sums.tolist(), strict=True))
    n_text, n_coord = max(s["n_text"], 1.0), max(s["n_coord"], 1.0)
    text_ce = s["text_ce"] / n_text
    if variant.token_groups is TokenGroups.joint:
        base_ce = (s["text_ce"] + s["coord_token_ce"]) / max(s["n_text"] + s["n_coord"], 1.0)
        return {"loss": base_ce, "base_ce/loss": base_ce, "text_ce/loss": text_ce}
    weighted = {term: getattr(variant, term) * s[term] / n_coord for term in COORD_TERMS if getattr(variant, term)}
    coordinates = sum(weighted.values())
    return {
        "loss": text_ce + coordinates,
        "base_ce/loss": text_ce,
        "text_ce/loss": text_ce,
        "coord_softce_w1/loss": coordinates,
        **{f"coord_softce_w1/{term}": value for term, value in weighted.items()},
    }


def watched_values(sums: Tensor, abs_err_p90: float | None, variant: VariantConfig) -> dict[str, float]:
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
