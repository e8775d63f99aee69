"""What a Stage-2 probe measures of a candidate: one entry a signal."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.schema import UserError


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


def signal(name: str) -> Signal:
    """A signal a rule may judge candidates by.

    Raises:
        UserError: the name is unknown, or has no direction or no per-image contributions, so no interval.
    """
    usable = [s.name for s in SIGNALS.values() if s.of_images and s.lower_is_better is not None]
    if name not in usable:
        raise UserError(f"study.rule.probe.signal={name}: must be one of {', '.join(usable)}")
    return SIGNALS[name]
