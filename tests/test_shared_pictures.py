"""Copies of a picture are found, kept on one side of a split, and refused between two files."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_files import LVIS, annotation, image, picture, rows, settings, write_coco
from PIL import Image, ImageOps

from coordexp.config.compose import compose
from coordexp.config.schema import MissingPictures
from coordexp.data.coco.annotations import read_coco
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.coco.conversion_stats import conversion_notes
from coordexp.data.coco.shared_pictures import (
    AUGMENTED,
    MAX_BITS,
    MAX_DIFFERENCE,
    NEARLY,
    SAME_BYTES,
    Fingerprint,
    Link,
    augmented_from,
    fingerprint,
    groups,
    links,
    near_pairs,
)
from coordexp.data.coco.splits import chosen_for_val, split_file
from coordexp.data.prepare import prepare_data

pytestmark = pytest.mark.usefixtures("in_tmp")

SIZE = (320, 256)
CASES = LVIS.parents[1] / "cases" / "coco"


def photograph(path: Path, seed: int, **save) -> Path:
    """A picture of soft shapes, as a lens makes them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(path, **save)
    return path


def changed(path: Path, to: Path, how: str) -> Path:
    """A copy of a picture, as a tool or a web site would make it."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    if how == "smaller":
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    if how == "square":
        picture = picture.resize((256, 256), Image.Resampling.BICUBIC)
    if how == "brighter":
        picture = picture.point(lambda value: min(255, round(1.1 * value)))
    to.parent.mkdir(parents=True, exist_ok=True)
    picture.save(to, quality=40 if how == "recompressed" else 85)
    return to


def split_of(names: list[str], **values) -> tuple[dict[str, set[str]], dict[str, Counter[str]]]:
    """File names by split of a conversion of these pictures, and what was noted."""
    size = SIZE if Path("pictures").exists() else (64, 64)
    entries = [image(i, size) | {"file_name": name} for i, name in enumerate(names)]
    write_coco(Path("coco.json"), entries, [annotation(i, i) for i in range(len(names))])
    if Path("pictures").exists():
        values |= {"images": "pictures"}
    stats = convert_annotations(settings(**values), Path("out"), 1)
    found = {}
    for split in ("train", "val"):
        ids = [row["metadata"]["image_id"] for row in rows(Path(f"out/{split}.jsonl"))]
        found[split] = {names[i] for i in ids}
    return found, {split: s.noted for split, s in stats.items()}


# --- what is a copy -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["recompressed", "smaller", "square", "brighter"])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_copies_are_near_and_others_are_not(how, ending):
    prints = []
    for i in range(20):
        prints.append(fingerprint(photograph(Path(f"{i}.{ending}"), i)))
    for i in range(20):
        prints.append(fingerprint(changed(Path(f"{i}.{ending}"), Path(f"copy/{i}.jpg"), how)))
    found = list(links([str(i) for i in range(40)], prints))
    assert len(found) == 20
    assert set(found) == {Link(i, i + 20, NEARLY) for i in range(20)}


def test_equal_files_are_the_same_file():
    a = fingerprint(photograph(Path("a.jpg"), 1))
    shutil.copy("a.jpg", "b.jpg")
    assert Link(0, 1, SAME_BYTES) in list(
        links(["a.jpg", "b.jpg"], [a, fingerprint(Path("b.jpg"))])
    )


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_a_copy_turned_as_its_exif_orientation_says_is_near(orientation):
    """Tools that write pictures upright drop the orientation."""
    path = photograph(Path("a.jpg"), 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save("phone.jpg", exif=exif, quality=85)
    ImageOps.exif_transpose(Image.open("phone.jpg")).save("upright.jpg", quality=80)
    prints = [fingerprint(Path(name)) for name in ("phone.jpg", "upright.jpg", "a.jpg")]
    assert list(links(["phone.jpg", "upright.jpg", "a.jpg"], prints)) == [Link(0, 1, NEARLY)]


def test_files_that_are_no_pictures_are_no_copies():
    for name in ("a.jpg", "b.jpg"):
        Path(name).write_bytes(b"")
    assert not list(links(["a.jpg", "b.jpg"], [fingerprint(Path(n)) for n in ("a.jpg", "b.jpg")]))


def test_pictures_without_content_are_compared_by_their_bytes():
    Image.new("RGB", SIZE, "black").save("a.png")
    Image.new("RGB", SIZE, "white").save("b.png")
    for name in ("c.png", "d.png"):
        Path(name).write_bytes(b"no picture")
    names = ["a.png", "b.png", "c.png", "d.png", "gone.png"]
    prints = [fingerprint(Path(name)) for name in names]
    assert [p.bits for p in prints] == [None] * 5
    assert [p.sha256 is None for p in prints] == [False, False, True, True, True]
    assert list(links(names, prints)) == []


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("p0_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "p0_jpg"),
        ("train/p0_png.rf.AbCdEfGhIjKlMnOpQrSt.jpg", "p0_png"),
        ("p.0.jpeg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "p.0.jpeg"),
        ("x/cats_original_7.jpg_0b8b3a4e-1f0a-4c26-8c1d-2f6d8e0a9b1c.jpg", "x/cats_original_7.jpg"),
        ("x/7_aug_3.png", "x/7"),
        ("x/7-aug12.png", "x/7"),
        ("7.jpg", None),
        ("7_1.jpg", None),
        ("7_flip.jpg", None),
        ("august_3.jpg", None),
        ("000000397133.jpg", None),
        ("a.rf.jpg", None),
    ],
)
def test_names_of_augmented_copies(name, original):
    assert augmented_from(name) == original


def test_the_original_is_a_sibling_of_its_copies():
    names = ["a/7.jpg", "a/7_aug_1.jpg", "b/7.jpg", "a/7_aug_2.jpg", "a/8.jpg"]
    assert groups(5, links(names, [None] * 5)) == [0, 0, 2, 0, 4]


def test_every_near_pair_is_found_once():
    """Against comparing each picture with each: up to the largest distance, none is lost."""
    rng = np.random.default_rng(0)
    prints = []
    for i in range(120):
        bits = rng.integers(0, 2, 64, dtype=np.uint8)
        thumbnail = rng.integers(0, 256, 256, dtype=np.uint8)
        prints.append(Fingerprint(str(i), np.packbits(bits).tobytes(), thumbnail.tobytes()))
        bits[rng.permutation(64)[: i % 12]] ^= 1
        thumbnail = np.clip(thumbnail + rng.normal(0, 3 * (i % 9), 256), 0, 255).astype(np.uint8)
        prints.append(Fingerprint(f"{i}b", np.packbits(bits).tobytes(), thumbnail.tobytes()))
    expected = set()
    for i, a in enumerate(prints):
        for j, b in enumerate(prints[:i]):
            x, y = (np.frombuffer(p.thumbnail, np.uint8).astype(float) for p in (a, b))
            x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
            n_bits = (int.from_bytes(a.bits) ^ int.from_bytes(b.bits)).bit_count()
            if n_bits <= MAX_BITS and ((x - y) ** 2).mean() ** 0.5 <= MAX_DIFFERENCE:
                expected.add((j, i))
    found = list(near_pairs(prints))
    assert len(found) == len(expected) > 20
    assert set(found) == expected
    assert list(near_pairs([None])) == []


def test_groups_are_closed():
    pairs = [Link(0, 3, NEARLY), Link(3, 4, NEARLY), Link(1, 2, NEARLY), Link(2, 4, NEARLY)]
    assert groups(6, pairs) == [0, 0, 0, 0, 0, 5]


# --- one file that is split ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_without_copies_the_split_is_the_first_of_the_permutation(seed):
    entries = [image(i) for i in range(50)]
    coco = read_coco(write_coco(Path("coco.json"), entries, [annotation(i, i) for i in range(50)]))
    expected = set(np.random.default_rng([seed, 0]).permutation(50)[:10].tolist())
    train, val = split_file(coco, [], 0.2, seed)
    assert {image.id for image in val.images} == expected
    assert {image.id for image in train.images} == set(range(50)) - expected


@pytest.mark.parametrize("seed", range(10))
def test_siblings_stay_on_one_side(seed):
    names = [f"p{i // 4}_jpg.rf.{i:032d}.jpg" for i in range(40)]
    found, noted = split_of(names, seed=seed)
    of = {split: {name.split("_")[0] for name in names} for split, names in found.items()}
    assert len(found["train"]) == 32
    assert len(found["val"]) == 8
    assert not of["train"] & of["val"]
    for split, n in (("train", 32), ("val", 8)):
        assert noted[split] == {f"pictures kept on one side of the split: {AUGMENTED}": n}


def test_near_copies_stay_on_one_side():
    for i in range(10):
        photograph(Path(f"pictures/{i}.jpg"), i)
        changed(Path(f"pictures/{i}.jpg"), Path(f"pictures/copy {i}.png"), "brighter")
        shutil.copy(f"pictures/{i}.jpg", f"pictures/{i}_b.jpg")
    names = [name for i in range(10) for name in (f"{i}.jpg", f"copy {i}.png", f"{i}_b.jpg")]
    found, noted = split_of(names, missing=MissingPictures.refuse)
    for i in range(10):
        copies = {f"{i}.jpg", f"copy {i}.png", f"{i}_b.jpg"}
        assert copies <= found["train"] or copies <= found["val"]
    assert found["val"]
    kinds = noted["train"] + noted["val"]
    assert kinds == {
        f"pictures kept on one side of the split: {SAME_BYTES}": 20,
        f"pictures kept on one side of the split: {NEARLY}": 10,
    }


def test_copies_of_one_picture_cannot_be_split(refused):
    names = [f"p_jpg.rf.{i:032d}.jpg" for i in range(6)]
    with refused("coco.json: its 6 pictures are copies of one", "data.allow_shared_pictures=true"):
        split_of(names)
    found, noted = split_of(names, allow_shared_pictures=True)
    assert len(found["val"]) == 1
    assert noted["val"] == {f"pictures that train holds as well ({AUGMENTED})": 1}


def test_groups_larger_than_the_validation_set():
    # Groups of 6, 3 and 3, of which none fits into 2: the smallest that comes first is taken.
    assert chosen_for_val([0] * 6 + [6] * 3 + [9] * 3, 2, range(12)) == {6, 7, 8}
    # A large group is passed over for those that fit.
    assert chosen_for_val([0] * 6 + [6, 7, 8], 2, range(9)) == {6, 7}


# --- a file for each split -----------------------------------------------------------------------


def two_files(train: list[str], val: list[str]) -> dict[str, str | None]:
    for path, names in (("tr.json", train), ("va.json", val)):
        entries = [image(i, SIZE) | {"file_name": name} for i, name in enumerate(names)]
        write_coco(Path(path), entries, [annotation(i, i) for i in range(len(names))])
    return {"annotations": None, "train_annotations": "tr.json", "val_annotations": "va.json"}


@pytest.mark.parametrize("how", ["bytes", "recompressed", "names"])
def test_copies_in_two_files_are_refused_or_counted(refused, how):
    train, val = [f"tr{i}.jpg" for i in range(6)], [f"va{i}.jpg" for i in range(4)]
    kind = {"bytes": SAME_BYTES, "recompressed": NEARLY, "names": AUGMENTED}[how]
    if how == "names":
        train[2], val[3] = (f"p_jpg.rf.{i:032x}.jpg" for i in range(2))
    for i, name in enumerate([*train, *val]):
        photograph(Path("pictures") / name, i)
    if how == "bytes":
        shutil.copy("pictures/tr2.jpg", "pictures/va3.jpg")
    if how == "recompressed":
        changed(Path("pictures/tr2.jpg"), Path("pictures/va3.jpg"), how)
    given = {"images": "pictures", "missing": MissingPictures.refuse, **two_files(train, val)}
    with refused(
        f"va.json: 1 of its pictures are copies of training pictures (1 {kind}), "
        f"such as {val[3]!r} of {train[2]!r}",
        "data.allow_shared_pictures=true",
    ):
        convert_annotations(settings(**given), Path("out"), 1)
    assert not Path("out").exists()
    stats = convert_annotations(settings(allow_shared_pictures=True, **given), Path("out"), 1)
    assert stats["val"].noted == {f"pictures that train holds as well ({kind})": 1}
    assert stats["val"].report()["noted"] == dict(stats["val"].noted)


def test_pictures_that_are_not_drawn_do_not_count():
    train, val = [f"tr{i}.jpg" for i in range(6)], [f"va{i}.jpg" for i in range(4)]
    for i, name in enumerate([*train, *val]):
        photograph(Path("pictures") / name, i % 6)  # va0 … va3 are tr0 … tr3
    given = {"images": "pictures", **two_files(train, val)}
    drawn = np.random.default_rng([0, 1]).permutation(6)[:2].tolist()
    val_drawn = np.random.default_rng([0, 1]).permutation(4)[:1].tolist()
    assert not set(drawn) & set(val_drawn)
    convert_annotations(settings(train_images=2, val_images=1, **given), Path("out"), 1)


# --- real pictures and cases ---------------------------------------------------------------------


def test_cases(refused):
    if not CASES.exists():
        pytest.skip(f"needs {CASES}")
    given = {
        "annotations": None,
        "train_annotations": str(CASES / "dup_tr.json"),
        "val_annotations": str(CASES / "dup_va.json"),
        "images": str(CASES / "pics_dup"),
        "missing": MissingPictures.refuse,
    }
    with refused("dup_va.json: 10 of its pictures are copies", "(10 the same file)"):
        convert_annotations(settings(**given), Path("out"), 1)
    stats = convert_annotations(settings(annotations=str(CASES / "rf_aug.json")), Path("out"), 1)
    for split in ("train", "val"):
        (n,) = stats[split].noted.values()
        assert n == stats[split].pictures["kept"]


@pytest.mark.parametrize(("name", "n"), [("bccd/images", 1), ("coco_cc", 0)])
def test_different_real_pictures_are_not_copies(name, n):
    root = LVIS.parent / "real" / name
    if not root.exists():
        pytest.skip(f"needs {root}")
    paths = sorted(root.rglob("*.jpg"))[:100]
    assert len(paths) > 30
    found = list(links([str(p) for p in paths], [fingerprint(p) for p in paths]))
    # Two photographs of one blood smear differ in focus alone.
    pairs = {(paths[link.first].stem, paths[link.second].stem) for link in found}
    assert pairs == {("BloodImage_00037", "BloodImage_00038")} if n else not pairs


def test_what_is_noted_is_in_conversion_json_summary_and_manifest(capsys):
    names = [f"p{i // 2}_jpg.rf.{i:032d}.jpg" for i in range(10)]
    entries = [image(i) | {"file_name": name} for i, name in enumerate(names)]
    write_coco(Path("coco.json"), entries, [annotation(i, i) for i in range(10)])
    given = ["data=coco", "data.annotations=coco.json", "data.missing=draw"]
    directory = prepare_data(compose(given)).parent
    notes = [
        f"{split}: {n} pictures kept on one side of the split: {AUGMENTED}"
        for split, n in (("train", 8), ("val", 2))
    ]
    assert conversion_notes(directory) == notes
    told = capsys.readouterr().err
    assert all(note.partition(": ")[2] in told for note in notes)
    assert conversion_notes(Path("elsewhere")) == []


def test_boxes_that_cvat_turned_are_counted():
    turned = [{"rotation": 45.0}, {"rotation": 0.0}, {"rotation": 360}, {"rotation": "x"}, {}, None]
    entries = [annotation(i, i % 4, attributes=value) for i, value in enumerate(turned)]
    entries[4]["bbox"] = entries[5]["bbox"] = [1, 1, 9, 9]
    write_coco(Path("coco.json"), [image(i) for i in range(4)], entries)
    stats = convert_annotations(settings(), Path("out"), 1)
    noted = stats["train"].noted + stats["val"].noted
    assert [(what.split(",")[0], n) for what, n in noted.items()] == [
        ("boxes with attributes.rotation", 1)
    ]


@pytest.mark.parametrize(
    ("orientation", "size", "word"),
    [
        (1, (64, 32), None),
        (2, (64, 32), "mirrors or turns without another size"),
        (3, (64, 32), "mirrors or turns without another size"),
        (6, (64, 32), "not turned"),
        (6, (32, 64), "turned as Exif says"),
        (9, (64, 32), None),
    ],
)
def test_orientations_are_counted_also_when_a_conversion_goes_on(orientation, size, word):
    write_coco(Path("coco.json"), [image(i, size) for i in range(4)],
               [annotation(i, i) for i in range(4)])  # fmt: skip
    for i in range(4):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture(Path(f"pictures/{i}.jpg"), (64, 32), seed=i, exif=exif)
    for _ in range(2):
        stats = convert_annotations(settings(images="pictures"), Path("out"), 1)
        noted = stats["train"].noted + stats["val"].noted
        assert sum(noted.values()) == (4 if word else 0)
        assert all(word in what for what in noted)
