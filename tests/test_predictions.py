"""Files of predictions: each format is read alike, checked, and scored as its source scores it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rollout_files import (
    Scene,
    coco_results,
    coco_truth,
    gt_vs_pred_line,
    scenes,
    write_gt_vs_pred,
    write_json,
    write_lines,
    write_own,
)

from coordexp.detection.matching import box_iou
from coordexp.detection.predictions.images import Predictions
from coordexp.detection.predictions.read import read_predictions
from coordexp.detection.predictions.score import precision_of, score_predictions
from coordexp.detection.predictions.shared import shared_images
from coordexp.detection.scores import figures
from coordexp.errors import UserError

SCENES = scenes(40, 0.7)
N_MUTATED = 150  # mutations of each format
SHOWN = ("f1_50", "f1_50_agnostic", "f1_agnostic", "f1", "precision_50", "count_ratio")


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def gt_vs_pred(lines: list[Any]) -> Predictions:
    return read_predictions(write_lines(Path("gt_vs_pred.jsonl"), lines))


def coco(results: Any, truth: dict[str, Any] | None = None) -> Predictions:
    ground_truth = write_json(Path("gt.json"), truth or coco_truth(SCENES))
    return read_predictions(write_json(Path("results.json"), results), ground_truth)


def figures_of(found: Predictions) -> dict[str, float]:
    scores = score_predictions(found.images)
    return {**figures(scores), **precision_of(found.images)}


# --- formats ---


@pytest.mark.parametrize("form", ["pixel", "norm1000", "tokens"])
def test_every_format_of_the_same_predictions_has_the_same_figures(form):
    of_line = figures_of(
        read_predictions(write_gt_vs_pred(Path("a/gt_vs_pred.jsonl"), SCENES, form))
    )
    of_coco = figures_of(coco(coco_results(SCENES)))
    shard = write_own(Path("rollouts-0-of-1.jsonl"), Path("val.jsonl"), SCENES)
    of_own = figures_of(read_predictions(shard, Path("val.jsonl")))
    for name in SHOWN:
        assert of_line[name] == pytest.approx(of_coco[name], abs=1e-9)
        assert of_line[name] == pytest.approx(of_own[name], abs=1e-9)
    assert of_line["ap"] == pytest.approx(of_coco["ap"], abs=1e-9)
    assert 0.4 < of_line["f1_50"] < 0.9


def test_objects_may_be_written_with_a_key_of_their_geometry():
    line = gt_vs_pred_line(SCENES[0])
    other = copy.deepcopy(line)
    for key in ("gt", "pred"):
        other[key] = [{"bbox_2d": o["points"], "desc": o["desc"]} for o in line[key]]
    assert figures_of(gt_vs_pred([line]))["f1"] == figures_of(gt_vs_pred([other]))["f1"]


def test_polygon_counts_as_its_bounding_box():
    line = gt_vs_pred_line(SCENES[0])
    box = line["gt"][0]["points"]
    x1, y1, x2, y2 = box
    line["gt"] = [{"poly": [x1, y1, x2, y1, x2, y2, x1, y2], "desc": "cup"}]
    line["pred"] = [{"poly": [[x1, y1], [x2, y1], [x2, y2]], "desc": "cup"}]
    assert figures_of(gt_vs_pred([line]))["f1"] == 1.0


def test_parse_rate_and_truncation_are_as_the_file_says():
    lines = [gt_vs_pred_line(scene) for scene in SCENES[:4]]
    lines[0] |= {"raw_output_json": None, "pred": [], "errors": ["empty_pred"]}
    lines[1] |= {"raw_ends_with_im_end": False}
    lines[2] |= {"pred": [], "errors": ["empty_pred"]}  # a whole list without objects
    found = gt_vs_pred(lines)
    assert found.knows_parsing
    assert found.knows_truncation
    assert figures_of(found)["parse_rate"] == 0.75
    assert figures_of(found)["truncation_rate"] == 0.25
    for line in lines:
        line |= {"raw_ends_with_im_end": False}  # an engine that strips the token
        line.pop("errors")
    found = gt_vs_pred(lines)
    assert not found.knows_parsing
    assert not found.knows_truncation
    assert not coco(coco_results(SCENES)).knows_parsing


def test_image_without_results_is_one_without_predictions():
    few = [r for r in coco_results(SCENES) if r["image_id"] <= 5]
    found = coco(few)
    assert len(found.images) == len(SCENES)
    (doubt,) = found.doubts
    assert doubt.startswith("it holds results of 5 of the 40 images of the ground truth")


# --- the figures of the sources ---


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(write_json(Path("truth.json"), truth)))
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_pycocotools(seed):
    of = scenes(30, 0.6, seed, truth_seed=seed)
    truth, results = coco_truth(of), coco_results(of)
    for entry in truth["annotations"][::7]:
        entry["iscrowd"] = 1
    found = precision_of(coco(results, truth).images)
    ap, ap_50 = by_pycocotools(truth, results)
    assert found["ap"] == pytest.approx(ap, abs=1e-6)
    assert found["ap_50"] == pytest.approx(ap_50, abs=1e-6)


def greedy_pairs(predicted: np.ndarray, truth: np.ndarray) -> int:
    """Pairs by CoordExp's rule: all pairs with IoU >= .5, the highest first."""
    iou = box_iou(predicted, truth)
    pairs = sorted((-iou[p, g], p, g) for p, g in zip(*np.nonzero(iou >= 0.5), strict=True))
    used: tuple[set[int], set[int]] = (set(), set())
    for _, p, g in pairs:
        if p not in used[0] and g not in used[1]:
            used[0].add(p)
            used[1].add(g)
    return len(used[0])


def test_class_agnostic_f1_is_that_of_coordexps_matching():
    images = gt_vs_pred([gt_vs_pred_line(scene) for scene in scenes(60, 0.7, 3)]).images
    pairs = boxes = 0
    for image in images:
        predicted = np.array([o.box for o in image.predicted])
        truth = np.array([o.box for o in image.truth])
        pairs += greedy_pairs(predicted, truth)
        boxes += len(predicted) + len(truth)
    found = figures(score_predictions(images))["f1_50_agnostic"]
    assert found == pytest.approx(2 * pairs / boxes, abs=1e-3)


def test_ap_needs_scores():
    lines = [gt_vs_pred_line(scene) for scene in SCENES]
    del lines[3]["pred"][0]["score"]
    assert precision_of(gt_vs_pred(lines).images) == {}


def test_crowd_is_no_true_object_of_the_matching():
    truth = coco_truth(SCENES[:1])
    truth["annotations"][0]["iscrowd"] = 1
    scores = score_predictions(coco(coco_results(SCENES[:1]), truth).images)
    assert scores.columns["n_truth"].tolist() == [len(SCENES[0].truth) - 1]


# --- what is dropped and counted ---


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([math.nan, 0, 1, 1], "coordinates that are not finite"),
        ([0, 0, 1e300, 1], "coordinates that are not finite"),
        ([0, 0, 10**400, 1], "coordinates that are not finite"),
        ([5, 0, 1, 1], "inverted boxes"),
        ([0, 0, 1], "not four coordinates"),
        (["<|coord_1|>", 0, 1, 1], "coordinates that are no numbers"),
        (["<|coord_1000|>", *["<|coord_1|>"] * 3], "coordinates that are no numbers"),
        ([True, 0, 1, 1], "coordinates that are no numbers"),
        (None, "objects of another form"),
        ([], "no coordinates"),
    ],
)
def test_object_that_is_broken_is_counted(points, reason):
    line = gt_vs_pred_line(SCENES[0])
    line["pred"].append({"type": "bbox_2d", "points": points, "desc": "cup"})
    if points is None:
        line["pred"][-1] = 7
    found = gt_vs_pred([line])
    assert found.dropped == {reason: 1}
    assert len(found.images[0].predicted) == len(SCENES[0].predicted)
    line["gt"].append(line["pred"][-1])
    assert gt_vs_pred([line]).dropped[f"{reason} in the ground truth"] == 1


def test_result_that_is_broken_is_counted():
    results = coco_results(SCENES)
    results[0]["bbox"][2] = -1
    results[1]["bbox"] = [math.inf, 1, 2, 3]
    results[2].pop("bbox")
    assert coco(results).dropped == {
        "boxes with a negative side": 1,
        "coordinates that are not finite": 1,
        "no coordinates": 1,
    }


def test_torn_last_line_is_told():
    path = write_gt_vs_pred(Path("gt_vs_pred.jsonl"), SCENES)
    path.write_bytes(path.read_bytes()[:-40])
    found = read_predictions(path)
    assert len(found.images) == len(SCENES) - 1
    assert found.doubts == ["the last line is torn (no line end) and was left out"]


# --- what is refused ---


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_file_of_another_form_is_named():
    for content, what in (
        ({"images": [], "annotations": []}, "COCO annotations, the truth and not predictions"),
        ({"metrics": {"f1": 0.5}}, "metrics without a result per image"),
        ([{"image_id": 0, "f1ish": {}}], "per_image.json of CoordExp's evaluation"),
        ({"loss": 0.3, "global_step/max_steps": "1/2"}, "a log, not predictions"),
        ({"matches": [], "unmatched_gt_indices": []}, "matches of CoordExp's evaluation"),
        ("text", "of no known format"),
    ):
        path = write_json(Path("x.json"), content)
        assert what in refusal(lambda path=path: read_predictions(path))


def test_coco_results_need_their_own_ground_truth():
    results = write_json(Path("results.json"), coco_results(SCENES))
    assert "--ground-truth FILE" in refusal(lambda: read_predictions(results))
    write_own(Path("rollouts-0-of-1.jsonl"), Path("val.jsonl"), SCENES)
    assert "records" in refusal(lambda: read_predictions(results, Path("val.jsonl")))
    other = coco_results(SCENES)
    other[4]["image_id"] = 41
    assert "entry 4 is of image 41, which gt.json does not have" in refusal(lambda: coco(other))


def test_image_that_is_there_twice_is_refused():
    lines = [gt_vs_pred_line(scene) for scene in (*SCENES, SCENES[0])]
    assert "gt_vs_pred.jsonl:41: image images/val2017/000000000000.jpg is there twice" in refusal(
        lambda: gt_vs_pred(lines)
    )
    truth = coco_truth(SCENES)
    truth["images"].append(truth["images"][0])
    assert "is there twice" in refusal(lambda: coco([], truth))


def other_unit(factors: tuple[float, float]) -> list[dict[str, Any]]:
    results = coco_results(SCENES)
    for entry in results:
        entry["bbox"] = [v * f for v, f in zip(entry["bbox"], factors * 2, strict=True)]
    return results


def corners_given_as_size() -> list[dict[str, Any]]:
    results = coco_results(SCENES)
    for entry in results:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    return results


@pytest.mark.parametrize(
    ("results", "meaning"),
    [
        (other_unit((999 / 639, 999 / 479)), "x, y, width, height in bins 0 … 999,"),
        (other_unit((1 / 639, 1 / 479)), "x, y, width, height in fractions of the picture,"),
        (corners_given_as_size(), "x1, y1, x2, y2 in px,"),
    ],
)
def test_results_of_another_meaning_are_refused(results, meaning):
    message = refusal(lambda: coco(results))
    assert f"results.json: the predicted boxes look like {meaning} not like x, y, width" in message


@pytest.mark.parametrize(
    ("form", "meaning"),
    [("bins", "x1, y1, x2, y2 in bins 0 … 999,"), ("size", "x, y, width, height in px,")],
)
def test_lines_whose_predictions_have_another_meaning_are_refused(form, meaning):
    lines = []
    for scene in SCENES:
        line = gt_vs_pred_line(scene)
        for entry in line["pred"]:
            x1, y1, x2, y2 = entry["points"]
            entry["points"] = [x1, y1, x2 - x1, y2 - y1]
        if form == "bins":
            line["pred"] = gt_vs_pred_line(scene, "norm1000")["pred"]
        lines.append(line)
    assert f"look like {meaning} not like x1, y1, x2, y2" in refusal(lambda: gt_vs_pred(lines))


PER_CENT = "x1, y1, x2, y2 in per cent of the picture"


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda b: [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]], "centre x, "),
        (lambda b: [b[1], b[0], b[3], b[2]], "y1, x1, y2, x2"),
        (lambda b: [b[0] / 6.39, b[1] / 4.79, b[2] / 6.39, b[3] / 4.79], PER_CENT),
    ],
)
def test_other_ways_to_write_a_box_are_refused(change, meaning):
    lines = [gt_vs_pred_line(scene) for scene in SCENES]
    for line in lines:
        for entry in line["pred"]:
            entry["points"] = change(entry["points"])
    assert f"look like {meaning}" in refusal(lambda: gt_vs_pred(lines))


def test_boxes_of_larger_pictures_get_no_wrong_name():
    for size in (1.3, 1.6, 2):
        lines = [gt_vs_pred_line(scene) for scene in scenes(60, 0.9)]
        for line in lines:
            for entry in line["pred"]:
                entry["points"] = [size * value for value in entry["points"]]
        try:
            (doubt,) = gt_vs_pred(lines).doubts
        except UserError as refused:
            doubt = str(refused)
        assert "look like" not in doubt
        assert "end beyond their image" in doubt or "picture size, closest to" in doubt


def test_poor_predictions_are_no_other_meaning():
    for seed in range(20):
        poor = scenes(40, 0.0, seed)
        for found in (coco(coco_results(poor)), gt_vs_pred([gt_vs_pred_line(s) for s in poor])):
            assert figures_of(found)["f1_50"] < 0.3


def test_file_with_truth_or_predictions_of_another_form_is_refused():
    for key in ("gt", "pred"):
        lines = [gt_vs_pred_line(scene) for scene in SCENES]
        for line in lines:
            line[key] = [{"box": entry["points"]} for entry in line[key]]
        kind = "true" if key == "gt" else "predicted"
        message = refusal(lambda lines=lines: gt_vs_pred(lines))
        assert f"{kind} objects could not be taken (no coordinates" in message


def test_newer_lines_have_bins_as_truth_and_pixels_as_predictions():
    lines = []
    for scene in SCENES:
        pixel, bins = gt_vs_pred_line(scene), gt_vs_pred_line(scene, "norm1000")
        rename = {"points": "bbox", "desc": "description"}
        lines.append(
            {
                "row_id": scene.image,
                "image_path": pixel["image"],
                "image_width": pixel["width"],
                "image_height": pixel["height"],
                "gt": [{rename.get(k, k): v for k, v in e.items()} for e in bins["gt"]],
                "pred": [{rename.get(k, k): v for k, v in e.items()} for e in pixel["pred"]],
            }
        )
    older = gt_vs_pred([gt_vs_pred_line(scene) for scene in SCENES])
    newer = gt_vs_pred(lines)
    assert figures_of(newer) == pytest.approx(figures_of(older) | figures_of(newer))
    assert [image.name for image in newer.images] == [image.name for image in older.images]


def test_predictions_of_a_detector_must_be_cut_at_a_score():
    rng = np.random.default_rng(0)

    def uncut(n: int) -> list[dict[str, Any]]:
        boxes = rng.uniform(0, 300, (n, 4))
        return coco_results(SCENES) + [
            {"image_id": 1 + i % len(SCENES), "category_id": 1, "bbox": box, "score": 0.001}
            for i, box in enumerate(boxes.tolist())
        ]

    n_truth = sum(len(scene.truth) for scene in SCENES)
    message = refusal(lambda: coco(uncut(12 * n_truth)))
    assert "13.0 predictions for each true object, with scores from 0.001" in message
    (doubt,) = coco(uncut(3 * n_truth)).doubts
    assert doubt.startswith("4.0 predictions for each true object, with scores from 0.001")


def test_lines_in_one_list_are_told():
    write_json(Path("list.json"), [gt_vs_pred_line(scene) for scene in SCENES])
    assert "in one list" in refusal(lambda: read_predictions(Path("list.json")))


def test_categories_that_the_truth_lacks_are_told():
    results = coco_results(SCENES)
    results[0]["category_id"] = 77
    (doubt,) = coco(results).doubts
    assert doubt == "1 of its objects have a category that the ground truth lacks"


# --- files together ---


def test_files_share_images_by_name_whatever_their_directories():
    files = {
        "a s0": gt_vs_pred([gt_vs_pred_line(scene) for scene in SCENES[:30]]),
        "b s0": coco(coco_results(SCENES)),
    }
    shared = shared_images(files)
    assert [len(images) for images in shared.values()] == [30, 30]
    names = [[Path(image.name).name for image in images] for images in shared.values()]
    assert names[0] == names[1]


def test_images_of_one_name_in_two_directories_are_told_apart():
    two = [SCENES[0], Scene(f"train/{SCENES[0].image.rpartition('/')[2]}", *_objects(SCENES[1]))]
    lines = [gt_vs_pred_line(scene) for scene in two]
    shared = shared_images({"a s0": gt_vs_pred(lines), "b s0": gt_vs_pred(lines[::-1])})
    assert len(shared["a s0"]) == 2


def _objects(scene: Scene) -> tuple[Any, Any]:
    return scene.truth, scene.predicted


def test_other_ground_truth_is_refused_and_rounding_is_not():
    right = gt_vs_pred([gt_vs_pred_line(scene) for scene in SCENES])
    rounded = [gt_vs_pred_line(scene) for scene in SCENES]
    for line in rounded:
        for entry in line["gt"]:
            entry["points"] = [round(v) for v in entry["points"]]
    assert len(shared_images({"a": right, "b": gt_vs_pred(rounded)})["a"]) == len(SCENES)
    rounded[3]["gt"][0]["points"][0] -= 12
    message = refusal(lambda: shared_images({"a": right, "b": gt_vs_pred(rounded)}))
    assert "a and b have other ground truth for image 000000000003.jpg: a box of" in message
    rounded[3]["gt"].pop()
    message = refusal(lambda: shared_images({"a": right, "b": gt_vs_pred(rounded)}))
    n = len(SCENES[3].truth)
    assert f"{n} and {n - 1} objects" in message


def test_files_without_a_common_image_are_refused():
    a, b = (gt_vs_pred([gt_vs_pred_line(s) for s in of]) for of in (SCENES[:20], SCENES[20:]))
    assert "no image is in every file" in refusal(lambda: shared_images({"a": a, "b": b}))
    b.images.append(a.images[0])
    assert "one image ranks nothing" in refusal(lambda: shared_images({"a": a, "b": b}))


def test_images_without_true_objects_rank_nothing():
    lines = [gt_vs_pred_line(scene) | {"gt": []} for scene in SCENES]
    message = refusal(lambda: shared_images({"a": gt_vs_pred(lines)}))
    assert f"none of the {len(SCENES)} images holds a true object" in message


def test_windows_paths_and_files_without_sizes_name_the_images():
    lines = [gt_vs_pred_line(scene) for scene in SCENES]
    other = [
        line | {"image": line["image"].replace("/", "\\"), "width": None, "height": None}
        for line in lines
    ]
    found = shared_images({"a": gt_vs_pred(lines), "b": gt_vs_pred(other)})
    assert len(found["b"]) == len(SCENES)


# --- fuzz ---


ODD = (None, True, -1, 1e308, math.nan, "", "<|coord_7|>", [], {}, "\ud800", [[1, 2]], 10**30)


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """A JSON value with one part of it replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(len(value))]
        kept = {k: v for k, v in value.items() if k != key or rng.random() < 0.9}
        return {**kept, key: mutated(value[key], rng)} if key in kept else kept
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        found = [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
        return found + [value[at]] * int(rng.integers(2))
    return ODD[rng.integers(len(ODD))]


def mutated_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    at, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    end = min(end, at + 30)
    piece = rng.integers(0, 256, rng.integers(0, 5)).astype(np.uint8).tobytes()
    return content[:at] + piece + content[end:]


def with_mutated_text(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A rollout that wrote another text, in tokens of a character each."""
    text = mutated_bytes(row["text"].encode(), rng).decode(errors="replace")
    of_tokens = {"token_ends": list(range(1, len(text) + 1)), "token_logprobs": [-0.5] * len(text)}
    return {**row, "text": text, "n_tokens": len(text), **of_tokens}


def fuzzed(form: str, seed: int) -> Predictions | None:
    """The predictions of a mutated file; None where it is refused in one line."""
    rng = np.random.default_rng(seed)
    of = SCENES[:4]
    truth, path = Path("gt.json"), Path("fuzzed")
    rows: list[Any]
    if form == "own":
        truth = Path("val.jsonl")
        rows = [json.loads(line) for line in write_own(path, truth, of).read_text().splitlines()]
    elif form == "coco":
        write_json(truth, coco_truth(of))
        rows = coco_results(of)
    else:
        rows = [gt_vs_pred_line(scene, form) for scene in of]
    if form == "own" and rng.random() < 0.5:
        rows = [with_mutated_text(row, rng) for row in rows]
    else:
        for _ in range(rng.integers(1, 4)):
            rows = mutated(rows, rng)
    if form == "coco" or not isinstance(rows, list):
        write_json(path, rows)
    else:
        write_lines(path, rows)
    if rng.random() < 0.3:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    if form == "coco" and rng.random() < 0.3:
        write_json(truth, mutated(coco_truth(of), rng))
    refused: list[UserError] = []
    try:
        return read_predictions(path, truth)
    except UserError as error:
        refused.append(error)
    assert "\n" not in str(refused[0])
    return None


@pytest.mark.parametrize("form", ["pixel", "norm1000", "tokens", "coco", "own"])
def test_mutated_file_is_read_or_refused_in_one_line(form):
    read = 0
    intact = read_predictions(write_gt_vs_pred(Path("intact.jsonl"), SCENES[:4]))
    for seed in range(N_MUTATED):
        found = fuzzed(form, seed)
        if found is None:
            continue
        read += 1
        assert all(math.isfinite(value) for value in figures_of(found).values())
        with contextlib.suppress(UserError):  # other truth, or no common image
            shared_images({"a": intact, "b": found})
    assert 0 < read < N_MUTATED
