"""Annotations, records and pictures of data sets, and predictions of checkpoints."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import coco_files
import coco_fuzz
import format_writers
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rollout_files
from PIL import Image

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.annotations import coco_records, read_coco
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.formats.convert import convert
from coordexp.data.formats.dataset import Coordinates
from coordexp.data.token_records import read_pixel_records
from coordexp.data.validate import validate
from coordexp.detection.predictions.images import Predictions
from coordexp.detection.predictions.read import read_predictions
from coordexp.detection.predictions.score import precision_of, score_predictions
from coordexp.detection.probe_manifest import ProbeManifest
from coordexp.detection.probes import read_probe
from coordexp.errors import UserError
from coordexp.storage.typed import write_sealed
from fuzzing.kind import Kind, file_kind, json_trees, keys_in
from fuzzing.mutations import clear, dumped, of_bytes, of_json, of_lines, of_text
from fuzzing.study_files import random_tree

LVIS = {
    "not_exhaustive_category_ids": [2],
    "neg_category_ids": [7],
    "coco_url": "http://images.cocodataset.org/train2017/000000000001.jpg",
}
LABELS = ("Annotations", "labels", "annotations", "train", "valid")  # where label files lie first
PICTURES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"} | {
    "TIFF": ".tif",
    "PPM": ".ppm",
}


def kinds() -> Iterator[Kind]:
    yield from of_coco()
    yield from of_other_formats()
    yield from of_records()
    yield from of_predictions()
    yield from of_probe()


def of_coco() -> Iterator[Kind]:
    for name in ("0", "1", "2", "3"):
        coco_files.picture(Path(f"in/{name}.jpg"))
    images = [coco_files.image(i) for i in range(3)] + [coco_files.image(3, **LVIS)]
    annotations = [coco_files.annotation(i, i % 4, (8, 8, 16, 16 + i)) for i in range(5)]
    outline = [[8, 8, 24, 8, 24, 24]]
    annotations.append(coco_files.annotation(5, 3, (8, 8, 16, 16), segmentation=outline, area=128))
    content = dumped(
        {"images": images, "annotations": annotations, "categories": coco_files.CATEGORIES}
    )
    trees = json_trees(keys_in([content]))

    def read(path: Path) -> object:
        return read_coco(path), coco_records(path, Path("in"))

    settings: CocoConfig = coco_files.settings(annotations="in/converted/coco.json")

    def converted(_: Path) -> object:
        clear(Path("out/coco"))
        stats = convert_annotations(settings, Path("out/coco"), 1)
        return [split.report() for split in stats.values()]

    def mutated(_: bytes, rng: Random) -> bytes:
        return coco_fuzz.mutated(rng.randrange(2**40))

    yield file_kind("COCO, LVIS", "in/coco/coco.json", [content], of_json, read, generated=trees)
    yield file_kind(
        "COCO, converted", "in/converted/coco.json", [content], mutated, converted, 2_000, trees
    )


def of_other_formats() -> Iterator[Kind]:
    pictures = format_writers.scene(4)
    for name, write in format_writers.WRITERS.items():
        given = write(Path("in/formats") / name, pictures)
        for place in files_of(given):
            content = place.read_bytes()
            mutate = {".json": of_json, ".jsonl": of_lines}.get(place.suffix, of_text)
            kind = f"{name.replace('_', ' ')} ({place.suffix[1:]})"
            yield file_kind(kind, place, [content], mutate, converter(given), 1_000)


def files_of(given: Path) -> list[Path]:
    """The first label file of each suffix."""
    if given.is_file():
        return [given]
    files = sorted(p for p in given.rglob("*") if p.is_file() and p.suffix != ".jpg")
    return list({file.suffix: file for file in reversed(files)}.values())


def converter(given: Path) -> Callable[[Path], object]:
    def read(_: Path) -> object:
        for file in Path("out").glob("coco*.json"):
            clear(file)
        coordinates = Coordinates.pixels if "qwen" in given.parts else None
        lines = convert(given, Path("out/coco.json"), coordinates=coordinates)
        for line in lines:
            refuse_unprintable(line)
        return lines

    return read


def refuse_unprintable(line: str) -> None:
    """A line that is printed as it is must be one line, and text."""
    assert len(line.splitlines()) <= 1, line
    line.encode()


def of_records() -> Iterator[Kind]:
    folder = Path("in/records")
    for i in range(3):
        coco_files.picture(folder / f"{i}.jpg", seed=i)
    row = {"images": ["0.jpg"], "width": 64, "height": 64, "metadata": {"a": 1}}
    box = {"desc": "cup", "bbox_2d": [1.0, 2.0, 30.5, 40.0]}
    outline = {"desc": "bat", "poly": [1.0, 1.0, 30.0, 1.0, 30.0, 30.0]}
    tokens = {"desc": "cup", "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 500, 600)]}
    pixels = [row | {"objects": [box]}, row | {"images": ["1.jpg"], "objects": [outline, box]}]
    files = [lines(pixels), lines([row | {"objects": [tokens]}])]

    def read(path: Path) -> object:
        found = first_problem(path, with_pictures=False)
        records = read_pixel_records(path)  # also of a file with problems, as training would
        if found:
            raise UserError(found)
        return records

    trees = json_trees(keys_in(files))
    yield file_kind("records", folder / "r.jsonl", files, of_lines, read, 5_000, trees)
    yield from of_pictures(row | {"objects": [box]})


def lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def first_problem(path: Path, with_pictures: bool = True) -> str | None:
    """What `coordexp validate` prints first."""
    counts: Counter[str] = Counter()
    problems = list(validate(path, counts, with_pictures))
    for problem in problems:
        refuse_unprintable(problem)
    return problems[0] if problems else None


def of_pictures(row: dict[str, object]) -> Iterator[Kind]:
    """Each format under the name of a JPEG: the content decides."""
    records = Path("in/pictures/r.jsonl")
    records.parent.mkdir(parents=True)
    records.write_bytes(lines([row]))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    examples = []
    for name in PICTURES:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, name)
        examples.append(out.getvalue())

    def read(_: Path) -> None:
        if found := first_problem(records):
            raise UserError(found)

    yield file_kind("pictures", "in/pictures/0.jpg", examples, of_bytes, read, 5_000)


def scored(found: Predictions) -> object:
    images = found.images
    return (score_predictions(images), precision_of(images)) if images else None


def draw(folder: Path) -> list[rollout_files.Scene]:
    """Scenes and their pictures, which records of them name."""
    scenes = rollout_files.scenes(4, 0.8)
    for scene in scenes:
        coco_files.picture(folder / scene.image, rollout_files.SIDES)
    return scenes


def of_predictions() -> Iterator[Kind]:
    folder = Path("in/predictions")
    scenes = draw(folder)
    forms = [
        rollout_files.write_gt_vs_pred(folder / "gt_vs_pred.jsonl", scenes, form).read_bytes()
        for form in ("pixel", "norm1000", "tokens")
    ]
    truth = rollout_files.write_json(folder / "truth.json", rollout_files.coco_truth(scenes))
    results = dumped(rollout_files.coco_results(scenes))
    rollout_files.write_json(folder / "results.json", json.loads(results))
    shard = rollout_files.write_own(folder / "rollouts-0.jsonl", folder / "val.jsonl", scenes)
    readers: dict[str, tuple[Path, list[bytes], Callable[[Path], Predictions]]] = {
        "gt_vs_pred.jsonl": (folder / "gt_vs_pred.jsonl", forms, read_predictions),
        "COCO results": (
            folder / "coco.json",
            [results],
            lambda path: read_predictions(path, truth),
        ),
        "ground truth of COCO results": (
            folder / "other_truth.json",
            [truth.read_bytes()],
            lambda path: read_predictions(folder / "results.json", path),
        ),
        "rollouts": (
            folder / "rollouts-1.jsonl",
            [shard.read_bytes()],
            lambda path: read_predictions(path, folder / "val.jsonl"),
        ),
    }
    for name, (place, examples, read) in readers.items():

        def read_and_score(path: Path, read: Callable[[Path], Predictions] = read) -> object:
            return scored(read(path))

        mutate = of_json if place.suffix == ".json" else of_lines
        trees = json_trees(keys_in(examples))
        yield file_kind(name, place, examples, mutate, read_and_score, 2_500, trees)


def of_probe() -> Iterator[Kind]:
    """images.parquet of a probe whose probe.json records no digest of it."""
    probe = Path("in/probe")
    scenes = draw(probe)
    for moment in ("before", "after"):
        rollout_files.write_own(probe / moment / "rollouts-0.jsonl", probe / "val.jsonl", scenes)
    fields = random_tree(ProbeManifest, Random(0))
    fields |= {"status": "complete", "records": "in/probe/val.jsonl", "swapped": None}
    fields |= {"data_sha256": {}, "artifacts": {}}
    write_sealed(probe / "probe.json", fields)
    msgspec.convert(fields, ProbeManifest)
    columns = {"image_id": [0, 1, 2, 3], "n_boxes": [1] * 4}
    table = pa.table(columns | {f"geo_loss_{m}": [0.5] * 4 for m in ("before", "after")})
    out = io.BytesIO()
    pq.write_table(table, out)

    def changed(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.5:
            return of_bytes(content, rng)
        at = rng.randrange(table.num_columns)
        other = rng.choice(
            (["a"] * 4, [None] * 4, [[1]] * 4, [-1] * 4, [2**63 - 1] * 4, [1e308] * 4)
        )
        out = io.BytesIO()
        left = table.remove_column(at)
        if rng.random() < 0.8:
            left = left.append_column(table.column_names[at], pa.array(other))
        pq.write_table(left, out)
        return out.getvalue()

    yield file_kind(
        "losses of a probe by image",
        probe / "images.parquet",
        [out.getvalue()],
        changed,
        lambda path: read_probe(path.parent),
        2_000,
    )
