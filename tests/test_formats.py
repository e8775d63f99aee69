"""Annotations of other tools: each is recognised, converted and trained on with the commands that
the messages name.
"""

from __future__ import annotations

import codecs
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from coco_files import picture, rows
from format_writers import (
    NAMES,
    WRITERS,
    Annotated,
    cvat_coco,
    label_studio_coco,
    roboflow_coco,
    scene,
    voc_xml,
    write,
    yolo,
)

from coordexp.cli.main import main
from coordexp.data.formats.convert import convert
from coordexp.data.formats.dataset import Coordinates
from coordexp.errors import UserError

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.usefixtures("in_tmp")

SCENE = scene()
Boxes = dict[str, list[tuple[str, tuple[float, ...]]]]  # by the last part of the picture's name


def told_by(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and the whole output of a command."""
    capsys.readouterr()
    try:
        main(list(arguments))
    except SystemExit as ended:
        told = capsys.readouterr()
        return 1, f"{told.out}{told.err}{ended.code}"
    told = capsys.readouterr()
    return 0, told.out + told.err


def boxes_of(*files: Path) -> Boxes:
    found: Boxes = {}
    for file in files:
        content = json.loads(file.read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        pictures = {entry["id"]: Path(entry["file_name"]).name for entry in content["images"]}
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            box = names[entry["category_id"]], (x, y, x + w, y + h)
            found.setdefault(pictures[entry["image_id"]], []).append(box)
    return found


def assert_is_scene(found: Boxes, pictures: list[Annotated] = SCENE, tolerance: float = 1e-3):
    assert set(found) == {entry.name for entry in pictures}
    for entry in pictures:
        assert [name for name, _ in found[entry.name]] == [name for name, _ in entry.boxes]
        for (_, box), (_, expected) in zip(found[entry.name], entry.boxes, strict=True):
            assert box == pytest.approx(expected, abs=tolerance)


def overrides_in(command: str) -> list[str]:
    """The overrides in the `all` of a snakemake command, as the workflow takes them."""
    words = shlex.split(command)
    (every,) = [word for word in words if word.startswith("all=")]
    value = yaml.safe_load(every.removeprefix("all="))
    return value if isinstance(value, list) else value.split()


def prepare(capsys, *overrides: str) -> tuple[int, str]:
    return told_by(capsys, "prepare", "--only", "data", *overrides)


def training_boxes() -> Boxes:
    """The objects of the records, in pixels of pictures that were not resized."""
    found: Boxes = {}
    for path in Path("results/data").glob("*/*.jsonl"):
        for row in rows(path):
            boxes = [(o["desc"], tuple(o["bbox_2d"])) for o in row["objects"]]
            found[Path(row["images"][0]).name] = boxes
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_from_a_folder_to_records_by_the_commands_of_the_messages(writer, capsys):
    """The annotations are handed over, the message's command is followed, then the one it prints.

    A command that only the convert step can complete (what Qwen's numbers mean) adds its option.
    """
    source = WRITERS[writer](Path("my set"), SCENE)
    code, told = prepare(capsys, "data=coco", f'data.annotations="{source}"')
    assert code == 1
    assert len(told.strip().splitlines()) == 1
    command = re.search("`coordexp (convert .*)`", told)[1]
    added = ["--coordinates", "pixels"] if writer == "qwen" else []
    code, told = told_by(capsys, *shlex.split(command), *added)
    assert code == 0, told
    next_command = told.rpartition("next: ")[2].strip()
    overrides = overrides_in(next_command)
    files = [Path(word.partition("=")[2].strip('"')) for word in overrides if "annotations" in word]
    assert_is_scene(boxes_of(*files))
    code, told = prepare(capsys, "experiment=lvis_rehearsal", "data.missing=refuse", *overrides)
    assert code == 0, told
    records = training_boxes()
    assert set(records) == {entry.name for entry in SCENE}
    for entry in SCENE:
        expected = sorted(entry.boxes, key=lambda box: (box[1][1], box[1][0]))
        assert [name for name, _ in records[entry.name]] == [name for name, _ in expected]
        for (_, box), (_, pixels) in zip(records[entry.name], expected, strict=True):
            assert box == pytest.approx(pixels, abs=1e-3)


@pytest.mark.slow
def test_the_first_training_step_follows(fork_server):
    source = WRITERS["voc"](Path("VOC2007"), SCENE)
    told = convert(source, Path("coco.json"))
    overrides = ["experiment=lvis_rehearsal", *overrides_in(told[-1].removeprefix("next: "))]
    overrides += ["train.max_steps=1", "train.images_per_step=4", "train.micro_batch=2"]
    overrides += ["train.eval_steps=1", "train.checkpoint_steps=1", "train.audit_images=4"]
    for entry, arguments in (("cli", ["prepare"]), ("train", ["variant=pure_ce"])):
        done = fork_server.run(Path.cwd(), *arguments, *overrides, entry=entry)
        assert done.returncode == 0, done.stderr
    assert len(list(Path().glob("results/runs/pure_ce/*/run.json"))) == 1


@pytest.mark.parametrize("writer", [roboflow_coco, cvat_coco, label_studio_coco])
def test_a_directory_of_coco_files_is_answered_with_its_settings(writer, capsys):
    source = writer(Path("my set"), SCENE)
    code, told = prepare(capsys, "data=coco", f'data.annotations="{source}"')
    assert code == 1
    overrides = shlex.split(told.rpartition(": set ")[2])
    assert len(overrides) == (2 if writer is roboflow_coco else 1)
    code, told = prepare(capsys, "data=coco", *overrides)
    assert code == 0, told
    assert set(training_boxes()) == {entry.name for entry in SCENE}
    assert "beside" in told


@pytest.mark.parametrize("writer", ["voc", "voc_beside", "yolo", "yolo_roboflow", "createml"])
def test_the_splits_of_a_source_are_kept(writer):
    source = WRITERS[writer](Path("set"), SCENE)
    convert(source, Path("coco.json"))
    assert not Path("coco.json").exists()
    assert_is_scene(boxes_of(Path("coco_train.json")), SCENE[3:])
    assert_is_scene(boxes_of(Path("coco_val.json")), SCENE[:3])


# --- what each format has of its own ------------------------------------------------------------


def one_coco(source: Path, **options) -> dict:
    convert(source, Path("coco.json"), **options)
    return json.loads(Path("coco.json").read_text())


def bboxes(content: dict) -> list[list[float]]:
    return [entry["bbox"] for entry in content["annotations"]]


BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


def voc_file(objects: str) -> Path:
    picture(Path("set/1.jpg"))
    text = f"<annotation><filename>1.jpg</filename>{objects}</annotation>"
    return write(Path("set/1.xml"), text)


def test_voc_counts_pixels_from_one_unless_a_coordinate_is_zero():
    whole = f"<object><name>cup</name>{BOX.format(1, 1, 64, 64)}</object>"
    source = voc_file(whole)
    assert bboxes(one_coco(source)) == [[0, 0, 64, 64]]
    Path("coco.json").unlink()
    assert bboxes(one_coco(source, first_pixel=0)) == [[1, 1, 63, 63]]
    Path("coco.json").unlink()
    voc_file(whole + f"<object><name>cup</name>{BOX.format(0, 5, 9, 9)}</object>")
    assert bboxes(one_coco(source)) == [[1, 1, 63, 63], [0, 5, 9, 4]]


def test_voc_keeps_its_flags_and_counts_what_it_cannot_take():
    flagged = f"<object><name>cup</name><difficult>1</difficult>{BOX.format(3, 3, 9, 9)}</object>"
    part = f"<part><name>head</name>{BOX.format(3, 3, 5, 5)}</part>"
    others = (
        f"<object><name>cup</name>{part}{BOX.format(5, 5, 9, 9)}</object>"
        f"<object><name>cup</name>{BOX.format(9, 5, 5, 9)}</object>"
        f"<object><name>cup</name>{BOX.format(9, 'x', 5, 9)}</object>"
        "<object><name>cup</name><robndbox/></object>"
        f"<object><name> </name>{BOX.format(3, 3, 9, 9)}</object>"
    )
    told = "\n".join(convert(voc_file(flagged + others), Path("coco.json")))
    content = json.loads(Path("coco.json").read_text())
    assert [entry.get("attributes") for entry in content["annotations"]] == [
        {"difficult": True},
        None,
    ]
    for reason in ("part of an object", "inverted box", "broken coordinates", "rotated box"):
        assert f"1 {reason}" in told
    assert "1 without a name" in told


def test_voc_pictures_that_are_listed_without_a_file_are_named():
    source = WRITERS["voc"](Path("set"), SCENE)
    Path("set/Annotations/p00.xml").rename("set/Annotations/my cup.xml")
    Path("set/JPEGImages/p00.jpg").rename("set/JPEGImages/my cup.jpg")
    Path("set/Annotations/p05.xml").unlink()
    write(Path("set/ImageSets/Main/val.txt"), "my cup\np01\np02 1\n")
    told = "\n".join(convert(source, Path("coco.json")))
    assert "dropped: 1 picture of ImageSets/Main without an XML file\n" in told
    assert "  p05: named in train.txt, and has no XML file" in told
    assert set(boxes_of(Path("coco_val.json"))) == {"my cup.jpg", "p01.jpg", "p02.jpg"}
    one = convert(Path("set/Annotations/p01.xml"), Path("one.json"), images=Path("set"))
    assert "without an XML file" not in "\n".join(one)


def test_yolo_outlines_and_rows_that_are_none():
    yolo(Path("set"), SCENE[:4])
    row = "0 0.25 0.25 0.75 0.25 0.75 0.5"
    write(
        Path("set/labels/train/p03.txt"), f"{row}\n7 .5 .5 .1 .1\n0 .5 .5 .1 .1 .9\n0 .5 x .1 .1\n"
    )
    told = "\n".join(convert(Path("set/data.yaml"), Path("coco.json")))
    content = json.loads(Path("coco_train.json").read_text())
    width, height = SCENE[3].size
    (only,) = content["annotations"]
    ring = [0.25 * width, 0.25 * height, 0.75 * width, 0.25 * height, 0.75 * width, 0.5 * height]
    assert only["segmentation"] == [pytest.approx(ring)]
    assert only["area"] == pytest.approx(width / 2 * height / 4 / 2)
    for reason in ("unknown class", "six numbers", "broken coordinates"):
        assert f"1 {reason}" in told


@pytest.mark.parametrize("writer", ["yolo", "yolo_roboflow", "darknet"])
def test_yolo_labels_without_their_pictures_meet_them_elsewhere(writer):
    """CVAT and others export labels alone; --images names the pictures."""
    source = WRITERS[writer](Path("set"), SCENE)
    Path("pictures").mkdir()
    for found in list(source.rglob("*.jpg")):
        found.rename(Path("pictures") / found.name)
    convert(source, Path("coco.json"), images=Path("pictures"))
    files = sorted(Path().glob("coco*.json"))
    assert len(files) == (1 if writer == "darknet" else 2)
    assert_is_scene(boxes_of(*files))


def test_a_background_does_not_take_the_labels_of_a_namesake():
    source = yolo(Path("set"), SCENE)
    picture(Path("set/images/val/p05.jpg"))
    told = "\n".join(convert(source, Path("coco.json"), images=source.absolute()))
    assert_is_scene(boxes_of(Path("coco_val.json")), SCENE[:3])
    assert "1 picture without a label file" in told


def test_yolo_takes_lists_of_pictures_and_refuses_lost_directories(refused):
    """CVAT's Ultralytics export lists pictures by the paths they had elsewhere."""
    source = yolo(Path("set"), SCENE)
    good = Path("set/data.yaml").read_text()
    listed = good.replace("train: images/train", "train: train.txt")
    write(Path("set/data.yaml"), listed)
    lines = [f"data/images/train/{entry.name}" for entry in SCENE[3:]]
    write(Path("set/train.txt"), "\n".join([*lines, "data/images/train/lost.jpg"]))
    told = "\n".join(convert(source, Path("coco.json")))
    assert "1 picture of train.txt that is missing" in told
    assert_is_scene(boxes_of(Path("coco_train.json")), SCENE[3:])
    write(Path("set/data.yaml"), good.replace("val: images/val", "val: images/lost"))
    with refused("data.yaml", "val: there is no 'images/lost'", "--images DIRECTORY"):
        convert(source, Path("other.json"))
    write(Path("set/data.yaml"), good.replace("names:", "kpt_shape: [2, x]\nnames:"))
    with refused("data.yaml", "kpt_shape"):
        convert(source, Path("other.json"))


@pytest.mark.parametrize(
    "root",
    ["/content/datasets/set/", "C:\\\\me\\\\set\\\\", "D:/set/"],
    ids=["colab", "windows", "drive"],
)
def test_yolo_directories_of_another_machine_are_found(root):
    source = yolo(Path("set"), SCENE)
    text = Path("set/data.yaml").read_text()
    for split in ("train", "val"):
        text = text.replace(f"{split}: images/{split}", f'{split}: "{root}images/{split}"')
    write(Path("set/data.yaml"), text)
    convert(source, Path("coco.json"))
    assert_is_scene(boxes_of(Path("coco_train.json"), Path("coco_val.json")))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_yolo_labels_of_lost_pictures_are_counted_and_named(elsewhere):
    source = yolo(Path("set"), SCENE)
    Path("set/images/train/p05.jpg").unlink()
    write(Path("set/labels/train/background.txt"), "")
    write(Path("set/README.txt"), "a set of cups")
    images = Path("pictures") if elsewhere else None
    if elsewhere:
        Path("set/images").rename("pictures")
    told = "\n".join(convert(source, Path("coco.json"), images=images))
    assert "dropped: 1 label file without a picture\n" in told
    assert "  labels/train/p05.txt: no picture of this name" in told
    assert_is_scene(boxes_of(Path("coco_train.json")), [*SCENE[3:5], *SCENE[6:]])


def test_yolo_labels_of_a_picture_that_is_not_listed_are_not_lost():
    source = yolo(Path("set"), SCENE)
    lines = [f"images/train/{entry.name}" for entry in SCENE[4:]]
    write(Path("set/train.txt"), "\n".join(lines))
    text = Path("set/data.yaml").read_text()
    write(Path("set/data.yaml"), text.replace("train: images/train", "train: train.txt"))
    assert "dropped" not in "\n".join(convert(source, Path("coco.json")))


def test_yolo_files_that_windows_marked_as_utf_8():
    source = yolo(Path("set"), SCENE)
    for file in [*source.rglob("*.txt"), *source.rglob("*.yaml")]:
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    convert(source, Path("coco.json"))
    assert_is_scene(boxes_of(Path("coco_train.json"), Path("coco_val.json")))


def test_yolo_boxes_in_pixels_are_counted_and_not_read_as_fractions():
    yolo(Path("set"), SCENE[:4])
    write(Path("set/labels/train/p03.txt"), "0 .5 .5 .2 .2\n0 100 50 20 20\n")
    told = "\n".join(convert(Path("set/data.yaml"), Path("coco.json")))
    assert "1 coordinates that are no fractions of the picture" in told
    assert len(json.loads(Path("coco_train.json").read_text())["annotations"]) == 1


def test_an_empty_line_among_class_names_keeps_the_number_of_the_next():
    picture(Path("set/1.jpg"))
    write(Path("set/1.txt"), "2 .5 .5 .2 .2\n1 .5 .5 .1 .1\n")
    write(Path("set/classes.txt"), "cat\n\ndog\n\n")
    told = "\n".join(convert(Path("set"), Path("coco.json")))
    ((name, _),) = boxes_of(Path("coco.json"))["1.jpg"]
    assert name == "dog"
    assert "1 unknown class" in told


def test_cvat_keeps_rotation_and_outlines_and_counts_the_rest():
    picture(Path("set/1.jpg"))
    shapes = (
        '<box label="cup" xtl="8" ytl="8" xbr="24" ybr="16" rotation="45.0" occluded="1">'
        '<attribute name="colour">red</attribute></box>'
        '<polygon label="猫" points="1.0,1.0;9.0,1.0;9.0,9.0"/>'
        '<polyline label="cup" points="1,1;2,2"/><mask label="cup" rle="1"/><tag label="cup"/>'
        '<polygon label="猫" points="1.0,1.0;9.0"/>'
    )
    image = f'<image id="0" name="1.jpg" width="64" height="64">{shapes}</image>'
    source = write(Path("set/annotations.xml"), f"<annotations>{image}</annotations>")
    told = "\n".join(convert(source, Path("coco.json")))
    box, outline = json.loads(Path("coco.json").read_text())["annotations"]
    assert box["bbox"] == [8, 8, 16, 8]
    assert box["attributes"] == {"colour": "red", "occluded": True, "rotation": 45.0}
    assert outline["segmentation"] == [[1, 1, 9, 1, 9, 9]]
    for reason in ("1 polyline", "1 mask", "1 broken coordinates"):
        assert reason in told
    assert "1 tag" not in told


def test_cvat_video_is_refused(refused):
    source = write(Path("annotations.xml"), "<annotations><track id='0'/></annotations>")
    with refused("annotations.xml", "CVAT for images"):
        convert(source, Path("coco.json"))


def test_labelme_groups_are_one_object():
    picture(Path("set/1.jpg"))
    ring = [[1, 1], [9, 1], [9, 9]]
    other = [[21, 21], [29, 21], [29, 29]]
    shapes = [
        {"label": "cup", "shape_type": "polygon", "points": ring, "group_id": 1},
        {"label": "cup", "shape_type": "polygon", "points": other, "group_id": 1},
        {"label": "cup", "shape_type": "circle", "points": ring[:2]},
        {"label": "cup", "points": ring, "group_id": None},
    ]
    content = {"shapes": shapes, "imagePath": "..\\images\\1.jpg", "imageWidth": None}
    source = write(Path("set/1.json"), json.dumps(content))
    told = convert(source, Path("coco.json"))
    single, group = json.loads(Path("coco.json").read_text())["annotations"]
    assert single["bbox"] == [1, 1, 8, 8]
    assert group["bbox"] == [1, 1, 28, 28]
    assert len(group["segmentation"]) == 2
    assert any("1 circle" in line for line in told)


def test_via_asks_which_attribute_is_the_name(refused):
    picture(Path("1.jpg"))
    shape = {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}
    attributes = {"species": {"cat": True, "dog": False}, "age": "4"}
    regions = {"0": {"shape_attributes": shape, "region_attributes": attributes}}
    entry = {"1.jpg99": {"filename": "1.jpg", "size": 99, "regions": regions}}
    source = write(Path("via.json"), json.dumps(entry))
    with refused("via.json", "--label", "age, species"):
        convert(source, Path("coco.json"))
    content = one_coco(source, label="species")
    assert content["categories"][0]["name"] == "cat"
    assert content["annotations"][0]["segmentation"] == [[1, 1, 9, 1, 9, 9]]


def test_label_studio_turns_rectangles_around_their_corner():
    picture(Path("1.jpg"), (128, 64))
    value = {
        "x": 50,
        "y": 25,
        "width": 25,
        "height": 25,
        "rotation": 90,
        "rectanglelabels": ["cup"],
    }
    brush = {"type": "brushlabels", "value": {"brushlabels": ["cup"], "format": "rle"}}
    first = {"result": [{"type": "rectanglelabels", "value": value}, brush]}
    cancelled = {"was_cancelled": True, "result": [{"type": "rectanglelabels", "value": value}]}
    data = {"image": "/data/upload/3/0a1b2c3d-1.jpg"}
    task = {"data": data, "annotations": [cancelled, first, first]}
    source = write(Path("export.json"), json.dumps([task]))
    told = "\n".join(convert(source, Path("coco.json")))
    (only,) = json.loads(Path("coco.json").read_text())["annotations"]
    # 32 x 16 px at (64, 16), turned clockwise by a right angle: 16 to the left, 32 down.
    assert only["bbox"] == pytest.approx([48, 16, 16, 32])
    assert "1 brushlabels" in told
    assert "1 further annotation of a task" in told
    assert set(boxes_of(Path("coco.json"))) == {"1.jpg"}, "found without the prefix of an upload"


@pytest.mark.parametrize(
    ("answer", "coordinates"),
    [
        ("<ref>cup</ref><box>(125,250),(500,750)</box>", Coordinates.bins1000),
        (
            "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(125,250),(500,750)<|box_end|>",
            Coordinates.bins1000,
        ),
        ('[{"bbox_2d": [125, 250, 500, 750], "label": "cup"}]', Coordinates.bins1000),
        ('[{"bbox": [0.125, 0.25, 0.5, 0.75], "label": "cup"}]', Coordinates.fractions),
        ('Here: [{"bbox_2d": [16, 16, 64, 48], "label": "cup"}].', Coordinates.pixels),
    ],
)
def test_numbers_of_conversations_are_what_the_user_says(refused, answer, coordinates):
    picture(Path("1.jpg"), (128, 64))
    turns = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": answer}]
    row = json.dumps({"messages": turns, "images": ["1.jpg"]})
    source = write(Path("train.jsonl"), f"{row}\n")
    with refused("train.jsonl:1", "--coordinates"):
        convert(source, Path("coco.json"))
    assert not Path("coco.json").exists()
    content = one_coco(source, coordinates=coordinates)
    assert bboxes(content) == [pytest.approx([16, 16, 48, 32])]


def test_swift_pairs_boxes_with_the_reference_before_them():
    picture(Path("1.jpg"), (100, 100))
    answer = "<ref-object><bbox><bbox> and <ref-object><bbox>"
    turns = [{"role": "assistant", "content": answer}]
    boxes = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 1, 1]]
    objects = {"ref": ["cup", "猫"], "bbox": boxes, "bbox_type": "norm1"}
    lost = {"ref": ["cup", "猫"], "bbox": boxes, "bbox_type": "norm1"}
    picture(Path("2.jpg"), (100, 100))
    row = {"messages": turns, "images": ["1.jpg"], "objects": objects}
    other = {"messages": [], "images": ["2.jpg"], "objects": lost}
    lines = json.dumps(row) + "\n" + json.dumps(other) + "\n"
    told = convert(write(Path("train.jsonl"), lines), Path("coco.json"))
    found = boxes_of(Path("coco.json"))["1.jpg"]
    assert [name for name, _ in found] == ["cup", "cup", "猫"]
    assert found[2][1] == pytest.approx((0, 50, 100, 100))
    assert any("3 box that belongs to no name" in line for line in told)


# --- refusals -----------------------------------------------------------------------------------

LLAVA = [{"image": "1.jpg", "conversations": [{"from": "gpt", "value": "a cat"}]}]
RECORD = {"images": ["1.jpg"], "width": 64, "height": 64, "objects": []}
REFUSED = {
    "llava.json": (json.dumps(LLAVA), "no boxes"),
    "llava.jsonl": (json.dumps(LLAVA[0]) + "\n", "no boxes"),
    "val.jsonl": (json.dumps(RECORD) + "\n", "data=records data.records=val.jsonl"),
    "detections.json": (
        '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]',
        "detections",
    ),
    "0001.txt": ("0 0.5 0.5 0.25 0.25\n", "write classes.txt beside the labels"),
    "export.zip": ("PK", "export.zip: an archive, not COCO annotations: unpack it"),
    "broken.json": ("{", "broken.json"),
    "list.json": ("[1, 2]", "list.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_one_line_on_both_ways(name, capsys):
    text, words = REFUSED[name]
    write(Path(name), text)
    for command in (
        ("prepare", "--only", "data", "data=coco", f"data.annotations={name}"),
        ("convert", name, "--out", "coco.json"),
    ):
        code, told = told_by(capsys, *command)
        assert code == 1
        assert len(told.strip().splitlines()) == 1, told
        assert words in told
    assert not Path("results").exists()
    assert not Path("coco.json").exists()


def test_yolo_labels_whose_names_are_missing_or_broken_are_one_line(capsys):
    source = yolo(Path("set"), SCENE)
    write(Path("set/data.yaml"), "names: [cup, cat\n")
    code, told = told_by(capsys, "convert", str(source), "--out", "coco.json")
    assert (code, told.strip()) == (1, "coordexp: set/data.yaml: not valid YAML: mend it")
    Path("set/data.yaml").unlink()
    _, told = told_by(capsys, "prepare", "--only", "data", "data=coco", "data.annotations=set")
    assert "set: YOLO labels without class names" in told
    assert len(told.strip().splitlines()) == 1


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<annotation><filename>&b;</filename></annotation>"""
OUTSIDE = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><filename>&a;</filename></annotation>"""


@pytest.mark.parametrize("text", [BOMB, OUTSIDE], ids=["bomb", "outside"])
def test_xml_with_a_document_type_is_refused_before_it_is_expanded(refused, text):
    with refused("1.xml", "document type"):
        convert(write(Path("1.xml"), text), Path("coco.json"))


@pytest.mark.parametrize(
    "text", ["<annotation>", "<annotation><filename></annotation>", "<annotation>\x00"]
)
def test_broken_xml_is_one_line(refused, text):
    with refused("1.xml"):
        convert(write(Path("1.xml"), text), Path("coco.json"))


def test_nothing_is_overwritten_and_a_refusal_writes_nothing(refused):
    source = WRITERS["labelme"](Path("set"), SCENE)
    write(Path("coco.json"), "mine")
    with refused("coco.json: exists already"):
        convert(source, Path("coco.json"))
    assert Path("coco.json").read_text() == "mine"
    write(Path("set/p03.json"), "{")
    with refused("p03.json", "not valid JSON"):
        convert(source, Path("other.json"))
    assert not Path("other.json").exists()
    with refused("nowhere: no such directory"):
        convert(source, Path("other.json"), images=Path("nowhere"))
    with refused("missing: no such file or directory"):
        convert(Path("missing"), Path("other.json"))


def test_missing_pictures_are_told_and_ambiguous_ones_not_taken():
    for split in ("a", "b"):
        picture(Path(f"set/{split}/1.jpg"))
    picture(Path("set/2.jpg"))
    for name in ("1", "2"):
        entry = Annotated(f"{name}.jpg", (64, 64), SCENE[0].boxes)
        write(Path(f"set/xml/{name}.xml"), voc_xml(entry))
    told = "\n".join(convert(Path("set"), Path("coco.json")))
    assert "not found below set: 1 pictures, such as '1.jpg'" in told
    assert "--images DIRECTORY" in told


@pytest.mark.parametrize(
    ("writer", "told"),
    [("voc_beside", "not found below set: 12 pictures"), ("createml", "12 picture missing")],
)
def test_pictures_elsewhere_are_asked_for_before_writing(writer, told, refused):
    source = WRITERS[writer](Path("set"), SCENE)
    Path("pictures").mkdir()
    for found in list(source.rglob("*.jpg")):
        found.rename(Path("pictures") / found.name)
    with refused(told, "--images DIRECTORY"):
        convert(source, Path("coco.json"))
    assert not list(Path().glob("*.json"))
    told = convert(source, Path("coco.json"), images=Path("pictures"))
    assert "not found" not in "\n".join(told)
    assert_is_scene(boxes_of(*Path().glob("coco*.json")))


@pytest.mark.parametrize("writer", WRITERS)
def test_damaged_files_end_in_one_line_or_are_counted(writer):
    """Cut and overwritten bytes: a reader may refuse or drop, and never fails otherwise."""
    source = WRITERS[writer](Path("set"), SCENE[:4])
    files = [source] if source.is_file() else []
    for ending in ("*.xml", "*.json", "*.yaml", "*.txt", "*.csv"):
        files += sorted(Path("set").rglob(ending))
    file = next(path for path in files if path.stat().st_size > 60)
    text = file.read_bytes()
    for i in range(0, len(text), max(1, len(text) // 60)):
        for damaged in (text[:i], text[:i] + b'"[{0<9e999' + text[i + 3 :]):
            file.write_bytes(damaged)
            refusal = ""
            try:
                convert(source, Path("coco.json"), coordinates=Coordinates.pixels)
            except UserError as error:
                refusal = str(error)
            assert len(refusal.splitlines()) <= 1
            for path in Path().glob("coco*.json"):
                boxes_of(path)  # what is written is COCO
                path.unlink()


@pytest.mark.parametrize("writer", [roboflow_coco, cvat_coco])
def test_coco_is_not_converted_again(refused, writer):
    source = writer(Path("set"), SCENE)
    with refused("set: a directory of COCO annotations", "annotations=set"):
        convert(source, Path("coco.json"))
    (file, *_) = sorted(source.rglob("*.json"))
    with refused(f"{file}: COCO annotations already", f"use data=coco data.annotations={file}"):
        convert(file, Path("coco.json"))


def test_advice_on_a_path_with_blanks_can_be_pasted(refused, capsys):
    source = roboflow_coco(Path("my set"), SCENE) / "train"
    file = (source / "_annotations.coco.json").rename(source / "export (1).json")
    with refused(f"{file}: COCO annotations already: use ") as told:
        convert(file, Path("coco.json"))
    settings = shlex.split(str(told.value).rpartition(": use ")[2])
    code, told = prepare(capsys, *settings)
    assert code == 0, told
    (records,) = Path("results/data").glob("*/train.jsonl")
    shutil.copy(records, source / "a b.jsonl")
    code, told = prepare(capsys, "data=coco", f'data.annotations="{source / "a b.jsonl"}"')
    words = shlex.split(told.rpartition("train on it with ")[2])
    assert words == ["data=records", f'data.records="{source / "a b.jsonl"}"']


@pytest.mark.parametrize(
    ("writer", "path"),
    [("yolo", ""), ("yolo", "data.yaml"), ("voc", ""), ("ms_swift", ""), ("labelme", "p01.json")],
)
def test_validate_names_the_command_for_annotations(writer, path, capsys):
    WRITERS[writer](Path("my set"), SCENE)
    code, told = told_by(capsys, "validate", str(Path("my set") / path))
    assert (code, len(told.strip().splitlines())) == (1, 1)
    assert "takes a record file (.jsonl)" in told
    command = re.search("`coordexp (convert .*)`", told)[1]
    code, told = told_by(capsys, *shlex.split(command))
    assert code == 0, told


def test_validate_names_the_command_for_coco_and_the_record_files(capsys):
    source = roboflow_coco(Path("my set"), SCENE)
    for path in (next(source.rglob("*.json")), source):
        code, told = told_by(capsys, "validate", str(path))
        assert code == 1
        command = re.search("`coordexp (prepare .*)`", told)[1]
        code, told = told_by(capsys, *shlex.split(command))
        assert code == 0, told
    directory = next(Path("results/data").glob("*/data.json")).parent
    both = f"name {directory / 'train.jsonl'} or {directory / 'val.jsonl'}"
    code, told = told_by(capsys, "validate", str(directory))
    assert (code, len(told.strip().splitlines())) == (1, 1)
    assert told.strip().endswith(both)
    code, told = told_by(capsys, "validate", str(directory / "val.jsonl"))
    assert code == 0, told
    Path("empty").mkdir()
    code, told = told_by(capsys, "validate", "empty")
    assert code == 1
    assert "empty: a directory without records or annotations" in told


def test_all_names_are_written():
    source = WRITERS["yolo"](Path("set"), SCENE)
    convert(source, Path("coco.json"))
    content = json.loads(Path("coco_train.json").read_text())
    assert sorted(entry["name"] for entry in content["categories"]) == sorted(NAMES)


@pytest.mark.usefixtures("in_tmp")
def test_pictures_that_are_still_to_come_need_their_place():
    entry = Annotated("1.jpg", (64, 64), SCENE[0].boxes)
    write(Path("set/1.xml"), voc_xml(entry))
    Path("later").mkdir()
    told = convert(Path("set"), Path("coco.json"), images=Path("later"))
    assert "not found below later: 1 pictures" in "\n".join(told)
    assert Path("coco.json").exists()
