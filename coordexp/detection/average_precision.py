"""COCO average precision of rollouts; predictions are ranked by their token probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coordexp.coords import Parsed, parse_coordjson
from coordexp.data.records import Record
from coordexp.detection.matching import Box
from coordexp.detection.rollouts import Rollout, record_of
from coordexp.detection.scores import named_boxes
from coordexp.errors import UserError

NAMES = ("ap", "ap_50", "ap_75")  # mean over IoU .5 … .95, and at .5 and .75


def object_scores(rollout: Rollout, parsed: Parsed) -> list[float]:
    """The geometric mean probability of the tokens of each valid object, in (0, 1].

    That is exp(mean log-probability). An object's tokens are those whose characters all lie in its
    span. A token that reaches beyond it (such as `}, {"`) depends as much on the neighbouring
    object and is left out. With a mean instead of a sum, objects with long names or polygons are
    comparable to short ones.

    Raises:
        UserError: no token lies in an object: the tokens do not fit the text.
    """
    ends = np.array(rollout.token_ends, dtype=np.int64)  # [C] for C tokens
    starts = np.concatenate([[0], ends[:-1]])
    logprobs = np.array(rollout.token_logprobs, dtype=np.float64)
    scores = []
    for begin, end in parsed.spans:
        # A token that completes no character (part of a multi-token character, end of the text)
        # belongs to an object only if it lies strictly inside its span.
        first = max(np.searchsorted(starts, begin), np.searchsorted(ends, begin, side="right"))
        behind = min(np.searchsorted(ends, end, side="right"), np.searchsorted(starts, end))
        if first >= behind:
            where = (
                f"rollout of image {rollout.image_id}: "
                f"no token lies within characters {begin} to {end}"
            )
            raise UserError(f"{where}: token_ends do not fit the text, roll out again")
        scores.append(float(np.exp(logprobs[first:behind].mean())))
    return scores


def average_precision(rollouts: Sequence[Rollout], records: Sequence[Record]) -> dict[str, float]:
    """`ap`, `ap_50`, `ap_75` over the images that have a rollout, by COCO's own rules.

    The implementation is faster-coco-eval; the metric is that of Lin et al. 2014. Differences from
    the matching of scores.py:

    - Pairs are matched greedily by score.
    - Every category has the same weight, however rare it is.
    - At most 100 predictions per image and category count.
    - A box without area matches nothing.
    - Categories are the names (blanks at their ends stripped) in the ground truth. A prediction
      with any other name has no effect here; in precision and F1 it is a false positive.

    Without ground truth or predictions all three are 0.

    Raises:
        UserError: a rollout made from other records, or whose tokens do not fit its text.
    """
    truth: list[tuple[int, str, Box, float]] = []  # image_id, name, box, score
    predicted: list[tuple[int, str, Box, float]] = []
    for rollout in rollouts:
        image, parsed = rollout.image_id, parse_coordjson(rollout.text)
        truth += [
            (image, name.strip(), box, 1.0)
            for name, box in named_boxes(record_of(rollout, records).coord_objects())
        ]
        named = zip(named_boxes(parsed.objects), object_scores(rollout, parsed), strict=True)
        predicted += [(image, name.strip(), box, score) for (name, box), score in named]
    categories = {
        name: number
        for number, name in enumerate(sorted({name for _, name, _, _ in truth}), start=1)
    }
    predicted = [p for p in predicted if p[1] in categories]
    if not predicted:
        return dict.fromkeys(NAMES, 0.0)
    return _evaluate([rollout.image_id for rollout in rollouts], categories, truth, predicted)


def _evaluate(
    images: list[int], categories: dict[str, int], truth: list[Any], predicted: list[Any]
) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster  # a compiled library, used only here

    def annotations(objects: list[Any]) -> list[dict[str, Any]]:
        """COCO's form: x, y, width, height; ids from 1, since 0 means unmatched."""
        return [
            {
                "id": i,
                "image_id": image,
                "category_id": categories[name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for i, (image, name, (x1, y1, x2, y2), score) in enumerate(objects, start=1)
        ]

    reference = COCO(
        {
            "images": [{"id": image} for image in images],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": annotations(truth),
        },
        print_function=_silent,
    )
    evaluation = COCOeval_faster(
        reference, reference.loadRes(annotations(predicted)), iouType="bbox", print_function=_silent
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: float(value) for name, value in zip(NAMES, evaluation.stats, strict=False)}


def _silent(*_: Any) -> None:
    """Replacement for the library's print function: no output."""
