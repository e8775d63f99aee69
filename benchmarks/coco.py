"""What converting annotations costs in time and memory, pictures left out.

    python benchmarks/coco.py [--annotations 100000]

Synthetic annotations like LVIS's (12.5 a picture, outlines of 5 to 60 vertices) go from a file to
record lines; beside it, in the same process and interleaved, a plain pycocotools loop that writes
the same boxes with none of the checks and no account. Polygons are measured on a tenth. Prints the
tables of benchmarks/README.md; about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from coordexp.config.compose import compose
from coordexp.config.schema import CocoConfig
from coordexp.data.coco.annotations import CocoFile, read_coco
from coordexp.data.coco.conversion import Task, frame_of, kept_annotations, names_in, record_of
from coordexp.data.coco.conversion_stats import ConversionStats
from coordexp.data.records import write_records

PER_PICTURE = 12.5
SIZE = (640, 427)
ROUNDS = 3


def synthetic(path: Path, n_annotations: int) -> Path:
    """An annotation file, a function of its length alone."""
    rng = np.random.default_rng(n_annotations)
    n_images = math.ceil(n_annotations / PER_PICTURE)
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": SIZE[0], "height": SIZE[1]}
        for i in range(n_images)
    ]
    annotations = []
    for i in range(n_annotations):
        n = int(rng.integers(5, 61))
        angles = np.sort(rng.uniform(0, 2 * math.pi, n))
        waves = sum(
            rng.uniform(-0.3, 0.3) / k * np.cos(k * angles + rng.uniform(0, 6)) for k in range(1, 6)
        )
        radius = rng.uniform(5, 100) * (1 + waves)
        points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1) + rng.uniform(
            (100, 100), (540, 327)
        )
        low, high = points.min(0), points.max(0)
        annotations.append(
            {
                "id": i,
                "image_id": int(rng.integers(n_images)),
                "category_id": int(rng.integers(1200)),
                "segmentation": [points.round(2).flatten().tolist()],
                "bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()],
                "iscrowd": 0,
            }
        )
    categories = [{"id": i, "name": f"category_{i}"} for i in range(1200)]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def convert(coco: CocoFile, settings: CocoConfig, out: Path) -> ConversionStats:
    """As data/conversion.py does it, but for the pictures."""
    total = ConversionStats()

    def records():
        for image in coco.images:
            frame, account = frame_of(image, settings), ConversionStats(len(image.annotations))
            kept = kept_annotations(
                Task(image, names_in(image, coco.names)), frame, settings, account
            )
            record = record_of(image, image.paths[0], frame, kept, settings)
            account.keep(record, [k.instance for k in kept], resized=True)
            total.add(account)
            yield record

    write_records(out, records())
    total.report()  # in which every instance is kept or dropped
    return total


def plain_loop(coco: COCO, out: Path) -> None:
    """The plain way: pycocotools' index, boxes unchanged, a line a picture."""
    with open(out, "w") as file:
        for image in coco.loadImgs(coco.getImgIds()):
            objects = []
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                x, y, w, h = annotation["bbox"]
                objects.append(
                    {
                        "desc": coco.cats[annotation["category_id"]]["name"],
                        "bbox_2d": [x, y, x + w, y + h],
                    }
                )
            row = {
                "images": [image["file_name"]],
                "width": image["width"],
                "height": image["height"],
                "objects": objects,
            }
            file.write(json.dumps(row) + "\n")


def quietly(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_mb(work: Callable[[], object]) -> float:
    """What `work` allocates at most, beyond what there was, in MB."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def settings_of(geometry: str) -> CocoConfig:
    overrides = [
        "data=coco",
        "data.annotations=-",
        "data.missing=draw",
        "data.max_objects=1000",
    ]
    return compose([*overrides, f"data.geometry={geometry}"]).data  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=int, default=100_000)
    n = parser.parse_args().annotations
    boxes, polygons = settings_of("bbox"), settings_of("poly_prefer")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        whole, tenth, out = (
            synthetic(root / "whole.json", n),
            synthetic(root / "tenth.json", n // 10),
            root / "some.jsonl",
        )
        steps: dict[str, tuple[int, Callable[[], object]]] = {
            "pycocotools: load, index, plain loop": (n, lambda: plain_loop(quietly(whole), out)),
            "this project: load, check, boxes": (n, lambda: convert(read_coco(whole), boxes, out)),
            "this project: load, check, polygons preferred": (
                n // 10,
                lambda: convert(read_coco(tenth), polygons, out),
            ),
        }
        rounds = [
            {name: cpu_seconds(step) / of for name, (of, step) in steps.items()}
            for _ in range(ROUNDS)
        ]
        seconds = {name: statistics.median(r[name] for r in rounds) for name in steps}
        print("| one core | annotations a CPU second | CPU time, ratio |\n| --- | ---: | ---: |")
        plain = seconds["pycocotools: load, index, plain loop"]
        for name, value in seconds.items():
            print(f"| {name} | {1 / value:,.0f} | {value / plain:.2f} |")
        print("\n| annotations | peak memory beyond the loaded file (MB) |\n| ---: | ---: |")
        for part in (n // 16, n // 4, n):
            coco = read_coco(synthetic(root / "part.json", part))
            print(f"| {part:,} | {peak_mb(partial(convert, coco, boxes, out)):.1f} |", flush=True)


if __name__ == "__main__":
    main()
