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

TrueBox = tuple[int, str, Box, bool]  # image, name, box, crowd
RankedBox = tuple[int, str, Box, float]  # image, name, box, score
Annotation = dict[str, Any]  # in COCO's form


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
    truth: list[TrueBox] = []
    predicted: list[RankedBox] = []
    for rollout in rollouts:
        image, parsed = rollout.image_id, parse_coordjson(rollout.text)
        objects = record_of(rollout, records).coord_objects()
        truth += [(image, name, box, False) for name, box in named_boxes(objects)]
        named = zip(named_boxes(parsed.objects), object_scores(rollout, parsed), strict=True)
        predicted += [(image, name, box, score) for (name, box), score in named]
    return coco_precision([rollout.image_id for rollout in rollouts], truth, predicted)


def coco_precision(
    images: Sequence[int], truth: Sequence[TrueBox], predicted: Sequence[RankedBox]
) -> dict[str, float]:
    """`ap`, `ap_50`, `ap_75` of boxes, as `average_precision` describes them.

    What lies in a crowd counts neither as right nor as wrong.
    """
    names = sorted({name.strip() for _, name, _, _ in truth})
    categories = {name: number for number, name in enumerate(names, start=1)}
    true_boxes: list[Annotation] = []
    ranked_boxes: list[Annotation] = []
    for image, name, box, crowd in truth:
        entry = _annotation(image, categories[name.strip()], box, len(true_boxes) + 1)
        true_boxes.append(entry | {"iscrowd": int(crowd)})
    for image, name, box, score in predicted:
        if name.strip() in categories:
            entry = _annotation(image, categories[name.strip()], box, len(ranked_boxes) + 1)
            ranked_boxes.append(entry | {"iscrowd": 0, "score": score})
    if not ranked_boxes:
        return dict.fromkeys(NAMES, 0.0)
    return _evaluate(images, categories, true_boxes, ranked_boxes)


def _annotation(image: int, category: int, box: Box, number: int) -> Annotation:
    """A box in COCO's form: x, y, width, height; numbers from 1, since 0 means unmatched."""
    x1, y1, x2, y2 = box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
    }


def _evaluate(
    images: Sequence[int],
    categories: dict[str, int],
    truth: list[Annotation],
    predicted: list[Annotation],
) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster  # a compiled library, used only here

    reference = COCO(
        {
            "images": [{"id": image} for image in images],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": truth,
        },
        print_function=_silent,
    )
    evaluation = COCOeval_faster(
        reference, reference.loadRes(predicted), iouType="bbox", print_function=_silent
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {
        name: max(0.0, float(value))  # -1 where all true boxes are crowds
        for name, value in zip(NAMES, evaluation.stats, strict=False)
    }


def _silent(*_: Any) -> None:
    """Replacement for the library's print function: no output."""
