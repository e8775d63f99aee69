"""Rollouts of this project: the directory of a probe, or one shard with its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coordexp.coords import LAST_BIN, parse_coordjson
from coordexp.data.records import Record
from coordexp.detection.average_precision import object_scores
from coordexp.detection.predictions.ground_truth import records_of
from coordexp.detection.predictions.images import (
    PredictedImage,
    PredictedObject,
    Predictions,
    TrueObject,
)
from coordexp.detection.probe_manifest import PROBE_FILE, MissingProbe, read_probe_manifest
from coordexp.detection.rollouts import Rollout, read_rollouts, record_of
from coordexp.detection.scores import named_boxes
from coordexp.errors import UserError

FORMAT = "rollouts of this project"
BINS = (float(LAST_BIN), float(LAST_BIN))


def read_own(path: Path, ground_truth: Path | None) -> Predictions:
    """The rollouts of a probe before its fine-tune, or those of one shard.

    Args:
        path: the directory of a probe, or a file `rollouts-*.jsonl`.
        ground_truth: the records; those that the probe names, where none are given.

    Raises:
        UserError: rollouts or records are damaged, missing, or do not belong together.
    """
    if path.is_dir():
        probe, shards = path, sorted(path.glob("before/rollouts-*.jsonl"))
    else:
        probe, shards = path.parent.parent, [path]
    if ground_truth is None and (probe / PROBE_FILE).is_file():
        manifest = read_probe_manifest(probe / PROBE_FILE)
        if isinstance(manifest, MissingProbe):
            raise UserError(f"{probe}: a probe without rollouts: {manifest.reason}")
        ground_truth = Path(manifest.records)
    records = records_of(ground_truth, path)
    rollouts = read_rollouts(shards)
    dropped: Counter[str] = Counter()
    images = [_image(rollout, records, dropped) for rollout in rollouts]
    return Predictions(FORMAT, images, dropped, [], knows_parsing=True, knows_truncation=True)


def _image(rollout: Rollout, records: Sequence[Record], dropped: Counter[str]) -> PredictedImage:
    parsed, record = parse_coordjson(rollout.text), record_of(rollout, records)
    dropped.update(parsed.dropped)
    truth = [TrueObject(name, box) for name, box in named_boxes(record.coord_objects())]
    scores = object_scores(rollout, parsed)
    predicted = [
        PredictedObject(name, box, score)
        for (name, box), score in zip(named_boxes(parsed.objects), scores, strict=True)
    ]
    return PredictedImage(
        record.image, BINS, tuple(truth), tuple(predicted), parsed.strict, parsed.truncated
    )
