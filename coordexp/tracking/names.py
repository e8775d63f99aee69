"""Names of metrics in MLflow: what may be compared between runs stands first and alone.

    comparable/crps             of evaluations, at the temperature fitted to the run
    comparable_as_logged/crps   of logs without such values, at the temperature of the log
    detail/pure_ce/loss         losses, each under its variant: two never share a chart
    detail/grad_norm            everything else, under its key in the log

MLflow makes a section of charts of each prefix, in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordexp.metrics import METRICS, REGISTRY, TEMPERATURE_PREFIX, log_key
from coordexp.storage.logs.log import EVAL

COMPARABLE, AS_LOGGED, DETAIL = "comparable", "comparable_as_logged", "detail"
SUBSET = "train_subset/"  # of an eval row: the same keys, on images of the training set
LOSSES = {m.key for m in REGISTRY.values() if not m.across_objectives}
LOSS_TERMS = "coord_softce_w1/"
FORM = "2"  # of the names; runs that were imported under others are imported again


def shown_names(keys: Iterable[str], variant: str) -> dict[str, str]:
    """The name in MLflow of each key of a log. No two keys get the same.

    Args:
        keys: of all rows of a run, those of eval rows with `eval_`.
        variant: of the run.
    """
    keys = set(keys)
    fitted = f"{EVAL}{TEMPERATURE_PREFIX['fitted']}/"
    has_fitted = any(key.startswith(fitted) for key in keys)
    temperature = "fitted" if has_fitted else "1"
    names = {}
    for name, metric in METRICS.items():
        group = COMPARABLE if has_fitted or not metric.has_temperature else AS_LOGGED
        names[EVAL + log_key(name, temperature)] = f"{group}/{name}"
    return {key: names.get(key) or detail_name(key, variant) for key in keys}


def detail_name(key: str, variant: str) -> str:
    """The name of a key that is not compared: a loss is kept apart from those of other variants."""
    bare = key.removeprefix(EVAL).removeprefix(SUBSET)
    is_loss = bare in LOSSES or bare.startswith(LOSS_TERMS)
    return f"{DETAIL}/{variant}/{key}" if is_loss else f"{DETAIL}/{key}"
