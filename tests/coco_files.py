"""Small COCO annotation files, and the pictures they speak of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import composed
from PIL import Image

from coordexp.config.schema import CocoConfig

LVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "lvis_val_100.json"

CUP, BAT = 2, 7
CATEGORIES = [{"id": CUP, "name": "cup"}, {"id": BAT, "name": "bat_(animal)"}]


def settings(*overrides: str, **values: Any) -> CocoConfig:
    """The default settings of real data with these overrides; what is not said is a rehearsal of
    `coco.json`.
    """
    given = ["data.annotations=coco.json", "data.missing=draw"]
    cfg = composed("data=coco", *given, *overrides).data
    return dataclasses.replace(cfg, **values)


def image(i: int, size: tuple[int, int] = (64, 64), **more: Any) -> dict[str, Any]:
    return {"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1], **more}


def annotation(
    i: int, image_id: int = 1, bbox: Any = (8, 8, 16, 16), category_id: int = CUP, **more: Any
) -> dict[str, Any]:
    box = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"id": i, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def write_coco(
    path: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None
) -> Path:
    content = {
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES if categories is None else categories,
    }
    path.write_text(json.dumps(content))
    return path


def many(path: Path, n_images: int, size: tuple[int, int] = (64, 64), objects: int = 2) -> Path:
    """A file of `n_images` with random boxes, a function of the counts alone."""
    rng = np.random.default_rng([n_images, objects])
    annotations = []
    for i in range(n_images):
        for _ in range(objects):
            x, y = rng.uniform(0, 0.5, 2) * size
            w, h = rng.uniform(0.1, 0.5, 2) * size
            box = [round(v, 2) for v in (x, y, w, h)]
            annotations.append(
                annotation(len(annotations), i, box, (CUP, BAT)[int(rng.integers(2))])
            )
    return write_coco(path, [image(i, size) for i in range(n_images)], annotations)


def picture(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0, **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).resize(size).save(path, **save)
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]
