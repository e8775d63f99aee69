"""Every metric the tools compare, and what it may be compared across: one entry here is all that a new one takes.

The firewall of the project stands here. A loss of an objective sums other terms over other tokens for each
variant, so it has no order across them, and `metric` refuses to rank by it (note, section "Metrics Used").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coordexp.errors import UserError

Columns = Mapping[str, np.ndarray]  # of a token table: name -> [C]


@dataclass(frozen=True)
class PerToken:
    """A value of each coordinate token, from columns of the token table ({T} stands for the temperature's label)."""

    reads: tuple[str, ...]
    value: Callable[..., np.ndarray]  # the columns, in that order -> [C]

    def columns(self, label: str) -> list[str]:
        return [name.replace("{T}", label) for name in self.reads]

    def __call__(self, columns: Columns, label: str) -> np.ndarray:
        """float64  # [C]"""
        found = self.value(
            *(np.asarray(columns[name], dtype=np.float64) for name in self.columns(label))
        )
        return np.asarray(found, dtype=np.float64)


def column(name: str) -> PerToken:
    """A column as it is."""
    return PerToken((name,), lambda values: values)


ABS_ERR = PerToken(
    ("expected_bin_{T}", "gt_bin"), lambda expected, gt: np.abs(expected - gt)
)  # bins


@dataclass(frozen=True)
class Metric:
    """A number of an eval row, under `key` (after the temperature's prefix where the metric has a temperature).

    With `per_token` runs whose log lacks the key have the metric too, and every run an interval: it is the mean
    over the tokens, or their `quantile`.
    """

    name: str
    label: str
    unit: str
    lower_is_better: bool | None  # None: neither, it describes
    key: str
    per_token: PerToken | None = None
    quantile: float | None = None
    tokens: str = "coordinate"  # which tokens it averages over: coordinate, text, supervised
    has_temperature: bool = True
    votes: bool = True  # a rule may rank by it; the others are shown beside
    across_objectives: bool = (
        True  # may be compared between variants, not only between runs of one variant
    )

    def better(self, a: float, b: float) -> bool:
        return a < b if self.lower_is_better else a > b

    def best(self, values: dict[str, float]) -> str | None:
        """The one name that holds the best value, or None where several do."""
        top = (min if self.lower_is_better else max)(values.values())
        holders = [name for name, value in values.items() if value == top]
        return holders[0] if len(holders) == 1 else None


REGISTRY = {
    m.name: m
    for m in (
        Metric("expected_bin_mae", "MAE", "bins", True, "expected_bin_mae", ABS_ERR),
        Metric("expected_bin_abs_err_p90", "p90", "bins", True, "expected_bin_abs_err_p90", ABS_ERR, quantile=0.9),
        Metric("w1_to_delta", "W1 to GT", "bins", True, "w1_to_delta", column("w1_to_delta_{T}")),
        Metric("coord_token_acc", "coord acc", "", False, "coord_token_acc", column("hit"), has_temperature=False),
        Metric("p_gt_mean", "p(GT)", "", False, "p_gt_mean", column("p_gt_{T}")),
        # shown beside them
        Metric("text_ce", "text CE", "nats", True, "text_ce/loss", tokens="text", has_temperature=False, votes=False),
        Metric("text_token_acc", "text acc", "", False, "text_token_acc", tokens="text", has_temperature=False, votes=False),
        Metric("coord_mass", "coord mass", "", False, "coord_diag/coord_mass_mean", column("coord_mass"),
               has_temperature=False, votes=False),
        Metric("entropy", "entropy", "nats", None, "entropy_mean", column("entropy_{T}"), votes=False),
        # never compared across variants
        Metric("loss", "loss", "nats", True, "loss", tokens="supervised",
               has_temperature=False, votes=False, across_objectives=False),
        Metric("base_ce", "base CE", "nats", True, "base_ce/loss", tokens="supervised",
               has_temperature=False, votes=False, across_objectives=False),
        Metric("coord_softce_w1", "coordinate terms", "nats", True, "coord_softce_w1/loss",
               has_temperature=False, votes=False, across_objectives=False),
    )
}  # fmt: skip

METRICS = {name: m for name, m in REGISTRY.items() if m.votes}
BESIDE = {name: m for name, m in REGISTRY.items() if not m.votes and m.across_objectives}

# The coordinate terms of an objective: their weights are fields of VariantConfig, and a log row has
# their parts of the loss as coord_softce_w1/<term>.
COORD_TERMS = ("soft_ce", "w1", "gate", "ce")

TEMPERATURE_PREFIX = {"1": "coord_diag", "own": "coord_diag_own_t", "fitted": "coord_diag_fitted_t"}
TEMPERATURE_LABEL = {"1": "t1", "own": "own", "fitted": "fitted"}  # in a token table's columns


def metric(name: str) -> Metric:
    """A metric a rule may rank variants by.

    Raises:
        UserError: the name is unknown, or must not rank variants; the message says why.
    """
    if name in METRICS:
        return METRICS[name]
    plain_name = name.removeprefix("eval_")
    refused = next((m for m in REGISTRY.values() if plain_name in (m.name, m.key)), None)
    if refused is None:
        raise UserError(
            f"study.rule.metrics: unknown metric {name}; known are {', '.join(METRICS)}"
        )
    if refused.across_objectives:
        raise UserError(
            f"study.rule.metrics: {name} cannot rank variants: it is shown beside the metrics and sets bars, no more"
        )
    raise UserError(
        f"study.rule.metrics: {name} cannot rank variants: each objective sums other terms over other tokens, "
        f"so its scale differs; rank by {', '.join(METRICS)}"
    )


def log_key(name: str, temperature: str) -> str:
    """The eval row's key of a metric at temperature "1", "own" or "fitted"."""
    m = REGISTRY[name]
    return f"{TEMPERATURE_PREFIX[temperature]}/{m.key}" if m.has_temperature else m.key


def metric_values(row: Mapping[str, float], temperature: str) -> dict[str, float]:
    """The metrics that an eval row holds and that may be compared across objectives."""
    found = {name: row.get(log_key(name, temperature), math.nan) for name in (*METRICS, *BESIDE)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


# --- what a Stage-2 probe measures of a candidate: one entry a signal ---


@dataclass(frozen=True)
class Signal:
    """A figure of a probe. `votes`: may rank candidates (the others explain)."""

    name: str
    label: str
    lower_is_better: bool | None
    of_images: bool = True  # has per-image contributions, so an interval


SIGNALS = {
    s.name: s
    for s in (
        Signal("parse_rate", "parse rate", False),
        Signal("f1_50", "F1@.5", False),
        Signal("f1_75", "F1@.75", False),
        Signal("f1", "F1@.5:.95", False),
        Signal("f1_50_agnostic", "F1@.5, names aside", False),
        Signal("precision_50", "precision@.5", False),
        Signal("recall_50", "recall@.5", False),
        Signal("mean_matched_iou", "matched IoU", False),
        Signal("count_ratio", "count ratio", None),
        Signal("duplicate_rate", "duplicates", True),
        Signal("truncation_rate", "truncated", True),
        Signal("ap", "COCO AP", False, of_images=False),
        Signal("geo_loss_before", "geometric loss, start", True),
        Signal("geo_loss_after", "geometric loss, end", True),
        Signal("geo_loss_slope", "slope a step", None, of_images=False),
        Signal("parse_rate_after", "parse rate, end", False),
        Signal("f1_50_after", "F1@.5, end", False),
        Signal("f1_after", "F1@.5:.95, end", False),
    )
}


def lower_is_better(name: str) -> bool | None:
    """The better side of a metric or of a signal of the Stage-2 probe; None where neither is."""
    return (SIGNALS.get(name) or REGISTRY[name]).lower_is_better


def signal(name: str) -> Signal:
    """A signal a rule may judge candidates by.

    Raises:
        UserError: the name is unknown, or has no direction or no per-image contributions, so no interval.
    """
    usable = [s.name for s in SIGNALS.values() if s.of_images and s.lower_is_better is not None]
    if name not in usable:
        raise UserError(f"study.rule.probe.signal={name}: must be one of {', '.join(usable)}")
    return SIGNALS[name]
