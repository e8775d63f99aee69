"""Rollouts to figures: the truth scores 1, and one thing wrong costs what it must, by hand
arithmetic.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from coordexp.coords import CoordObject, write_coordjson
from coordexp.data.coco.annotations import coco_records
from coordexp.data.records import Record, RecordObject, reading_order
from coordexp.detection.rollouts import Rollout, read_rollouts
from coordexp.detection.scores import figures, score_rollouts

LVIS = Path(__file__).parents[2] / "shared" / "data" / "lvis_val_100.json"
SHARES = {
    f"{name}{at}{kind}"
    for name in ("precision", "recall", "f1")
    for at in ("", "_50", "_75")
    for kind in ("", "_agnostic")
}
PERFECT = dict.fromkeys(SHARES, 1.0) | {
    "parse_rate": 1.0,
    "truncation_rate": 0.0,
    "unfinished_rate": 0.0,
    "count_ratio": 1.0,
    "mean_matched_iou": 1.0,
    "duplicate_rate": 0.0,
    "names_f1": 1.0,
}


def record(name: str, *objects: tuple[str, tuple[float, ...]]) -> Record:
    """1000 px wide and high, so that a pixel is a bin."""
    kinds = {4: "bbox_2d"}
    return Record(
        name,
        1000,
        1000,
        reading_order(RecordObject(d, kinds.get(len(p), "poly"), p) for d, p in objects),
    )


RECORDS = [
    record(
        "0.png",
        ("cup", (100, 100, 200, 200)),
        ("cup", (300, 100, 400, 200)),
        ("dog", (500, 500, 900, 900)),
    ),
    record("1.png", ('杯 "x"', (10, 20, 30, 20, 30, 60, 10, 60)), ("line", (0.1, 5, 0.4, 9))),
    record("2.png"),
]


def rollout(
    i: int, objects: list[CoordObject] | str, records: list[Record] = RECORDS, **changes
) -> Rollout:
    """One token per character; `changes` replace fields."""
    text = objects if isinstance(objects, str) else write_coordjson(objects)
    n = len(text)
    ends = list(range(1, n + 1))
    return replace(Rollout(i, records[i].image, text, True, n, ends, [-0.1] * n), **changes)


def truths(records: list[Record] = RECORDS) -> list[Rollout]:
    return [rollout(i, r.coord_objects(), records) for i, r in enumerate(records)]


def changed(objects: list[CoordObject]) -> dict[str, float]:
    """Figures when the first image says `objects` and the others the truth."""
    return figures(score_rollouts([rollout(0, objects), *truths()[1:]], RECORDS))


def expected(**differences: float) -> dict[str, float]:
    return pytest.approx(PERFECT | differences, abs=1e-12)


def test_truth_scores_exactly_one_everywhere():
    assert figures(score_rollouts(truths(), RECORDS)) == PERFECT


def test_real_records_written_out_score_exactly_one(tmp_path):
    if not LVIS.exists():
        pytest.skip("no LVIS annotations beside the checkout")
    for image in json.loads(LVIS.read_text())["images"]:
        (tmp_path / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image["file_name"]).touch()
    records = coco_records(LVIS, tmp_path)
    scores = score_rollouts(truths(records), records)
    found = figures(scores)
    assert scores.columns["n_truth"].sum() > 900
    assert {name: found[name] for name in PERFECT if name != "duplicate_rate"} == {
        name: value for name, value in PERFECT.items() if name != "duplicate_rate"
    }


def test_one_object_left_out():
    lost = 2 * 4 / (4 + 5)
    shares = {
        f"{name}{at}{kind}": value
        for name, value in (("recall", 4 / 5), ("f1", lost))
        for at in ("", "_50", "_75")
        for kind in ("", "_agnostic")
    }
    assert changed(RECORDS[0].coord_objects()[:2]) == expected(
        count_ratio=4 / 5, names_f1=lost, **shares
    )


def test_one_object_said_twice():
    objects = RECORDS[0].coord_objects()
    shares = {
        f"{name}{at}{kind}": value
        for name, value in (("precision", 5 / 6), ("f1", 10 / 11))
        for at in ("", "_50", "_75")
        for kind in ("", "_agnostic")
    }
    assert changed([*objects, objects[0]]) == expected(
        count_ratio=6 / 5, duplicate_rate=1 / 6, names_f1=10 / 11, **shares
    )


def test_one_object_of_another_name():
    objects = RECORDS[0].coord_objects()
    renamed = CoordObject("Cup", "bbox_2d", objects[0].bins)
    shares = {
        f"{name}{at}": 4 / 5 for name in ("precision", "recall", "f1") for at in ("", "_50", "_75")
    }
    assert changed([renamed, *objects[1:]]) == expected(names_f1=4 / 5, **shares)


def test_names_at_other_places_count_as_names():
    objects = RECORDS[0].coord_objects()
    far = CoordObject("cup", "bbox_2d", (0, 900, 10, 910))
    found = changed([far, *objects[1:]])
    assert found["names_f1"] == 1
    assert found["f1_50_agnostic"] == 4 / 5


def test_one_object_shifted():
    """100 px wide, 17 px to the right: IoU 83 / 117 = .709, found at .5, .55, .6, .65 and .7, which
    are 5 of 10 thresholds.
    """
    objects = RECORDS[0].coord_objects()
    shifted = CoordObject("cup", "bbox_2d", (117, 100, 217, 200))
    mean = (5 * 1 + 5 * 4 / 5) / 10
    shares = {
        f"{name}{at}{kind}": value
        for name in ("precision", "recall", "f1")
        for at, value in (("", mean), ("_75", 4 / 5))
        for kind in ("", "_agnostic")
    }
    assert changed([shifted, *objects[1:]]) == expected(
        mean_matched_iou=(4 + 83 / 117) / 5, **shares
    )


def test_a_polygon_counts_as_the_box_around_it():
    diamond = record("0.png", ("kite", (50, 10, 90, 50, 50, 90, 10, 50)))
    around = CoordObject("kite", "bbox_2d", (10, 10, 90, 90))
    assert figures(score_rollouts([rollout(0, [around], [diamond])], [diamond])) == PERFECT
    turned = CoordObject("kite", "poly", (10, 50, 50, 10, 90, 50, 50, 90))
    assert figures(score_rollouts([rollout(0, [turned], [diamond])], [diamond])) == PERFECT


def test_predictions_in_an_empty_picture_are_false():
    found = figures(
        score_rollouts(
            [*truths()[:2], rollout(2, [CoordObject("cup", "bbox_2d", (1, 1, 9, 9))])], RECORDS
        )
    )
    assert (
        found["precision"],
        found["recall"],
        found["f1"],
        found["count_ratio"],
    ) == pytest.approx((5 / 6, 1, 10 / 11, 6 / 5))


def test_what_does_not_parse():
    objects = RECORDS[0].coord_objects()
    whole = write_coordjson(objects)
    rows = [
        rollout(0, whole[:-30], finished=False),
        rollout(1, "I see a cup."),
        rollout(2, '{"objects": [{"desc": "cup", "bbox_2d": [1, 2, 3, 4]}]} that is all'),
    ]
    scores = score_rollouts(rows, RECORDS)
    flags = {
        name: scores.columns[name].tolist()
        for name in ("strict", "truncated", "unfinished", "trailing", "dropped")
    }
    assert flags == {
        "strict": [0, 0, 0],
        "truncated": [1, 0, 0],
        "unfinished": [1, 0, 0],
        "trailing": [0, 0, 1],
        "dropped": [0, 1, 1],
    }
    assert scores.dropped_by_reason == Counter(no_list=1, malformed=1)
    found = figures(scores)
    assert (found["parse_rate"], found["truncation_rate"], found["unfinished_rate"]) == (
        0,
        1 / 3,
        1 / 3,
    )
    assert (found["precision"], found["recall"], found["count_ratio"]) == (1, 2 / 5, 2 / 5)


def test_nothing_at_all_is_zero_and_no_nan():
    found = figures(score_rollouts([rollout(2, "")], RECORDS))
    assert found == dict.fromkeys(PERFECT, 0.0) | {"truncation_rate": 1.0}
    found = figures(score_rollouts(truths(), RECORDS), np.zeros((2, 3), dtype=np.uint16))
    assert {name: values.tolist() for name, values in found.items()} == {
        name: [0.0, 0.0] for name in PERFECT
    }


def test_columns_are_per_image_in_ascending_order():
    scores = score_rollouts(truths()[::-1], RECORDS)
    assert scores.images.tolist() == [0, 1, 2]
    assert scores.columns["n_truth"].tolist() == scores.columns["n_predicted"].tolist() == [3, 2, 0]
    assert scores.columns["tp_aware"].tolist() == [[3] * 10, [2] * 10, [0] * 10]
    assert scores.columns["n_tokens"].tolist() == [len(row.text) for row in truths()]
    assert score_rollouts(truths()[1:], RECORDS).images.tolist() == [1, 2], (
        "a part of the images may be rolled out"
    )


def test_weights_are_images_written_out_so_many_times(monkeypatch):
    rng = np.random.default_rng(0)
    records = [record(f"{i}.png", *[(str(k % 3), box(rng)) for k in range(4)]) for i in range(12)]
    rows = [
        rollout(
            i, record("", *[(str(k % 3), box(rng)) for k in range(i % 6)]).coord_objects(), records
        )
        for i in range(12)
    ]
    scores = score_rollouts(rows, records)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=7).astype(np.uint16)
    found = figures(scores, weights)
    assert all(values.shape == (7,) for values in found.values())
    assert np.ptp(found["f1_50_agnostic"]) > 0
    for draw in range(7):
        images = np.repeat(np.arange(12), weights[draw])
        again = [replace(rows[i], image_id=new) for new, i in enumerate(images)]
        expected = figures(score_rollouts(again, [records[i] for i in images]))
        assert {name: values[draw] for name, values in found.items()} == pytest.approx(
            expected, abs=1e-12
        )
    ones = figures(scores, np.ones((1, 12), dtype=np.uint16))
    assert {name: values[0] for name, values in ones.items()} == figures(scores)
    monkeypatch.setattr("coordexp.resampling.CELLS", 25)  # two resamples at a time
    for name, values in figures(scores, weights).items():
        np.testing.assert_allclose(values, found[name], rtol=1e-12)


def box(rng: np.random.Generator) -> tuple[float, ...]:
    """One of few, so that some overlap."""
    x, y = (float(v) for v in rng.integers(0, 4, 2) * 30)
    return x, y, x + 200, y + 200


def shard(path: Path, *rows: Rollout | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(asdict(row)) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_shards_in_any_order(tmp_path):
    rows = [replace(row, text=row.text + " \u2028") for row in truths()]
    paths = [
        shard(tmp_path / "a.jsonl", rows[2], rows[0]),
        shard(tmp_path / "b.jsonl"),
        shard(tmp_path / "c.jsonl", "", rows[1]),
    ]
    assert read_rollouts(paths) == rows
    assert read_rollouts(iter(paths[::-1])) == rows
    assert read_rollouts([*paths, shard(tmp_path / "d.jsonl", rows[1])]) == rows, (
        "the same text twice counts once"
    )


def test_one_image_with_two_texts_is_refused(tmp_path, refused):
    path = shard(tmp_path / "a.jsonl", *truths())
    other = shard(tmp_path / "b.jsonl", rollout(1, "another"))
    with refused("b.jsonl:1", "image 1", "different texts"):
        read_rollouts([path, other])


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"image_id": 0, "te', "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "object"),
        ("{}", "image_id"),
        ({"image_id": "0"}, "image_id"),
        ({"image_id": True}, "image_id"),
        ({"text": None}, "text"),
        ({"finished": 1}, "finished"),
        ({"n_tokens": 1.5}, "n_tokens"),
        ({"token_ends": [1]}, "token_logprobs"),
        ({"token_ends": [2, 1], "token_logprobs": [-1.0, -1.0]}, "token_ends"),
        ({"token_ends": [1, 10**6], "token_logprobs": [-1.0, -1.0]}, "token_ends"),
        ({"token_ends": [-1, 1], "token_logprobs": [-1.0, -1.0]}, "token_ends"),
        ({"token_ends": [1.0, 2], "token_logprobs": [-1.0, -1.0]}, "token_ends"),
        ({"token_ends": [1], "token_logprobs": [float("nan")]}, "token_logprobs"),
        ({"token_ends": [1], "token_logprobs": [float("-inf")]}, "token_logprobs"),
        ({"token_ends": [1], "token_logprobs": ["0"]}, "token_logprobs"),
    ],
)
def test_a_broken_line_is_named(tmp_path, refused, line, word):
    if isinstance(line, dict):
        line = json.dumps(asdict(truths()[1]) | line)
    path = shard(tmp_path / "a.jsonl", truths()[0], line)
    with refused("a.jsonl:2", word):
        read_rollouts([path])


def test_missing_and_empty_shards(tmp_path, refused):
    with refused("a.jsonl", "no such file"):
        read_rollouts([tmp_path / "a.jsonl"])
    with refused("b.jsonl", "no rollouts"):
        read_rollouts([shard(tmp_path / "b.jsonl")])
    with refused("no shard"):
        read_rollouts([])
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with refused("c.jsonl:1", "JSON"):
        read_rollouts([tmp_path / "c.jsonl"])


def test_rollouts_of_other_records_are_refused(refused):
    with refused("image 1", "7.png", "1.png"):
        score_rollouts([rollout(1, "", image="7.png")], RECORDS)
    with refused("image 2", "2 records"):
        score_rollouts(truths(), RECORDS[:2])
    with refused("image -1", "3 records"):
        score_rollouts([rollout(0, "", image_id=-1)], RECORDS)
