"""Where pictures are looked for: a directory for each split, beside the annotation file, and under
the last parts of a name that was written on another machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import annotation, image, picture, rows, settings, write_coco
from PIL import Image

from coordexp.config.schema import MissingPictures
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.coco.conversion_stats import BY_END, summary
from coordexp.data.picture_paths import MOST_PARTS, lies_below, paths_of

pytestmark = pytest.mark.usefixtures("in_tmp")


def convert(**values):
    """The conversion to `out`, which refuses missing pictures unless `values` say otherwise."""
    real = {"missing": MissingPictures.refuse, "val_fraction": 0.25}
    return convert_annotations(settings(**(real | values)), Path("out"), 1)


def written() -> dict[int, str]:
    """The picture of each image id."""
    found = {}
    for split in ("train", "val"):
        for row in rows(Path(f"out/{split}.jsonl")):
            found[row["metadata"]["image_id"]] = row["images"][0]
    return found


def coco(path: Path, names: list[str], first_id: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = range(first_id, first_id + len(names))
    images = [image(i) | {"file_name": name} for i, name in zip(ids, names, strict=True)]
    return write_coco(path, images, [annotation(i, i) for i in ids])


def pictures(root: str, names: list[str], first: int = 0) -> None:
    for i, name in enumerate(names):
        picture(Path(root) / name, seed=first + i)


TWO_FILES = {
    "annotations": None,
    "train_annotations": "train/_annotations.coco.json",
    "val_annotations": "valid/_annotations.coco.json",
}


def test_each_split_has_its_own_directory_and_names_may_repeat(refused):
    names = ["1.jpg", "2.jpg"]
    for first, split in ((0, "train"), (10, "valid")):
        coco(Path(f"{split}/_annotations.coco.json"), names)
        pictures(f"of_{split}", names, first)
    own = TWO_FILES | {"train_pictures": "of_train", "val_pictures": "of_valid"}
    convert(**own)
    assert len(list(Path("out/images/train").iterdir())) == 2
    assert len(list(Path("out/images/val").iterdir())) == 2
    with refused("2 of its pictures are in train as well"):
        convert(**own | {"val_pictures": "of_train"})
    with refused("data.val_pictures=nowhere: no such directory"):
        convert(**own | {"val_pictures": "nowhere"})
    Path("of_valid/1.jpg").unlink()
    with refused("data.val_pictures=of_valid", "1 annotated pictures are missing", "'1.jpg'"):
        convert(**own)


def test_equal_names_in_cvats_subsets_are_different_pictures(refused):
    given = {"annotations": None}
    for first, key, subset in ((0, "train", "Train"), (10, "val", "Validation")):
        path = coco(Path(f"annotations/instances_{subset}.json"), ["1.jpg", "2.jpg"], first)
        given[f"{key}_annotations"] = str(path)
    for missing in MissingPictures:
        with refused("instances_Validation.json: 2 of its pictures are in train as well"):
            convert(missing=missing, **given)
    pictures("images/Train", ["1.jpg", "2.jpg"])
    with refused("instances_Validation.json: 2 of its pictures are in train as well"):
        convert(missing=MissingPictures.draw, **given)
    pictures("images/Validation", ["1.jpg", "2.jpg"], 10)
    convert(**given)
    assert set(written()) == {0, 1, 10, 11}


def test_pictures_beside_their_annotation_file_are_found_and_told(capsys):
    for first, split in ((0, "train"), (10, "valid")):
        coco(Path(f"{split}/_annotations.coco.json"), ["1.jpg", "2.jpg"], first)
        pictures(split, ["1.jpg", "2.jpg"], first)
    convert(**TWO_FILES)
    assert len(written()) == 4
    told = capsys.readouterr().err
    assert "train: the pictures are those in train, beside train/_annotations.coco.json" in told
    assert "val: the pictures are those in valid, beside valid/_annotations.coco.json" in told


@pytest.mark.parametrize(
    ("annotations", "root"),
    [
        ("set/result.json", "set/images"),  # Label Studio
        ("set/annotations/instances_default.json", "set/images/default"),  # CVAT
        ("set/annotations/instances_train2017.json", "set/train2017"),  # COCO
        ("set/annotations/instances_train2017.json", "set/images"),
    ],
)
def test_the_directories_of_exporters_are_known(annotations, root):
    names = [f"{i}.jpg" for i in range(4)]
    coco(Path(annotations), names)
    pictures(root, names)
    pictures("elsewhere", names)
    convert(annotations=annotations)
    for i, name in written().items():
        with Image.open(Path("out") / name) as found, Image.open(f"{root}/{i}.jpg") as source:
            assert found.size == source.size


@pytest.mark.parametrize("path", ["set/coco.json", "data.json"])
def test_without_a_setting_the_message_names_it(refused, path):
    coco(Path(path), ["1.jpg", "2.jpg"])
    with refused(f"{path}: data.images is not set, and 2 annotated pictures are missing beside it"):
        convert(annotations=path)
    assert not Path("out").exists()


FOREIGN = [
    "../../label-studio/data/media/upload/1/a b.jpg",
    "images\\b.jpg",
    "images%2Fc.jpg",
    "C:\\Users\\me\\images\\d.jpg",
    "/home/me/images/e.jpg",
    "/data/local-files/?d=images%2Ff.jpg",
    "https://bucket.example.org/x/images/g.jpg?sig=a/b",
    "images/../../h.jpg",
]


def test_names_of_another_machine_are_found_by_their_last_parts():
    coco(Path("coco.json"), FOREIGN)
    names = ["upload/1/a b.jpg", *(f"images/{c}.jpg" for c in "bcdefg"), "h.jpg"]
    pictures("pictures", names)
    stats = convert(images="pictures")
    assert sorted(written()) == list(range(len(FOREIGN)))
    told = "\n".join(summary(split, each) for split, each in stats.items())
    assert sum(each.pictures[BY_END] for each in stats.values()) == len(FOREIGN) - 1, (
        "h.jpg is what remains of its name behind the last .."
    )
    assert f"pictures {BY_END}" in told
    for name in written().values():
        assert ".." not in Path(name).parts


def test_nothing_outside_the_directory_is_read(refused):
    coco(Path("coco.json"), ["../secret.jpg", str(Path("secret.jpg").absolute()) + ".jpg"])
    Path("pictures").mkdir()
    picture(Path("secret.jpg"))
    picture(Path("secret.jpg.jpg"))
    with refused("2 annotated pictures are missing"):
        convert(images="pictures")


def test_an_end_that_two_pictures_share_is_used_for_neither(refused):
    coco(Path("coco.json"), ["../a/x/1.jpg", "../b/x/1.jpg", "../b/2.jpg", "3.jpg"])
    pictures("pictures", ["x/1.jpg", "1.jpg", "2.jpg", "3.jpg"])
    with refused("2 annotated pictures are missing", "a/x/1.jpg"):
        convert(images="pictures")
    pictures("pictures", ["a/x/1.jpg", "b/x/1.jpg"])
    convert(images="pictures")
    assert len(written()) == 4


def test_two_names_with_one_path_below_the_directory_are_refused(refused):
    coco(Path("coco.json"), ["../1/a.jpg", "/1/a.jpg", "b.jpg"])
    with refused("images 0 and 1 are the same picture '1/a.jpg' below the pictures' directory"):
        convert(images="pictures", missing=MissingPictures.draw)


def test_links_inside_the_directory_are_followed():
    coco(Path("coco.json"), ["train2017/1.jpg", "train2017/2.jpg"])
    pictures("disk", ["1.jpg", "2.jpg"])
    Path("pictures").mkdir()
    Path("pictures/train2017").symlink_to(Path("disk").absolute())
    convert(images="pictures")
    assert len(written()) == 2


@pytest.mark.parametrize("name", [*FOREIGN, "a/" * 10_000 + "b.jpg", "..\\..\\a.jpg", "%2e%2e%2fa"])
def test_every_path_looked_for_lies_below_the_directory(name):
    paths = paths_of(name)
    assert 1 <= len(paths) <= 2 * MOST_PARTS + 1
    assert all(lies_below(path) for path in paths)


def test_missing_pictures_are_skipped_counted_and_named(refused):
    names = [f"{i}.jpg" for i in range(8)]
    coco(Path("coco.json"), names)
    pictures("pictures", names[:6])
    skip = {"images": "pictures", "missing": MissingPictures.skip}
    stats = convert(**skip)
    assert sorted(written()) == list(range(6))
    assert sum(each.left_out["picture missing"] for each in stats.values()) == 2
    assert sum(each.dropped["picture missing"] for each in stats.values()) == 2
    faults = [fault for each in stats.values() for fault in each.faults]
    assert sorted(faults) == ["6.jpg: no such picture", "7.jpg: no such picture"]
    for each in stats.values():
        json.dumps(each.report())  # kept and dropped instances add up
    for path in Path("pictures").iterdir():
        path.unlink()
    with refused("no picture is left for train", "6 picture missing"):
        convert(**skip)


def test_found_pictures_are_used_and_the_others_drawn():
    coco(Path("set/coco.json"), ["1.jpg", "2.jpg"])
    pictures("set", ["1.jpg"])
    convert(annotations="set/coco.json", missing=MissingPictures.draw, val_fraction=0.5)
    assert written()[0].endswith("/1.jpg")
    assert written()[1].endswith("/2.jpg.drawn.png")
