"""The metrics that may be compared across variants, and the ones that may not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from coordexp.schema import UserError


@dataclass(frozen=True)
class Metric:
    """A column of an eval row. `column` is the token table's, before its temperature label (None: no temperature)."""

    name: str
    label: str
    unit: str
    lower_is_better: bool
    key: str  # in a log row, after the temperature's prefix
    has_temperature: bool = True

    def better(self, a: float, b: float) -> bool:
        return a < b if self.lower_is_better else a > b

    def best(self, values: dict[str, float]) -> str | None:
        """The one name that holds the best value, or None where several do."""
        top = (min if self.lower_is_better else max)(values.values())
        holders = [name for name, value in values.items() if value == top]
        return holders[0] if len(holders) == 1 else None


METRICS = {
    m.name: m
    for m in (
        Metric("expected_bin_mae", "MAE", "bins", True, "expected_bin_mae"),
        Metric("expected_bin_abs_err_p90", "p90", "bins", True, "expected_bin_abs_err_p90"),
        Metric("w1_to_delta", "W1 to GT", "bins", True, "w1_to_delta"),
        Metric("coord_token_acc", "coord acc", "", False, "coord_token_acc", has_temperature=False),
        Metric("p_gt_mean", "p(GT)", "", False, "p_gt_mean"),
    )
}

TEMPERATURE_PREFIX = {"1": "coord_diag", "own": "coord_diag_own_t", "fitted": "coord_diag_fitted_t"}

NOT_COMPARABLE = ("loss", "base_ce/loss", "coord_softce_w1/loss")


def metric(name: str) -> Metric:
    """Raises UserError for a name that is unknown, or that must not rank variants."""
    plain_name = name.removeprefix("eval_")
    if plain_name in NOT_COMPARABLE:
        raise UserError(f"study.rule.metrics: {name} cannot rank variants: each objective sums other terms, so its scale differs")
    if name not in METRICS:
        raise UserError(f"study.rule.metrics: unknown metric {name}; known are {', '.join(METRICS)}")
    return METRICS[name]


def log_key(name: str, temperature: str) -> str:
    """The eval row's key of a metric at temperature "1", "own" or "fitted"."""
    found = metric(name)
    return f"{TEMPERATURE_PREFIX[temperature]}/{found.key}" if found.has_temperature else found.key


def metric_values(row: Mapping[str, float], temperature: str) -> dict[str, float]:
    """The comparable metrics that an eval row holds."""
    found = {name: row.get(log_key(name, temperature), math.nan) for name in METRICS}
    return {name: value for name, value in found.items() if math.isfinite(value)}
