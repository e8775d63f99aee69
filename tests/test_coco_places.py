"""Which file an annotated picture is, what it is written as, and that nothing is lost before both
are known.
"""

from __future__ import annotations

import codecs
import copy
import json
import shutil
from pathlib import Path

import pytest
from coco_files import annotation, image, picture, rows, settings, write_coco
from PIL import Image

from coordexp.config.schema import MissingPictures
from coordexp.data.coco.conversion import convert_annotations
from coordexp.storage.files import sha256_directory

pytestmark = pytest.mark.usefixtures("in_tmp")

SPLITS = ("train", "val")


def convert(*overrides: str, **values):
    """The accounts of a conversion to `out`, whose rows are those of `written`."""
    return convert_annotations(settings(*overrides, **values), Path("out"), 1)


def written() -> dict[int, str]:
    """The picture of each image id."""
    return {
        row["metadata"]["image_id"]: row["images"][0]
        for split in SPLITS
        for row in rows(Path(f"out/{split}.jsonl"))
    }


def with_pictures(path: Path, names: list[str], root: str = "pictures") -> dict:
    """An annotation file of these pictures, an object in each, and the pictures; returns its
    content.
    """
    images = [image(i) | {"file_name": name} for i, name in enumerate(names)]
    for i, name in enumerate(names):
        picture(Path(root) / name, seed=i)
    return json.loads(
        write_coco(path, images, [annotation(i, i) for i in range(len(names))]).read_text()
    )


REAL = {"images": "pictures", "missing": MissingPictures.refuse}


# --- nothing is lost --------------------------------------------------------------------------


def test_a_file_that_windows_marked_as_utf_8_is_read():
    file = Path("coco.json")
    with_pictures(file, [f"{i}.jpg" for i in range(4)])
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    stats = convert(**REAL)
    assert stats["train"].kept + stats["val"].kept == 4


def test_failed_conversion_leaves_the_old_one_unchanged(refused):
    good = with_pictures(Path("coco.json"), [f"{i}.jpg" for i in range(6)])
    convert(**REAL)
    Path("out/data.json").write_text("{}")
    before = sha256_directory(Path("out"))
    Path("coco.json").write_text(json.dumps(good)[:300])
    with refused("coco.json", "not valid JSON"):
        convert(**REAL)
    text_ids = copy.deepcopy(good)
    for entry in text_ids["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    Path("coco.json").write_text(json.dumps(text_ids))
    with refused("no picture is left for train", "nothing is annotated", "6 unknown picture"):
        convert(**REAL)
    Path("coco.json").write_text(json.dumps(good | {"annotations": good["annotations"][1:]}))
    shutil.move("pictures", "elsewhere")
    with refused("data.images=pictures: no such directory"):
        convert(**REAL)
    Path("pictures").touch()
    with refused("data.images=pictures: not a directory"):
        convert(**REAL)
    Path("pictures").unlink()
    Path("pictures").mkdir()
    with refused("data.images=pictures", "5 annotated pictures are missing"):
        convert(**REAL)
    Path("pictures").rmdir()
    assert sha256_directory(Path("out")) == before
    shutil.move("elsewhere", "pictures")
    convert(**REAL)
    assert not Path("out/data.json").exists()
    assert len(list(Path("out/images").rglob("*.jpg"))) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": "0"}, "6 unknown picture"),
        ({"category_id": "2"}, "unknown category"),
        ({"bbox": ["8", "8", "16", "16"]}, "broken box"),
        ({"iscrowd": "0"}, "broken iscrowd"),
        ({"iscrowd": 1}, "crowd region"),
    ],
)
def test_without_a_picture_left_the_error_has_conversion_stats(refused, change, reason):
    write_coco(
        Path("coco.json"),
        [image(i) for i in range(6)],
        [annotation(i, i) | change for i in range(6)],
    )
    with refused("coco.json: no picture is left for train", reason):
        convert()


# --- one file, one picture --------------------------------------------------------------------


def test_a_picture_under_two_names_in_train_and_val_is_noticed(refused):
    """COCO's own training file with LVIS's validation file, of which most pictures are COCO's
    training pictures.
    """
    names = [f"{i:012d}.jpg" for i in (9, 25, 30, 34)]
    with_pictures(Path("lvis_v1_val.json"), names, "coco/train2017")
    coco, lvis = (json.loads(Path("lvis_v1_val.json").read_text()) for _ in range(2))
    for entry, other in zip(coco["images"], lvis["images"], strict=True):
        entry["coco_url"] = other["coco_url"] = (
            f"http://images.cocodataset.org/train2017/{other.pop('file_name')}"
        )
    Path("instances_train2017.json").write_text(json.dumps(coco))
    Path("lvis_v1_val.json").write_text(json.dumps(lvis))
    own = {
        "annotations": None,
        "train_annotations": "instances_train2017.json",
        "val_annotations": "lvis_v1_val.json",
    }
    for val_images, shared in ((None, 4), (1, 1)):
        with refused("lvis_v1_val.json", f"{shared} of its pictures are in train as well", ".jpg"):
            convert(**own, images="coco", missing=MissingPictures.refuse, val_images=val_images)
    assert not Path("out").exists()


def test_links_to_one_file_are_one_picture(refused):
    with_pictures(Path("coco.json"), ["a/0.jpg", "a/1.jpg"])
    Path("pictures/b").symlink_to("a")
    images = [
        image(i) | {"file_name": name} for i, name in enumerate(("a/0.jpg", "b/0.jpg", "a/1.jpg"))
    ]
    write_coco(Path("train.json"), images[:2], [annotation(i, i) for i in range(2)])
    write_coco(Path("val.json"), images[2:], [annotation(2, 2)])
    own = {"annotations": None, "train_annotations": "train.json", "val_annotations": "val.json"}
    with refused("train.json: images 0 and 1 are one file, pictures/b/0.jpg"):
        convert(**own, **REAL)


def test_pictures_of_one_last_part_are_not_taken_from_one_file(refused):
    names = [f"vid{i // 3}/{i % 3}.jpg" for i in range(6)]
    with_pictures(Path("coco.json"), names)
    convert(**REAL)
    assert {i: picture.split("/", 2)[2] for i, picture in written().items()} == dict(
        enumerate(names)
    )
    shutil.rmtree("pictures")
    for i in range(3):
        picture(Path(f"pictures/{i}.jpg"))
    for drawn in (None, 1):
        with refused("data.images=pictures", "annotated pictures are missing, such as 'vid"):
            convert(**REAL, train_images=drawn, val_images=drawn)


@pytest.mark.parametrize("names", [["a.png", "a.png.jpg"], ["0", "0.jpg"]])
def test_two_pictures_with_one_output_name_are_refused(refused, names):
    with_pictures(Path("coco.json"), ["1.jpg", "2.jpg", *(f"{name}.png" for name in names)])
    for name in names:
        Path(f"pictures/{name}.png").rename(f"pictures/{name}")
    content = json.loads(Path("coco.json").read_text())
    for entry, name in zip(content["images"][2:], names, strict=True):
        entry["file_name"] = name
    Path("coco.json").write_text(
        json.dumps(
            {**content, "images": content["images"][2:], "annotations": content["annotations"][2:]}
        )
    )
    write_coco(Path("val.json"), [image(0) | {"file_name": "1.jpg"}], [annotation(0, 0)])
    own = {"annotations": None, "train_annotations": "coco.json", "val_annotations": "val.json"}
    with refused("coco.json: images 2 and 3", names[0], names[1], f"images/train/{names[1]}"):
        convert(**own, **REAL)
    convert(**own)  # as drawings they have names of their own


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", [False, True])
def test_names_as_long_as_they_may_be_are_written(drawn):
    names = [
        "猫" * 82 + ".jpg",
        "x" * 251 + ".png",
        "d" * 255 + "/" + "y" * 251 + ".jpg",
        "a/" * 600 + "z.jpg",
    ]
    with_pictures(Path("coco.json"), names)
    if drawn:
        shutil.rmtree("pictures")
    convert(**(REAL | {"missing": MissingPictures.draw if drawn else MissingPictures.refuse}))
    found = written()
    assert len(set(found.values())) == 4
    for name in found.values():
        with Image.open(Path("out") / name) as opened:
            assert opened.size == (64, 64)
            assert opened.format == ("PNG" if drawn else "JPEG")
    if not drawn:
        assert found[0].endswith(names[0]), "what fits is kept"


def test_a_name_longer_than_any_file_may_be_is_drawn_or_missing(refused):
    names = ["x" * 300 + ".jpg", "y" * 300 + "/1.jpg"]
    write_coco(
        Path("coco.json"),
        [image(i) | {"file_name": name} for i, name in enumerate(names)],
        [annotation(i, i) for i in (0, 1)],
    )
    convert()
    assert len(set(written().values())) == 2
    Path("pictures").mkdir()
    with refused("2 annotated pictures are missing"):
        convert(**REAL)


def test_a_directory_may_end_like_a_leftover():
    write_coco(
        Path("coco.json"),
        [image(i) | {"file_name": f"batch.tmp/{i}.jpg"} for i in range(4)],
        [annotation(i, i) for i in range(4)],
    )
    convert()
    first = sha256_directory(Path("out"))
    convert()
    assert sha256_directory(Path("out")) == first
