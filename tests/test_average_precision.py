"""COCO average precision against pycocotools; object scores by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.coords import CoordObject, parse_coordjson, write_coordjson
from coordexp.data.records import Record, RecordObject
from coordexp.detection.average_precision import average_precision, object_scores
from coordexp.detection.rollouts import Rollout

CUP = RecordObject("cup", "bbox_2d", (100.0, 100.0, 200.0, 200.0))
DOG = RecordObject("dog", "bbox_2d", (300.0, 300.0, 500.0, 400.0))
RECORD = Record("0.png", 1000, 1000, (CUP, DOG))


def rollout(text: str, image: int = 0, scores: list[float] | None = None) -> Rollout:
    """One token per character; those of object n have log-probability log(scores[n]), others 0."""
    logprobs = [0.0] * len(text)
    for (begin, end), score in zip(
        parse_coordjson(text).spans, scores or [], strict=scores is not None
    ):
        logprobs[begin:end] = [math.log(score)] * (end - begin)
    ends = list(range(1, len(text) + 1))
    return Rollout(image, f"{image}.png", text, True, len(text), ends, logprobs)


def score_of(tokens: list[tuple[str, float]]) -> list[float]:
    text = "".join(piece for piece, _ in tokens)
    ends = np.cumsum([len(piece) for piece, _ in tokens]).tolist()
    logprobs = [logprob for _, logprob in tokens]
    written = replace(rollout(text), token_ends=ends, token_logprobs=logprobs)
    return object_scores(written, parse_coordjson(text))


def test_score_is_the_geometric_mean_over_tokens_of_the_object():
    box = [(f"<|coord_{k}|>{', ' if k < 4 else ''}", -0.3) for k in (1, 2, 3, 4)]
    head, name = (
        ('{"objects": [', -9.0),
        [('{"desc": "', -0.1), ("cup", -1.0), ('", "bbox_2d": [', -0.2)],
    )
    inside = [-0.1, -1.0, -0.2, *[-0.3] * 4, -0.5]
    expected = math.exp(sum(inside) / len(inside))
    assert score_of([head, *name, *box, ("]}", -0.5), ("]}", -9.0), ("", -9.0)]) == pytest.approx(
        [expected]
    )
    assert score_of([head, ("", -9.0), *name, *box, ("]}", -0.5), ("", -9.0)]) == pytest.approx(
        [expected]
    ), "no character, at an end"

    crossing = [
        head,
        *name,
        *box,
        ("]}, {", -9.0),
        ('"desc": "', -9.0),
        *name[1:],
        *box,
        ("]}]}", -9.0),
    ]
    first, second = [-0.1, -1.0, -0.2, *[-0.3] * 4], [-9.0, -1.0, -0.2, *[-0.3] * 4]
    assert score_of(crossing) == pytest.approx(
        [math.exp(np.mean(first)), math.exp(np.mean(second))]
    ), "tokens of two are no one's"

    in_bytes = [head, name[0], ("", -2.0), ("é", -1.0), name[2], *box, ("]}", -0.5), ("]}", -9.0)]
    assert score_of(in_bytes) == pytest.approx(
        [math.exp(np.mean([-0.1, -2.0, -1.0, -0.2, *[-0.3] * 4, -0.5]))]
    )


def test_tokens_that_do_not_fit_the_text_are_refused(refused):
    text = write_coordjson(RECORD.coord_objects())
    for changes in (
        {"token_ends": [], "token_logprobs": []},
        {"token_ends": [len(text)], "token_logprobs": [-1.0]},
    ):
        with refused("image 0", "token_ends"):
            average_precision([replace(rollout(text), **changes)], [RECORD])


def test_truth_has_a_precision_of_one():
    found = average_precision([rollout(write_coordjson(RECORD.coord_objects()))], [RECORD])
    assert found == pytest.approx({"ap": 1, "ap_50": 1, "ap_75": 1}, abs=1e-9)


def test_a_sure_false_one_costs_more_than_an_unsure_one():
    cup, dog = RECORD.coord_objects()
    false = CoordObject("cup", "bbox_2d", (600, 600, 700, 700))
    text = write_coordjson([cup, false, dog])
    sure = average_precision([rollout(text, scores=[0.5, 0.9, 0.5])], [RECORD])
    unsure = average_precision([rollout(text, scores=[0.9, 0.5, 0.5])], [RECORD])
    assert sure == pytest.approx({"ap": 0.75, "ap_50": 0.75, "ap_75": 0.75}, abs=1e-9), (
        "1/2 for the cups, 1 for the dogs"
    )
    assert unsure == pytest.approx({"ap": 1, "ap_50": 1, "ap_75": 1}, abs=1e-9)


def test_a_shifted_box_counts_at_the_thresholds_it_meets():
    _, dog = RECORD.coord_objects()
    # IoU 2/3: 4 thresholds of 10.
    text = write_coordjson([CoordObject("cup", "bbox_2d", (120, 100, 220, 200)), dog])
    assert average_precision([rollout(text)], [RECORD]) == pytest.approx(
        {"ap": 0.7, "ap_50": 1, "ap_75": 0.5}, abs=1e-9
    )


def test_names_that_no_truth_has_change_nothing():
    objects = RECORD.coord_objects()
    text = write_coordjson(
        [
            *objects,
            CoordObject("cat", "bbox_2d", (1, 1, 9, 9)),
            CoordObject("Cup", "bbox_2d", (1, 1, 9, 9)),
        ]
    )
    assert average_precision([rollout(text)], [RECORD])["ap"] == pytest.approx(1, abs=1e-9)
    spaced = write_coordjson([CoordObject(f" {o.desc}\n", o.kind, o.bins) for o in objects])
    assert average_precision([rollout(spaced)], [RECORD])["ap"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    "text", ["", '{"objects": []}', write_coordjson([CoordObject("cat", "bbox_2d", (1, 1, 9, 9))])]
)
def test_without_predictions_it_is_zero(text):
    assert average_precision([rollout(text)], [RECORD]) == {"ap": 0.0, "ap_50": 0.0, "ap_75": 0.0}
    assert average_precision([rollout(text)], [Record("0.png", 1000, 1000, ())]) == {
        "ap": 0.0,
        "ap_50": 0.0,
        "ap_75": 0.0,
    }


def test_rollouts_of_other_records_are_refused(refused):
    with refused("image 1", "1 records"):
        average_precision([rollout("", image=1)], [RECORD])


def random_case(seed: int) -> tuple[list[list[tuple]], list[list[tuple]]]:
    """Truth and predictions of some images: (name, box, score), near misses, false ones, other
    names, ties in score.
    """
    rng = np.random.default_rng(seed)
    truth, predicted = [], []
    for _ in range(12):
        corners = rng.integers(0, 700, (rng.integers(0, 7), 2))
        sides = rng.integers(8, 300, (len(corners), 2))
        boxes = np.concatenate([corners, corners + sides], 1)
        names = rng.choice(list("abcde"), len(boxes))
        truth.append(
            [(str(n), tuple(map(int, box)), 1.0) for n, box in zip(names, boxes, strict=True)]
        )
        shifted = [
            np.clip(box + rng.integers(-15, 16, 4), 0, 999) for box in boxes if rng.random() < 0.9
        ]
        others = [
            np.sort(rng.integers(0, 1000, (2, 2)), 0).ravel() for _ in range(rng.integers(0, 3))
        ]
        said = [
            *zip(names, shifted, strict=False),
            *((rng.choice(list("abcdef")), box) for box in others),
        ]
        said = [(n, box) for n, box in said if box[0] <= box[2] and box[1] <= box[3]]
        predicted.append(
            [
                (str(n), tuple(map(int, b)), float(rng.choice([0.25, 0.5, rng.uniform(0.1, 1)])))
                for n, b in said
            ]
        )
    return truth, predicted


def by_pycocotools(truth: list[list[tuple]], predicted: list[list[tuple]]) -> list[float]:
    ids = {
        name: i
        for i, name in enumerate(
            sorted({name for objects in truth for name, _, _ in objects}), start=1
        )
    }

    def annotations(images):
        return [
            {
                "image_id": image,
                "category_id": ids[name],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for image, objects in enumerate(images)
            for name, (x1, y1, x2, y2), score in objects
            if name in ids
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": i, "name": name} for name, i in ids.items()],
            "annotations": [a | {"id": i} for i, a in enumerate(annotations(truth), start=1)],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(annotations(predicted)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_precision_is_that_of_pycocotools(seed, capfd):
    truth, predicted = random_case(seed)
    records = [
        Record(
            f"{i}.png",
            1000,
            1000,
            tuple(RecordObject(n, "bbox_2d", tuple(map(float, b))) for n, b, _ in objects),
        )
        for i, objects in enumerate(truth)
    ]
    texts = [
        write_coordjson([CoordObject(n, "bbox_2d", box) for n, box, _ in objects])
        for objects in predicted
    ]
    rows = [
        rollout(text, i, [score for _, _, score in predicted[i]]) for i, text in enumerate(texts)
    ]
    # The scores as they come out of the tokens, so that ties stay ties on both sides.
    scored = [object_scores(row, parse_coordjson(row.text)) for row in rows]
    assert [s for scores in scored for s in scores] == pytest.approx(
        [s for objects in predicted for _, _, s in objects]
    )
    predicted = [
        [(n, b, s) for (n, b, _), s in zip(objects, scores, strict=True)]
        for objects, scores in zip(predicted, scored, strict=True)
    ]
    found = average_precision(rows, records)
    assert capfd.readouterr() == ("", "")
    assert list(found.values()) == pytest.approx(by_pycocotools(truth, predicted), abs=1e-6)
    assert 0.05 < found["ap"] < found["ap_50"] < 1


def test_the_library_is_imported_only_when_it_is_asked():
    program = (
        "import json, sys, coordexp.detection.average_precision, coordexp.detection.scores;"
        "print(json.dumps([name in sys.modules for name in ('torch', 'faster_coco_eval', "
        "'mlflow')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [False, False, False]
