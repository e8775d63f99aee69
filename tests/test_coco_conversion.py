"""Annotation files to records and pictures: every instance accounted for, resumable, the same on
every number of cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_files import (
    BAT,
    CATEGORIES,
    LVIS,
    annotation,
    image,
    many,
    picture,
    rows,
    settings,
    write_coco,
)
from PIL import Image
from pycocotools import mask as coco_mask
from test_pictures import png_header

from coordexp.config.compose import compose
from coordexp.config.schema import MissingPictures
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.coco.conversion_stats import ConversionStats, conversion_notes
from coordexp.data.coco.images import colour_of
from coordexp.data.parallel import CHUNK, CHUNKS_PER_WORKER, in_parallel
from coordexp.data.prepare import prepare_data
from coordexp.data.records import read_records
from coordexp.errors import UserError
from coordexp.storage.files import read_json, sha256_directory, write_json

SPLITS = ("train", "val")
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("in_tmp")


def convert(*overrides: str, out: str = "out", workers: int = 1, **values):
    """The rows of both splits, and their stats_by_split."""
    stats_by_split = convert_annotations(settings(*overrides, **values), Path(out), workers)
    for stats in stats_by_split.values():
        stats.report()  # in which kept and dropped instances are all there are
    return {split: rows(Path(out) / f"{split}.jsonl") for split in SPLITS}, stats_by_split


def total(stats_by_split, name: str) -> Counter:
    return sum((getattr(stats, name) for stats in stats_by_split.values()), Counter())


# --- the LVIS sample --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lvis():
    if not LVIS.exists():
        pytest.skip("no LVIS annotations beside the checkout")
    return json.loads(LVIS.read_text())


def qwens_size(width: int, height: int) -> tuple[int, int]:
    """Qwen's smart_resize, at the default budget."""
    size = np.array([width, height])
    fitted = np.round(size / 32) * 32
    if fitted.prod() > 768 * 32 * 32:
        fitted = np.floor(size / np.sqrt(size.prod() / (768 * 32 * 32)) / 32) * 32
    return int(fitted[0]), int(fitted[1])


@pytest.mark.parametrize("geometry", ["bbox", "poly_prefer"])
@pytest.mark.parametrize("max_objects", [60, 1000, 8])
def test_every_instance_of_the_sample_is_kept_or_dropped_for_a_reason(lvis, geometry, max_objects):
    _, stats_by_split = convert(
        f"data.geometry={geometry}", annotations=str(LVIS), max_objects=max_objects
    )
    kept, dropped = sum(a.kept for a in stats_by_split.values()), total(stats_by_split, "dropped")
    assert kept + sum(dropped.values()) == sum(a.annotated for a in stats_by_split.values()) == 977
    per_image = Counter(a["image_id"] for a in lvis["annotations"])
    crowded = [n for n in per_image.values() if n > max_objects]
    assert dropped == Counter({"more than max_objects": sum(crowded)} if crowded else {})
    assert total(stats_by_split, "pictures")["kept"] == len(per_image) - len(crowded)
    assert total(stats_by_split, "left_out")["nothing is annotated"] == len(lvis["images"]) - len(
        per_image
    )


def test_boxes_of_the_sample_equal_an_independent_computation(lvis):
    found, _ = convert(annotations=str(LVIS), max_objects=1000)
    names = {c["id"]: c["name"] for c in lvis["categories"]}
    sizes = {i["id"]: (i["width"], i["height"]) for i in lvis["images"]}
    of_image = {row["metadata"]["image_id"]: row for split in SPLITS for row in found[split]}
    for image_id, row in of_image.items():
        size = np.array(sizes[image_id])
        fitted = np.array(qwens_size(*size))
        annotated = [a for a in lvis["annotations"] if a["image_id"] == image_id]
        boxes = np.array([a["bbox"] for a in annotated])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) * np.tile(
            fitted / size, 2
        )
        corners = np.clip(corners, 0, np.tile(fitted - 1, 2))
        expected = sorted(
            (*np.round(c, 3), names[a["category_id"]])
            for c, a in zip(corners, annotated, strict=True)
        )
        got = sorted((*np.round(o["bbox_2d"], 3), o["desc"]) for o in row["objects"])
        assert [e[-1] for e in expected] == [g[-1] for g in got]
        assert np.allclose([e[:-1] for e in expected], [g[:-1] for g in got], atol=2e-3)
        assert (row["width"], row["height"]) == tuple(fitted)
        assert row["metadata"]["annotated_size_px"] == list(size)


def test_polygons_of_the_sample_equal_an_independent_computation(lvis):
    found, stats_by_split = convert(
        "data.geometry=poly_prefer", annotations=str(LVIS), max_objects=1000
    )
    single: dict[int, list[np.ndarray]] = {}
    several = n_short = 0
    for i in lvis["images"]:
        scale = np.array(qwens_size(i["width"], i["height"])) / (i["width"], i["height"])
        for parts in (a["segmentation"] for a in lvis["annotations"] if a["image_id"] == i["id"]):
            several += len(parts) > 1
            if len(parts) == 1:
                single.setdefault(i["id"], []).append(
                    canonical(np.array(parts[0]).reshape(-1, 2) * scale)
                )
    matched = 0
    for row in (row for split in SPLITS for row in found[split]):
        last = np.array([row["width"], row["height"]]) - 1
        shapes = single.get(row["metadata"]["image_id"], [])
        # The others are cut at the last pixel.
        short = [s for s in shapes if len(s) <= 20 and (s <= last).all()]
        n_short += len(short)
        for polygon in (np.array(o["poly"]).reshape(-1, 2) for o in row["objects"] if "poly" in o):
            assert len(polygon) <= 20
            assert (polygon <= last).all()
            assert (canonical(polygon) == polygon).all()
            matched += any(
                len(s) == len(polygon) and np.allclose(s, polygon, atol=1e-3) for s in short
            )
            assert max(raster_iou(np.minimum(s, last), polygon, row) for s in shapes) > 0.88
    assert matched == n_short > 300
    assert several == total(stats_by_split, "boxes_instead")["several parts"] == 98
    n_single, n_polygons = (
        sum(map(len, single.values())),
        total(stats_by_split, "objects")["polygon"],
    )
    assert (
        n_single - n_polygons
        == total(stats_by_split, "boxes_instead")["an outline of too many vertices"]
        < 50
    )


def canonical(points: np.ndarray) -> np.ndarray:
    """Clockwise from the top-most, then left-most vertex  # [N, 2]"""
    points = points[:-1] if (points[0] == points[-1]).all() else points
    x, y = points.T
    points = points if x @ np.roll(y, -1) - y @ np.roll(x, -1) > 0 else points[::-1]
    return np.roll(points, -np.lexsort(points.T)[0], 0)


def raster_iou(a: np.ndarray, b: np.ndarray, row: dict, scale: int = 4) -> float:
    height, width = row["height"] * scale, row["width"] * scale
    masks = [
        coco_mask.frPyObjects([(p * scale).flatten().tolist()], height, width)[0] for p in (a, b)
    ]
    return float(coco_mask.iou(masks[:1], masks[1:], [0])[0, 0])


# --- what is counted --------------------------------------------------------------------------


def test_the_account_names_each_kind_of_fault():
    annotations = [
        annotation(1, 1),
        annotation(2, 1, iscrowd=1),
        annotation(3, 1, category_id=99),
        annotation(4, 1, bbox=(1, 1, 0, 5)),
        annotation(5, 1),
        annotation(6, 1, bbox=(60, 60, 10, 10), category_id=BAT),
        annotation(1, 1, bbox=(20, 20, 10, 10)),
        annotation(7, 99),
        annotation(8, 2, iscrowd=1),
        annotation(9, 4),
    ]
    write_coco(Path("coco.json"), [image(i) for i in (1, 2, 3)], annotations[:-1])
    write_coco(Path("val.json"), [image(4)], annotations[-1:])
    found, stats_by_split = convert(
        annotations=None, train_annotations="coco.json", val_annotations="val.json"
    )
    stats = stats_by_split["train"]
    assert stats.dropped == {
        "crowd region": 2,
        "unknown category": 1,
        "no area": 1,
        "the same object twice": 1,
        "unknown picture": 1,
    }
    assert (stats.annotated, stats.kept, stats.objects["clipped"]) == (9, 3, 1)
    assert stats.left_out == {"nothing is annotated": 1, "no object is left": 1}
    assert [o["desc"] for o in found["train"][0]["objects"]] == ["cup", "cup", "bat_(animal)"]
    assert [o["bbox_2d"] for o in found["train"][0]["objects"]] == [
        [8, 8, 24, 24],
        [20, 20, 30, 30],
        [60, 60, 63, 63],
    ]


def test_the_report_measures_what_a_model_would_write():
    write_coco(
        Path("coco.json"),
        [image(1), image(2)],
        [annotation(1, 1), annotation(2, 1, category_id=BAT), annotation(3, 2)],
    )
    _, stats_by_split = convert(val_fraction=0.5)
    by_size = sorted(stats_by_split.values(), key=lambda stats: stats.annotated)
    told = by_size[1].report()
    skeleton = len(
        '{"objects": [{"desc": "cup", "bbox_2d": [, , , ]}, {"desc": "bat_(animal)", "bbox_2d": [, '
        ", , ]}]}"
    )
    assert told["coordjson_other_characters"]["max"] == skeleton
    assert told["coordjson_coordinate_tokens"] == {
        "mean": 8.0,
        "median": 8,
        "p90": 8,
        "p99": 8,
        "max": 8,
    }
    assert told["objects_per_picture"]["median"] == 2
    assert told["box_sides_bins"]["200 to 499"] == 4, "16 of 63 pixels are 254 of 999 bins"
    assert sum(told["box_sides_bins"].values()) == 4
    assert told["names"] == 2


def test_each_side_of_a_box_is_counted_in_one_class():
    told = ConversionStats(sides_bins=Counter((0, 1, 2, 4, 5, 499, 500, 999))).report()[
        "box_sides_bins"
    ]
    expected = {"0": 1, "1": 1, "2 to 4": 2, "5 to 9": 1, "200 to 499": 1, "500 to 999": 2}
    assert {name: n for name, n in told.items() if n} == expected


# --- splits -----------------------------------------------------------------------------------


def images_of(found) -> dict[str, list[int]]:
    return {split: [row["metadata"]["image_id"] for row in found[split]] for split in SPLITS}


def test_one_file_is_split_by_seed_and_fraction():
    many(Path("coco.json"), 40)
    found, _ = convert()
    ids = images_of(found)
    assert len(ids["val"]) == 8
    assert sorted(ids["train"] + ids["val"]) == list(range(40))
    assert ids["train"] == sorted(ids["train"]), "in the order of the file"
    assert images_of(convert(out="again")[0]) == ids
    assert images_of(convert(out="other", seed=1)[0])["val"] != ids["val"]
    assert len(images_of(convert(out="half", val_fraction=0.5)[0])["val"]) == 20


def test_samples_are_drawn_by_seed_among_what_is_annotated():
    content = json.loads(many(Path("coco.json"), 40).read_text())
    content["images"] += [image(i) for i in range(100, 140)]
    Path("coco.json").write_text(json.dumps(content))
    found, stats_by_split = convert(train_images=5, val_images=3, val_fraction=0.3)
    ids = images_of(found)
    assert (len(ids["train"]), len(ids["val"])) == (5, 3)
    assert (
        images_of(convert(out="other", train_images=5, val_images=3, val_fraction=0.3, seed=1)[0])
        != ids
    )
    assert total(stats_by_split, "left_out") == {"nothing is annotated": 40, "not drawn": 32}
    write_coco(Path("val.json"), [image(500)], [annotation(1, 500)])
    own = {
        "annotations": None,
        "train_annotations": "coco.json",
        "val_annotations": "val.json",
        "train_images": 5,
    }
    assert images_of(convert(out="a", **own)[0]) != images_of(convert(out="b", seed=1, **own)[0])
    assert total(stats_by_split, "dropped") == {"picture not drawn": 64}


def test_train_and_val_may_be_files_of_their_own_but_not_overlap(refused):
    many(Path("a.json"), 4)
    write_coco(Path("b.json"), [image(50)], [annotation(1, 50)])
    own = {"annotations": None, "train_annotations": "a.json"}
    assert images_of(convert(**own, val_annotations="b.json")[0]) == {
        "train": [0, 1, 2, 3],
        "val": [50],
    }
    write_coco(Path("b.json"), [image(50), image(2)], [annotation(1, 50)])
    with refused("b.json", "2.jpg"):
        convert(**own, val_annotations="b.json")


@pytest.mark.parametrize("n", [0, 1])
def test_a_file_that_cannot_be_split_or_holds_nothing_is_one_line(refused, n):
    write_coco(Path("coco.json"), [image(i) for i in range(n)], [])
    with refused("coco.json"):
        convert()
    write_coco(
        Path("coco.json"),
        [image(i) for i in range(4)],
        [annotation(i, i, iscrowd=1) for i in range(4)],
    )
    with refused("coco.json", "no object is left"):
        convert()
    with refused("no-such.json"):
        convert(annotations="no-such.json")


# --- order ------------------------------------------------------------------------------------


def test_random_order_is_written_and_read_while_the_file_stays_sorted():
    many(Path("coco.json"), 6, objects=12)
    found, _ = convert("data.order=random")
    sorted_rows, _ = convert(out="sorted")
    orders = []
    for split in SPLITS:
        for row, plain, record in zip(
            found[split],
            sorted_rows[split],
            read_records(Path("out") / f"{split}.jsonl"),
            strict=True,
        ):
            order = row["metadata"]["order"]
            orders.append(order)
            assert row["objects"] == plain["objects"]
            assert [o.desc for o in record.coord_objects()] == [
                row["objects"][i]["desc"] for i in order
            ]
            assert [list(o.pixels) for o in record.objects] == [
                row["objects"][i]["bbox_2d"] for i in order
            ]
    assert len({tuple(order) for order in orders}) == len(orders) > 1
    assert convert("data.order=random", out="again")[0] == found
    assert convert("data.order=random", out="other", seed=1)[0]["train"] != found["train"]


# --- pictures ---------------------------------------------------------------------------------


def test_pictures_are_resized_and_their_boxes_with_them():
    picture(Path("pictures/1.jpg"), (640, 427))
    picture(Path("pictures/sub/2.png"), (64, 64))
    images = [image(1, (640, 427)), image(2) | {"file_name": "sub/2.png"}]
    write_coco(
        Path("coco.json"), images, [annotation(1, 1, (64, 42.7, 320, 213.5)), annotation(2, 2)]
    )
    found, stats_by_split = convert(
        val_fraction=0.5, images="pictures", missing=MissingPictures.refuse, pixel_budget=65536
    )
    row = {row["metadata"]["image_id"]: row for split in SPLITS for row in found[split]}
    split = {row["metadata"]["image_id"]: split for split in SPLITS for row in found[split]}
    assert row[1]["images"] == [f"images/{split[1]}/1.jpg"]
    assert row[2]["images"] == [f"images/{split[2]}/sub/2.png.jpg"]
    assert (row[1]["width"], row[1]["height"]) == (288, 192)
    assert row[1]["objects"][0]["bbox_2d"] == pytest.approx([28.8, 19.2, 172.8, 115.2])
    assert total(stats_by_split, "pictures") == {"kept": 2, "resized": 1}
    for i in row:
        with Image.open(Path("out") / row[i]["images"][0]) as written:
            assert (written.format, written.size) == ("JPEG", (row[i]["width"], row[i]["height"]))
    assert not any("rendered" in row[i]["metadata"] for i in row)


def test_missing_pictures_end_it_with_one_line_before_any_work(refused):
    many(Path("coco.json"), 5)
    picture(Path("pictures/0.jpg"))
    with refused(
        "data.images=pictures",
        "4 annotated pictures are missing",
        ".jpg",
        "data.missing=draw",
    ):
        convert(images="pictures", missing=MissingPictures.refuse)
    assert not Path("out/images").exists()


def test_only_missing_pictures_are_drawn():
    write_coco(Path("coco.json"), [image(1), image(2)], [annotation(1, 1), annotation(2, 2)])
    picture(Path("pictures/1.jpg"))
    found, stats_by_split = convert(val_fraction=0.5, images="pictures")
    drawn = {row["metadata"]["image_id"]: row for split in SPLITS for row in found[split]}
    assert "rendered" not in drawn[1]["metadata"]
    assert drawn[2]["metadata"]["rendered"] is True
    assert drawn[2]["images"][0].endswith("2.jpg.drawn.png")
    with Image.open(Path("out") / drawn[2]["images"][0]) as opened:
        assert opened.getpixel((16, 16)) == colour_of("cup")
    assert total(stats_by_split, "pictures") == {"kept": 2, "rendered": 1}
    picture(Path("pictures/2.jpg"), seed=2)  # and once it is there, it is taken
    found, _ = convert(val_fraction=0.5, images="pictures")
    assert not any("rendered" in row["metadata"] for split in SPLITS for row in found[split])


def test_pictures_that_cannot_be_used_are_left_out_counted_and_named():
    many(Path("coco.json"), 8)
    for i in range(8):
        picture(Path(f"pictures/{i}.jpg"), seed=i)
    Path("pictures/1.jpg").write_bytes(Path("pictures/1.jpg").read_bytes()[:-200])
    Path("pictures/2.jpg").write_bytes(png_header(10_000, 5_000))
    picture(Path("pictures/3.jpg"), (64, 32))
    found, stats_by_split = convert(
        images="pictures", missing=MissingPictures.refuse, val_fraction=0.4
    )
    assert sorted(i for ids in images_of(found).values() for i in ids) == [0, 4, 5, 6, 7]
    assert total(stats_by_split, "left_out") == {
        "picture not readable": 1,
        "picture too large": 1,
        "picture of another size": 1,
    }
    assert total(stats_by_split, "dropped") == dict.fromkeys(total(stats_by_split, "left_out"), 2)
    faults = "\n".join(fault for stats in stats_by_split.values() for fault in stats.faults)
    for words in (
        ("1.jpg", "truncated"),
        ("2.jpg", "10000 x 5000"),
        ("3.jpg", "64 x 32 px, annotated as 64 x 64"),
    ):
        assert any(all(word in line for word in words) for line in faults.splitlines())


# --- stop and go ------------------------------------------------------------------------------


def test_finished_pictures_are_kept_and_torn_ones_are_not():
    many(Path("coco.json"), 10)
    convert()
    first = sha256_directory(Path("out"))
    times = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.png")}
    gone = sorted(times)[3]
    gone.unlink()
    gone.with_name("x.4711.tmp").write_bytes(b"half a picture")
    Path("out/train.jsonl").unlink()
    convert()
    assert sha256_directory(Path("out")) == first
    assert [p for p in times if p.stat().st_mtime_ns != times[p]] == [gone]


def test_annotations_that_have_changed_make_new_pictures():
    many(Path("coco.json"), 10)
    convert()
    many(Path("coco.json"), 10, objects=3)
    convert()
    after = sha256_directory(Path("out"))
    convert(out="fresh")
    assert after == sha256_directory(Path("fresh"))


def test_every_number_of_workers_writes_the_same():
    many(Path("coco.json"), 70, objects=5)
    one, two = convert(), convert(out="two", workers=2)
    assert one == two
    assert sha256_directory(Path("out")) == sha256_directory(Path("two"))


def double(n: int) -> int:
    if n == 777:
        raise UserError("777 is too much")
    if n == 999:
        os._exit(3)
    return 2 * n


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_faults_are_raised(refused, workers):
    assert list(in_parallel(double, range(200), workers)) == list(range(0, 400, 2))
    with refused("777 is too much"):
        list(in_parallel(double, range(1000), workers))


def test_a_worker_that_dies_is_one_line(refused):
    with refused("a worker process died"):
        list(in_parallel(double, [*range(50), 999, *range(50)], 2))


def test_only_a_few_tasks_are_in_flight():
    drawn = []
    results = in_parallel(double, (drawn.append(i) or i for i in range(700)), 2)
    for i in range(100):
        assert next(results) == 2 * i
    assert len(drawn) <= 100 + 2 * CHUNK * CHUNKS_PER_WORKER + CHUNK
    results.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_conversion_leaves_no_workers_and_goes_on(tmp_path):
    many(Path("coco.json"), 250, (640, 480))
    program = (
        "from pathlib import Path; from coordexp.config.compose import compose\n"
        "from coordexp.data.coco.conversion import convert_annotations\n"
        "cfg = compose(['data=coco', 'data.annotations=coco.json', 'data.missing=draw'])\n"
        "convert_annotations(cfg.data, Path('out'), 2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 60
    while len(list(Path("out").rglob("*.png"))) < 20:
        assert job.poll() is None, "it should still be at work"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = children(job.pid)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert len(workers) == 2
    assert not Path("out/train.jsonl").exists()
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    kept = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*.png")}
    assert 20 <= len(kept) < 250
    convert(workers=2)
    assert all(p.stat().st_mtime_ns == time_ns for p, time_ns in kept.items())
    convert(out="fresh", workers=2)
    assert sha256_directory(Path("out")) == sha256_directory(tmp_path / "fresh")


# --- the whole --------------------------------------------------------------------------------


def test_prepare_writes_records_and_prints_conversion_stats(capsys):
    many(Path("coco.json"), 20, objects=3)
    cfg = compose(["data=lvis", "data.annotations=coco.json", "data.missing=draw"])
    manifest = prepare_data(cfg)
    out = manifest.parent
    assert read_json(manifest)["train"]["images"] == len(read_records(out / "train.jsonl")) == 16
    assert read_json(manifest)["val"]["objects"] == 12
    report = read_json(out / "conversion.json")
    assert report["train"]["instances"] == {"annotated": 48, "kept": 48, "dropped": {}}
    with Image.open(out / "samples.png") as figure:
        assert figure.width > figure.height > 300
        assert len(figure.convert("RGB").getcolors(1 << 24)) > 10
    told = capsys.readouterr().err
    assert "train: 16 pictures, 48 objects of 48 annotated instances" in told
    before = manifest.read_bytes()
    assert prepare_data(cfg).read_bytes() == before
    Path("coco.json").unlink()
    assert prepare_data(cfg).read_bytes() == before
    assert "coco.json is gone" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(24576, 10), (10, 24576), (100_000, 2)])
def test_pictures_of_any_shape_are_in_the_figure(size):
    many(Path("coco.json"), 4, size)
    manifest = prepare_data(
        compose(["data=coco", "data.annotations=coco.json", "data.missing=draw"])
    )
    with Image.open(manifest.parent / "samples.png") as figure:
        assert min(figure.size) > 300


def test_real_categories_may_have_any_name():
    names = [
        "bat_(animal)",
        "杯子",
        "crème brûlée",
        'say "hi"',
        "two\nlines",
        "line\u2028separator",
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    write_coco(
        Path("coco.json"),
        [image(i) for i in range(6)],
        [annotation(i, i, category_id=i) for i in range(6)],
        categories,
    )
    convert()
    found = [
        o.desc
        for split in SPLITS
        for r in read_records(Path(f"out/{split}.jsonl"))
        for o in r.objects
    ]
    assert sorted(found) == sorted(names)
    assert CATEGORIES[1]["name"] in found


@pytest.mark.parametrize(
    ("kept", "notes"),
    [(4, ["train: 44 of 48 pictures left out: 44 more than max_objects"]), (4000, [])],
)
def test_many_pictures_left_out_are_noted(tmp_path, kept, notes):
    pictures = {"kept": kept, "left out": {"more than max_objects": 44}}
    write_json(tmp_path / "conversion.json", {"train": {"pictures": pictures}})
    assert conversion_notes(tmp_path) == notes
