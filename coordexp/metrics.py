"""The registry of metrics: what each measures, and between which runs it may be compared.

A new metric needs one entry here and nothing else. The loss of each variant sums different terms
over different tokens, so losses cannot be compared between variants: `metric` refuses to rank by
them, in agreement with the note's section "Metrics Used".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coordexp.errors import UserError

Columns = Mapping[str, np.ndarray]  # columns of a token table with C rows: name -> [C]


@dataclass(frozen=True)
class PerToken:
    """A value of each coordinate token, computed from columns of the token table.

    In the column names {T} stands for the label of a temperature (see TEMPERATURE_LABEL).
    """

    reads: tuple[str, ...]
    value: Callable[..., np.ndarray]  # the columns, in that order -> [C]

    def columns(self, label: str) -> list[str]:
        """Names of the columns that are read at the temperature with this label."""
        return [name.replace("{T}", label) for name in self.reads]

    def __call__(self, columns: Columns, label: str) -> np.ndarray:
        """The values at the temperature with this label, float64  # [C]"""
        arguments = [np.asarray(columns[name], dtype=np.float64) for name in self.columns(label)]
        return np.asarray(self.value(*arguments), dtype=np.float64)


def column(name: str) -> PerToken:
    """The values of one column."""
    return PerToken((name,), lambda values: values)


# |expected bin - ground-truth bin|, bins
ABS_ERR = PerToken(("expected_bin_{T}", "gt_bin"), lambda expected, gt: np.abs(expected - gt))


SLACK = 1e-3  # logs round their values


@dataclass(frozen=True)
class Range:
    """The values that a metric can have at all."""

    lowest: float = 0.0
    highest: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a value is possible, but for rounding; NaN is not."""
        return self.lowest - SLACK <= value <= self.highest + SLACK

    def __str__(self) -> str:
        if math.isinf(self.highest):
            return "any number" if math.isinf(self.lowest) else f"at least {self.lowest:g}"
        return f"from {self.lowest:g} to {self.highest:g}"


# Distances lie between bins; what has no unit are probabilities and shares.
BINS, SHARE, NATS, ANY = Range(0, 999), Range(0, 1), Range(0, 1e6), Range(-math.inf)
RANGES = {"bins": BINS, "": SHARE, "nats": NATS}


@dataclass(frozen=True)
class Metric:
    """A value of an eval row.

    With `per_token` it can also be computed from a token table, as the mean or the `quantile` over
    tokens. Then a run with token tables has the metric even if its log lacks the key, and the
    metric has an interval.
    """

    name: str
    label: str  # in tables and figures
    unit: str
    lower_is_better: bool | None  # None: neither direction is better, the metric is descriptive
    key: str  # in the log, after TEMPERATURE_PREFIX where the metric has a temperature
    per_token: PerToken | None = None
    quantile: float | None = None
    tokens: str = "coordinate"  # the tokens it averages over: coordinate, text, supervised
    has_temperature: bool = True
    votes: bool = True  # a rule may rank by it; the others are shown beside the ranking
    across_objectives: bool = True  # comparable between variants, not only within one variant

    @property
    def range(self) -> Range:
        return RANGES[self.unit]

    def better(self, a: float, b: float) -> bool:
        """Whether the value `a` is better than `b`."""
        return a < b if self.lower_is_better else a > b

    def best(self, values: Mapping[str, float]) -> str | None:
        """The name with the best value, or None where several have it."""
        return single_best(values, bool(self.lower_is_better))


def best(values: Mapping[str, float], lower_is_better: bool) -> list[str]:
    """The names with the best value; several if their values are equal."""
    top = min(values.values()) if lower_is_better else max(values.values())
    return [name for name, value in values.items() if value == top]


def single_best(values: Mapping[str, float], lower_is_better: bool) -> str | None:
    """The only name with the best value; None if several have exactly this value."""
    names = best(values, lower_is_better)
    return names[0] if len(names) == 1 else None


# fmt: off
_METRICS = (
    # A rule may rank variants by these. The first two are proper scores: no other distribution than
    # the one that a model believes gives it a better expected value.
    Metric("crps", "CRPS", "bins", True, "crps", column("crps_{T}")),
    Metric("nll", "NLL", "nats", True, "nll", column("nll_{T}")),
    Metric("expected_bin_mae", "MAE", "bins", True, "expected_bin_mae", ABS_ERR),
    Metric("expected_bin_abs_err_p90", "p90", "bins", True, "expected_bin_abs_err_p90", ABS_ERR,
           quantile=0.9),
    Metric("w1_to_delta", "W1 to GT", "bins", True, "w1_to_delta", column("w1_to_delta_{T}")),
    Metric("coord_token_acc", "coord acc", "", False, "coord_token_acc", column("hit"),
           has_temperature=False),
    Metric("p_gt_mean", "p(GT)", "", False, "p_gt_mean", column("p_gt_{T}")),
    # These are shown beside them.
    Metric("text_ce", "text CE", "nats", True, "text_ce/loss",
           tokens="text", has_temperature=False, votes=False),
    Metric("text_token_acc", "text acc", "", False, "text_token_acc",
           tokens="text", has_temperature=False, votes=False),
    Metric("coord_mass", "coord mass", "", False, "coord_diag/coord_mass_mean",
           column("coord_mass"), has_temperature=False, votes=False),
    Metric("entropy", "entropy", "nats", None, "entropy_mean", column("entropy_{T}"), votes=False),
    # These are never compared between variants.
    Metric("loss", "loss", "nats", True, "loss",
           tokens="supervised", has_temperature=False, votes=False, across_objectives=False),
    Metric("base_ce", "base CE", "nats", True, "base_ce/loss",
           tokens="supervised", has_temperature=False, votes=False, across_objectives=False),
    Metric("coord_softce_w1", "coordinate terms", "nats", True, "coord_softce_w1/loss",
           has_temperature=False, votes=False, across_objectives=False),
)
# fmt: on
REGISTRY = {m.name: m for m in _METRICS}
# What the columns of a token table can hold, by their names without the label of a temperature.
COLUMN_RANGES = {"expected_bin": BINS, "gt_bin": BINS, "box_area_px": Range()} | {
    m.per_token.reads[0].removesuffix("_{T}"): m.range
    for m in _METRICS
    if m.per_token and len(m.per_token.reads) == 1
}
METRICS = {name: m for name, m in REGISTRY.items() if m.votes}
BESIDE = {name: m for name, m in REGISTRY.items() if not m.votes and m.across_objectives}

# The coordinate terms of an objective. Their weights are fields of VariantConfig. A log row has the
# share of each in the loss as coord_softce_w1/<term>.
COORD_TERMS = ("soft_ce", "w1", "gate", "ce")

# The temperatures at which diagnostics are computed: 1, the variant's own, and the one fitted to
# the run's predictions. The keys are their names in a rule; the values are the prefix in an eval
# row, and the label in a token table's column names.
TEMPERATURE_PREFIX = {"1": "coord_diag", "own": "coord_diag_own_t", "fitted": "coord_diag_fitted_t"}
TEMPERATURE_LABEL = {"1": "t1", "own": "own", "fitted": "fitted"}


def metric(name: str) -> Metric:
    """A metric that a rule may rank variants by.

    Raises:
        UserError: the name is unknown, or the metric cannot rank variants; the message says why.
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
            f"study.rule.metrics: {name} cannot rank variants: "
            "it is shown beside the metrics and sets bars, no more"
        )
    raise UserError(
        f"study.rule.metrics: {name} cannot rank variants: each objective sums other terms over "
        f"other tokens, so its scale differs; rank by {', '.join(METRICS)}"
    )


def log_key(name: str, temperature: str) -> str:
    """The key of a metric in an eval row, at temperature "1", "own" or "fitted"."""
    m = REGISTRY[name]
    return f"{TEMPERATURE_PREFIX[temperature]}/{m.key}" if m.has_temperature else m.key


def metric_values(row: Mapping[str, float], temperature: str) -> dict[str, float]:
    """{metric: value} of an eval row, for the metrics that may be compared between variants.

    Values that are missing or not finite are left out.
    """
    values = {}
    for name in (*METRICS, *BESIDE):
        value = row.get(log_key(name, temperature), math.nan)
        if math.isfinite(value):
            values[name] = value
    return values


# --- What a Stage-2 probe measures on a checkpoint: one entry per metric. ---


@dataclass(frozen=True)
class ProbeMetric:
    """A value that a probe measures."""

    name: str
    label: str
    lower_is_better: bool | None
    of_images: bool = True  # computed from sums over images, so it has an interval
    decides: bool = True  # a rule may compare candidates by it; the others are shown beside
    range: Range = SHARE


PROBE_METRICS = {
    s.name: s
    for s in (
        ProbeMetric("parse_rate", "parse rate", False),
        ProbeMetric("f1_50", "F1@.5", False),
        ProbeMetric("f1_75", "F1@.75", False),
        ProbeMetric("f1", "F1@.5:.95", False),
        ProbeMetric("f1_agnostic", "F1@.5:.95, class-agnostic", False),
        ProbeMetric("f1_50_agnostic", "F1@.5, class-agnostic", False),
        ProbeMetric("names_f1", "F1 of names, boxes ignored", False),
        ProbeMetric("precision_50", "precision@.5", False),
        ProbeMetric("recall_50", "recall@.5", False),
        ProbeMetric("mean_matched_iou", "matched IoU", False),
        ProbeMetric("count_ratio", "count ratio", None, range=Range()),
        ProbeMetric("duplicate_rate", "duplicates", True),
        ProbeMetric("truncation_rate", "truncated", True),
        ProbeMetric("ap", "COCO AP", False, of_images=False),
        ProbeMetric("ap_50", "COCO AP@.5", False, of_images=False),
        ProbeMetric("geo_loss_before", "geometric loss, start", True, range=Range()),
        ProbeMetric("geo_loss_after", "geometric loss, end", True, range=Range()),
        ProbeMetric("geo_loss_slope", "slope a step", None, of_images=False, range=ANY),
        ProbeMetric("parse_rate_after", "parse rate, end", False),
        ProbeMetric("f1_50_after", "F1@.5, end", False),
        ProbeMetric("f1_after", "F1@.5:.95, end", False),
        ProbeMetric("f1_agnostic_after", "F1@.5:.95, class-agnostic, end", False),
        ProbeMetric("f1_50_agnostic_after", "F1@.5, class-agnostic, end", False),
        ProbeMetric("names_f1_after", "F1 of names, boxes ignored, end", False),
        # Of the checkpoint before the fine-tune, on images that were also shown another picture.
        ProbeMetric("mae_right", "MAE, right picture (bins)", True, decides=False, range=BINS),
        ProbeMetric("mae_swapped", "MAE, another picture (bins)", None, decides=False, range=BINS),
        ProbeMetric(
            "visual_contribution",
            "visual contribution (bins)",
            False,
            decides=False,
            range=Range(-999, 999),
        ),
        ProbeMetric("f1_50_right", "F1@.5, class-agnostic, right picture", False, decides=False),
        ProbeMetric("f1_50_swapped", "F1@.5, class-agnostic, another picture", None, decides=False),
    )
}


def impossible_figure(figures: Mapping[str, float]) -> str | None:
    """The first probe metric with a value that it cannot have, in words; None if there is none."""
    for name, value in figures.items():
        found = PROBE_METRICS.get(name)
        if found and not found.range.holds(value):
            return f"{name} is {value:g}, not {found.range}"
    return None


def lower_is_better(name: str) -> bool | None:
    """Whether lower is better on a metric of a log or a probe; None if neither side is better."""
    return (PROBE_METRICS.get(name) or REGISTRY[name]).lower_is_better


def deciding_probe_metric(name: str) -> ProbeMetric:
    """A probe metric by which a rule may compare checkpoints.

    Raises:
        UserError: the name is unknown, or the metric has no direction, or no interval.
    """
    usable = [
        s.name
        for s in PROBE_METRICS.values()
        if s.decides and s.of_images and s.lower_is_better is not None
    ]
    if name not in usable:
        raise UserError(f"study.rule.probe.signal={name}: must be one of {', '.join(usable)}")
    return PROBE_METRICS[name]
