"""`data=records`: what `coordexp validate` passes is trained on; and a refused conversion, of
records or of annotations, leaves nothing behind.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import zlib
from pathlib import Path

import pytest
from coco_files import annotation, image, many, picture, rows, write_coco

from coordexp.cli.main import main
from coordexp.config.compose import compose
from coordexp.coords import to_pixels
from coordexp.data.coco.conversion_stats import conversion_notes
from coordexp.data.coco.shared_pictures import AUGMENTED, SAME_BYTES
from coordexp.data.prepare import prepare_data, read_data_manifest
from coordexp.data.records import read_records
from coordexp.storage.files import locked
from coordexp.study.plan import plan_study

pytestmark = pytest.mark.usefixtures("in_tmp")


def record(name: str, *boxes: list, **more) -> dict:
    objects = [{"desc": "cup", "bbox_2d": box} for box in boxes]
    return {"images": [name], "width": 64, "height": 96, "objects": objects, **more}


def record_file(path: str, names: list[str], *boxes: list) -> Path:
    """A record file, and its pictures beside it."""
    file = Path(path)
    for i, name in enumerate(names):
        picture(file.parent / name, (64, 96), seed=zlib.crc32(path.encode()) + i)
    lines = [json.dumps(record(name, *(boxes or ([8, 8, 40, 50],)))) for name in names]
    file.write_text("\n".join(lines) + "\n")
    return file


def prepared(*overrides: str) -> Path:
    return prepare_data(compose(["data=records", *overrides])).parent


TWO = ("data.train_records=train/a.jsonl", "data.val_records=val/a.jsonl")
NAMES = [f"images/{i}.jpg" for i in range(6)]


def test_two_files_become_a_data_directory():
    record_file("train/a.jsonl", NAMES)
    record_file("val/a.jsonl", NAMES[:2])
    out = prepared(*TWO, "data.train_images=4")
    assert len(read_records(out / "train.jsonl")) == 4
    assert len(read_records(out / "val.jsonl")) == 2
    facts = read_data_manifest(out / "data.json")
    assert (facts.train.images, facts.val.objects) == (4, 2)
    for row in rows(out / "val.jsonl"):
        name = row["images"][0].removeprefix("images/val/")
        assert (out / row["images"][0]).read_bytes() == (Path("val") / name).read_bytes()
    assert (out / "samples.png").is_file()
    before = (out / "data.json").read_bytes()
    assert prepared(*TWO, "data.train_images=4") == out
    assert (out / "data.json").read_bytes() == before


def test_one_file_is_split_by_the_seed():
    record_file("a.jsonl", NAMES)
    out = prepared("data.records=a.jsonl", "data.val_fraction=0.34")
    other = prepared("data.records=a.jsonl", "data.val_fraction=0.34", "data.seed=1")
    parts = [
        {row["images"][0].rpartition("/")[2] for row in rows(out / f"{split}.jsonl")}
        for split in ("train", "val")
    ]
    assert [len(part) for part in parts] == [4, 2]
    assert not parts[0] & parts[1]
    assert rows(other / "val.jsonl") != rows(out / "val.jsonl")


def test_tokens_become_pixels_and_flat_boxes_are_dropped_and_counted():
    def token(k: int) -> str:
        return f"<|coord_{k}|>"

    for seed, name in enumerate(("1.jpg", "2.jpg", "3.jpg")):
        picture(Path(name), (64, 96), seed=seed)
    flat = [token(k) for k in (5, 5, 5, 90)]
    box = [token(k) for k in (100, 200, 500, 999)]
    lines = [
        record("1.jpg", flat, box, [token(k) for k in (0, 300, 10, 320)])
        | {"metadata": {"order": [2, 0, 1]}},
        record("2.jpg", box),
        record("3.jpg", flat),
    ]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = prepared("data.records=a.jsonl", "data.val_fraction=0.5")
    found = {
        row["images"][0].rpartition("/")[2]: row
        for split in ("train", "val")
        for row in rows(out / f"{split}.jsonl")
    }
    assert set(found) == {"1.jpg", "2.jpg"}
    assert found["2.jpg"]["objects"][0]["bbox_2d"] == to_pixels([100, 200, 500, 999], 64, 96)
    assert found["1.jpg"]["metadata"]["order"] == [1, 0]
    counts = json.loads((out / "conversion.json").read_text())
    assert counts["train"]["object without area, in rounded bins"] == 2
    assert counts["train"]["record of which no object is left"] == 1


def test_a_problem_that_validate_finds_is_the_answer(refused, capsys):
    file = record_file("a.jsonl", NAMES)
    good = file.read_text()
    file.write_text(good.replace("[8, 8, 40, 50]", "[8, 8, 400, 50]"))
    with refused("a.jsonl:1", "reaches beyond the picture", "and 5 more", "coordexp validate"):
        prepared("data.records=a.jsonl")
    with pytest.raises(SystemExit):
        main(["validate", "a.jsonl"])
    assert capsys.readouterr().out.count("reaches beyond the picture") == 6
    file.write_text(good.replace('"width": 64', '"width": 60'))
    with refused("a.jsonl:1", "not multiples of 32"):
        prepared("data.records=a.jsonl")
    file.write_text("")
    with refused("a.jsonl: holds no record"):
        prepared("data.records=a.jsonl")
    with refused("b.jsonl: no such file"):
        prepared("data.records=b.jsonl")
    assert not Path("results").exists()


def test_pictures_beside_the_records_keep_their_last_parts(refused):
    Path("sets").mkdir()
    record_file("sets/a.jsonl", ["../pictures/1.jpg", "../pictures/2.jpg"])
    out = prepared("data.records=sets/a.jsonl")
    written = [rows(out / f"{split}.jsonl")[0]["images"][0] for split in ("train", "val")]
    assert {Path(name).parts[2] for name in written} == {"pictures"}
    record_file("sets/a.jsonl", ["../pictures/1.jpg", "pictures/1.jpg"])
    record_file("val/a.jsonl", ["1.jpg"])
    with refused("2 pictures would become images/train/pictures/1.jpg"):
        prepared("data.train_records=sets/a.jsonl", TWO[1])


def test_a_picture_in_both_splits_is_refused(refused):
    record_file("train/a.jsonl", NAMES)
    Path("val").symlink_to("train")
    with refused("val/a.jsonl", "6 of its pictures are in train as well"):
        prepared(*TWO)


@pytest.mark.parametrize("how", ["bytes", "names", "drawn"])
def test_copies_of_a_picture_in_both_splits_are_refused_or_counted(refused, how):
    names = [f"p_jpg.rf.{i:032x}.jpg" for i in range(2)] if how == "names" else ["4.jpg", "5.jpg"]
    train = record_file("train/a.jsonl", ["1.jpg", "2.jpg", names[0]])
    val = record_file("val/a.jsonl", ["3.jpg", names[1]])
    if how != "names":
        shutil.copy(Path("train") / names[0], Path("val") / names[1])
    if how == "drawn":  # shapes of one kind look alike
        for file in (train, val):
            lines = [json.dumps(row | {"metadata": {"rendered": True}}) for row in rows(file)]
            file.write_text("\n".join(lines))
        assert len(read_records(prepared(*TWO) / "val.jsonl")) == 2
        return
    kind = SAME_BYTES if how == "bytes" else AUGMENTED
    with refused(
        f"val/a.jsonl: 1 of its pictures are copies of training pictures (1 {kind})",
        f"{names[1]!r} of {names[0]!r}",
        "data.allow_shared_pictures=true",
    ):
        prepared(*TWO)
    assert not Path("results").exists()
    out = prepared(*TWO, "data.allow_shared_pictures=true")
    noted = f"pictures that train holds as well ({kind})"
    assert json.loads((out / "conversion.json").read_text())["val"]["noted"] == {noted: 1}
    assert conversion_notes(out) == [f"val: 1 {noted}"]


@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_on_one_side_of_one_file(seed, capsys):
    record_file("a.jsonl", [f"{i}.jpg" for i in range(8)])
    for i in range(4):
        shutil.copy(f"{i}.jpg", f"{i + 4}.jpg")
    out = prepared("data.records=a.jsonl", "data.val_fraction=0.5", f"data.seed={seed}")
    parts = []
    for split in ("train", "val"):
        names = [row["images"][0].rpartition("/")[2] for row in rows(out / f"{split}.jsonl")]
        parts.append({int(name[0]) % 4 for name in names})
        assert len(names) == 4
    assert not parts[0] & parts[1]
    assert f"  4 pictures kept on one side of the split: {SAME_BYTES}" in capsys.readouterr().err
    allowed = prepared(
        "data.records=a.jsonl", "data.allow_shared_pictures=true", f"data.seed={seed}"
    )
    assert len(read_records(allowed / "val.jsonl")) == 2


@pytest.mark.parametrize(
    "given", [[], ["data.records=a.jsonl", *TWO], [TWO[0]]], ids=["none", "all", "train"]
)
def test_records_are_one_file_or_one_each(refused, given):
    with refused("data.records", "data.train_records", "data.val_records"):
        compose(["data=records", *given])


def test_a_study_on_records_depends_on_their_files(refused):
    settings = {"experiment": "smoke", "all": "data=records data.records=a.jsonl"}
    with refused("a.jsonl: no such record file"):
        plan_study(settings)
    record_file("a.jsonl", NAMES)
    (files,) = {run.annotations for run in plan_study(settings).runs}
    assert files == ("a.jsonl",)
    Path("set").mkdir()
    with refused("set: a directory", "coordexp convert set --out coco.json"):
        plan_study({"experiment": "lvis_rehearsal", "all": "data.annotations=set"})


# --- a refused conversion leaves nothing behind -------------------------------------------------


def coco(*overrides: str) -> Path:
    return prepare_data(compose(["data=coco", "data.annotations=coco.json", *overrides])).parent


def test_a_refused_conversion_leaves_no_directory(refused):
    many(Path("coco.json"), 6)
    with refused("6 annotated pictures are missing"):
        coco()
    Path("coco.json").write_text("{")
    with refused("coco.json: not valid JSON"):
        coco()
    assert not Path("results").exists()


def test_a_conversion_without_a_usable_picture_leaves_no_directory(refused):
    images = [image(i) for i in range(4)]
    write_coco(Path("coco.json"), images, [annotation(i, i) for i in range(4)])
    for i in range(4):
        Path(f"{i}.jpg").write_bytes(b"no picture %d" % i)
    with refused("no picture is left for train", "picture not readable"):
        coco()
    assert not list(Path("results/data").iterdir())
    for i in range(4):
        picture(Path(f"{i}.jpg"), seed=i)
    out = coco()
    before = sorted(path for path in out.rglob("*"))
    for i in range(4):
        Path(f"{i}.jpg").unlink()
    with refused("4 annotated pictures are missing"):
        coco()
    assert sorted(path for path in out.rglob("*")) == before, "an earlier conversion stays"


def test_a_lock_whose_file_was_removed_is_taken_anew():
    """The holder removes the directory; who waited for the lock must not share it with a third."""
    lock = Path("out/.lock")
    told, tells = os.pipe()
    with locked(lock, "held"):
        waiting = multiprocessing.get_context("fork").Process(
            target=hold_and_write, args=(lock, tells)
        )
        waiting.start()
        with open(told) as lines:
            assert "waiting for it" in lines.readline()  # the file that is removed next is open
        lock.unlink()
        lock.parent.rmdir()
    waiting.join(60)
    assert waiting.exitcode == 0
    assert Path("inode").read_text() == str(lock.stat().st_ino)


def hold_and_write(lock: Path, tells: int) -> None:
    sys.stderr = open(tells, "w")  # noqa: SIM115
    with locked(lock, "held", wait=True):
        Path("inode").write_text(str(lock.stat().st_ino))
