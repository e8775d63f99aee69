"""Figures of rollouts that a trainer writes into its log, without a result per image.

CoordExp writes `eval_det_*` (its evaluator) and `eval/detection/*` (its Stage-2 trainer); other
trainers write `eval_mAP`, `eval_map_50` and the like. They are no metrics of teacher forcing, so
they are kept apart from the evaluations.
"""

from __future__ import annotations

import re

from coordexp.metrics import PROBE_METRICS
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.logs.number_rows import Row

# Keys in lower case, without `eval_` or `eval/`, and what they are. CoordExp's `detection/f1` is
# not read: it matches by the IoU of masks, at a threshold that the log does not say.
SPELLINGS = {
    "ap": ("map", "bbox_ap", "bbox_map", "map_50_95", "map50_95", "coco/bbox_map"),
    "ap_50": ("map_50", "map50", "ap50", "bbox_ap50", "bbox_ap_50", "bbox_map_50", "map_0_5"),
    "f1_50": ("f1_50", "f1_0_5", "f1ish_0_50_f1_full_micro"),
    "f1_50_agnostic": ("f1_50_agnostic", "f1ish_0_50_f1_loc_micro"),
}
METRIC_OF = {spelling: metric for metric, all_of in SPELLINGS.items() for spelling in all_of}
_FAMILY = re.compile(r"^(det_|detection/)")
# Families of CoordExp's evaluation by rollouts: a row of nothing else is no teacher-forced one.
_OF_ROLLOUTS = re.compile(r"det_|(detection|parsing|description|config|runtime)/")
_TIMING = {"runtime", "samples_per_second", "steps_per_second", "epoch"}


def rollout_metric(key: str) -> str | None:
    """The probe's metric that an eval key (without `eval_`) stands for; None for another key."""
    spelt = _FAMILY.sub("", key.lower(), count=1)
    return METRIC_OF.get(re.sub(r"[@.\-]+", "_", spelt))


def rollout_figures(row: Row) -> Row:
    """The figures of a row of `log.rollouts`, by the names of the probe's metrics.

    A value that the metric cannot have is left out.
    """
    found: Row = {}
    for key, value in row.items():
        metric = rollout_metric(key)
        if metric is not None and PROBE_METRICS[metric].range.holds(value):
            found[metric] = value
    return found


def set_rollouts_aside(log: Log) -> None:
    """Move the values of rollouts from the evaluations of a log to `log.rollouts`.

    A step at which there was no other evaluation is none any more. A figure that its metric
    cannot have becomes a doubt.
    """
    odd: dict[str, str] = {}
    for step, row in list(log.evals.items()):
        aside = {key: value for key, value in row.items() if is_of_rollouts(key)}
        if not aside:
            continue
        rest = {key: value for key, value in row.items() if key not in aside}
        log.rollouts[step] = aside
        log.evals[step] = rest
        if rest.keys() <= _TIMING:
            log.rollouts[step] = row
            del log.evals[step]
        for key, value in aside.items():
            metric = rollout_metric(key)
            if metric is not None and not PROBE_METRICS[metric].range.holds(value):
                odd.setdefault(key, f"{value:g} at a step, not {PROBE_METRICS[metric].range}")
    for key, found in odd.items():
        log.doubt(f"{EVAL}{key} is {found}: such values do not count", "not used")


def is_of_rollouts(key: str) -> bool:
    """Whether an eval key (without `eval_`) is of an evaluation by rollouts."""
    return rollout_metric(key) is not None or _OF_ROLLOUTS.match(key) is not None
