"""What the experiment's page says of itself, and the view of it that links open."""

from __future__ import annotations

import json
from typing import Any

from coordexp.metrics import METRICS
from coordexp.tracking.experiment import VIEW
from coordexp.tracking.names import AS_LOGGED, COMPARABLE, DETAIL

HEADER_PX, CHARACTER_PX = 30, 7  # of a column's name
NOTE = f"""\
**Compare `{COMPARABLE}/…`, never the losses of two variants.** One row is one training or one
study's decision, whose description is the card. The arrow at the right shows more.

- `{COMPARABLE}/…`: validation metrics, at the temperature fitted to each run.
  `{AS_LOGGED}/…`: the same of logs without such values, at their own temperature. The card
  decides by them with intervals; a difference of two curves alone decides nothing.
- Losses of variants sum other terms over other tokens. They stand under `{DETAIL}/VARIANT/…`.
- **All other charts**: clear the search field above the charts, which holds `{COMPARABLE}`.
- **Filter runs**: ``tags.variant = 'pure_ce'``, ``tags.status = 'complete'``,
  ``params.seed = '0'``, ``metrics.`{COMPARABLE}/crps` < 20``, ``tags.hash8 = '…'`` (the digits
  in a path of `results/`).
- **Checkpoints that a study recommends**: Model registry, aliases `stage2-primary` and
  `stage2-secondary`.
- All of this is copied from `results/`; nothing is read back from here."""


def view_state() -> dict[str, Any]:
    """The columns of the runs table, and the charts that are shown first.

    The form is that of MLflow's button "Share": the page reads it from a tag of the experiment.
    """
    names = [f"{COMPARABLE}/{name}" for name in METRICS]
    metrics = {f"metrics.`{name}`": HEADER_PX + CHARACTER_PX * len(name) for name in names}
    others = {"tags.`status`": 100, "attributes.`Dataset`": 220}
    return {
        "selectedColumns": [*metrics, *others],
        "columnOrder": [*metrics, *others],
        "columnWidths": metrics | others,
        "chartsSearchFilter": COMPARABLE,
        "hideEmptyCharts": True,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
    }


def experiment_tags() -> dict[str, str]:
    """The tags of the experiment."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": NOTE,
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view_state()),
    }
