"""The same predictions as CoordExp's gt_vs_pred.jsonl, as COCO results, and as own rollouts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.coords import CoordObject, to_pixels, write_coordjson
from coordexp.data.records import Record, RecordObject, write_records

SIDES = (640, 480)  # px: width, height of every image
NAMES = ("cup", "dog", "red ball")
Bins = tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """An image: its true objects, and those that a checkpoint wrote, in bins."""

    image: str
    truth: list[tuple[str, Bins]]
    predicted: list[tuple[str, Bins, float]]  # with a score


def scenes(n: int, skill: float, seed: int = 0, truth_seed: int = 7) -> list[Scene]:
    """Images with two to five objects; a share `skill` of these is found, the rest misplaced."""
    of_truth, rng = np.random.default_rng(truth_seed), np.random.default_rng((seed, 1))
    found = []
    for i in range(n):
        truth, predicted = [], []
        for _ in range(of_truth.integers(2, 6)):
            x, y = of_truth.integers(0, 700, 2).tolist()
            w, h = of_truth.integers(60, 290, 2).tolist()
            name = str(of_truth.choice(NAMES))
            truth.append((name, (x, y, x + w, y + h)))
            hit = rng.random() < skill
            shift = rng.integers(-9, 10, 4) if hit else rng.integers(200, 300, 4)
            x1, y1, x2, y2 = (np.array([x, y, x + w, y + h]) + shift).clip(0, 999).tolist()
            box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            predicted.append((name, box, float(rng.uniform(0.5, 1.0) if hit else rng.random())))
        found.append(Scene(f"val2017/{i:012d}.jpg", truth, predicted))
    return found


def pixels(box: Bins) -> list[float]:
    return to_pixels(box, *SIDES)


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gt_vs_pred_line(scene: Scene, form: str = "pixel") -> dict[str, Any]:
    """A line of gt_vs_pred.jsonl; `form` is pixel, norm1000 or tokens."""

    def points(box: Bins) -> list[Any]:
        if form == "tokens":
            return [f"<|coord_{k}|>" for k in box]
        return list(box) if form == "norm1000" else pixels(box)

    return {
        "image": f"images/{scene.image}",
        "width": SIDES[0],
        "height": SIDES[1],
        "mode": "coord",
        "coord_mode": None if form == "tokens" else form,
        "gt": [{"type": "bbox_2d", "points": points(b), "desc": n} for n, b in scene.truth],
        "pred": [
            {"type": "bbox_2d", "points": points(b), "desc": n, "score": s}
            for n, b, s in scene.predicted
        ],
        "raw_output_json": {"objects": []},
        "raw_special_tokens": ["<|im_end|>"],
        "raw_ends_with_im_end": True,
        "errors": [],
        "error_entries": [],
    }


def write_gt_vs_pred(path: Path, of: list[Scene], form: str = "pixel") -> Path:
    return write_lines(path, [gt_vs_pred_line(scene, form) for scene in of])


def size_box(box: Bins) -> list[float]:
    x1, y1, x2, y2 = pixels(box)
    return [x1, y1, x2 - x1, y2 - y1]


def coco_truth(of: list[Scene]) -> dict[str, Any]:
    annotations = [
        {
            "image_id": number,
            "category_id": NAMES.index(name) + 1,
            "bbox": size_box(box),
            "area": size_box(box)[2] * size_box(box)[3],
            "iscrowd": 0,
        }
        for number, scene in enumerate(of, start=1)
        for name, box in scene.truth
    ]
    return {
        "images": [
            {
                "id": number,
                "file_name": scene.image.rpartition("/")[2],
                "width": SIDES[0],
                "height": SIDES[1],
            }
            for number, scene in enumerate(of, start=1)
        ],
        "annotations": [a | {"id": i} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
    }


def coco_results(of: list[Scene]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": NAMES.index(name) + 1,
            "bbox": size_box(box),
            "score": score,
        }
        for number, scene in enumerate(of, start=1)
        for name, box, score in scene.predicted
    ]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_own(shard: Path, records: Path, of: list[Scene]) -> Path:
    """A shard of rollouts of this project, and the records that they were made from."""
    write_records(
        records,
        [
            Record(
                scene.image,
                *SIDES,
                tuple(RecordObject(n, "bbox_2d", tuple(pixels(b))) for n, b in scene.truth),
            )
            for scene in of
        ],
    )
    rows = []
    for number, scene in enumerate(of):
        text = write_coordjson([CoordObject(n, "bbox_2d", b) for n, b, _ in scene.predicted])
        rows.append(
            {
                "image_id": number,
                "image": scene.image,
                "text": text,
                "finished": True,
                "n_tokens": len(text),
                "token_ends": list(range(1, len(text) + 1)),
                "token_logprobs": [-0.5] * len(text),
            }
        )
    return write_lines(shard, rows)
