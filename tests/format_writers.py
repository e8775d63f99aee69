"""One small scene in the formats of other tools, in the layout of each tool's export.

A writer makes a directory and returns what a user would hand over. Boxes are whole pixels, x1, y1,
x2, y2 from edge to edge.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from coco_files import picture

NAMES = ("cup", "crème & brûlée", "猫")


@dataclass(frozen=True)
class Annotated:
    name: str
    size: tuple[int, int]
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]


def scene(n_pictures: int = 12) -> list[Annotated]:
    rng = np.random.default_rng(n_pictures)
    pictures = []
    for i in range(n_pictures):
        width, height = (96, 64) if i % 2 else (64, 96)
        boxes = []
        for k in range(2):
            x1, y1 = (int(v) for v in rng.integers(1, 30, 2))
            w, h = (int(v) for v in rng.integers(8, 30, 2))
            boxes.append((NAMES[(i + k) % 3], (x1, y1, x1 + w, y1 + h)))
        pictures.append(Annotated(f"p{i:02d}.jpg", (width, height), tuple(boxes)))
    return pictures


def draw(pictures: list[Annotated], directory: Path) -> None:
    for i, entry in enumerate(pictures):
        picture(directory / entry.name, entry.size, seed=i)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc_xml(entry: Annotated) -> str:
    objects = ""
    for name, (x1, y1, x2, y2) in entry.boxes:
        objects += (
            f"<object><name>{escape(name)}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
        )
    width, height = entry.size
    return (
        f"<annotation><folder>VOC</folder><filename>{entry.name}</filename><size><width>{width}"
        f"</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def voc(root: Path, pictures: list[Annotated]) -> Path:
    """VOCdevkit's layout, with the lists of train and val."""
    draw(pictures, root / "JPEGImages")
    for entry in pictures:
        write(root / "Annotations" / f"{Path(entry.name).stem}.xml", voc_xml(entry))
    stems = [Path(entry.name).stem for entry in pictures]
    for split, listed in (("train", stems[3:]), ("val", stems[:3])):
        write(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(listed) + "\n")
    return root


def voc_beside(root: Path, pictures: list[Annotated]) -> Path:
    """Roboflow's and labelImg's layout: each XML file beside its picture."""
    for split, part in in_splits(pictures):
        draw(part, root / split)
        for entry in part:
            write(root / split / f"{Path(entry.name).stem}.xml", voc_xml(entry))
    return root


def in_splits(pictures: list[Annotated]) -> list[tuple[str, list[Annotated]]]:
    return [("train", pictures[3:]), ("valid", pictures[:3])]


def yolo_rows(entry: Annotated) -> str:
    (width, height), rows = entry.size, []
    for name, (x1, y1, x2, y2) in entry.boxes:
        values = (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        )
        rows.append(" ".join([str(NAMES.index(name)), *(f"{v:.8f}" for v in values)]))
    return "\n".join(rows) + "\n"


def yolo(root: Path, pictures: list[Annotated]) -> Path:
    """Ultralytics' layout: images/train beside labels/train."""
    for split, part in (("train", pictures[3:]), ("val", pictures[:3])):
        draw(part, root / "images" / split)
        for entry in part:
            name = f"{Path(entry.name).stem}.txt"
            write(root / "labels" / split / name, yolo_rows(entry))
    names = json.dumps(dict(enumerate(NAMES)), ensure_ascii=False).replace('"0"', "0")
    names = names.replace('"1"', "1").replace('"2"', "2")
    write(root / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")
    return root


def yolo_roboflow(root: Path, pictures: list[Annotated]) -> Path:
    """Roboflow's: train/images, paths that begin with ../, and a test split that is not there."""
    for split, part in in_splits(pictures):
        draw(part, root / split / "images")
        for entry in part:
            write(root / split / "labels" / f"{Path(entry.name).stem}.txt", yolo_rows(entry))
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", f"{paths}nc: 3\nnames: {json.dumps(NAMES, ensure_ascii=False)}\n")
    return root


def darknet(root: Path, pictures: list[Annotated]) -> Path:
    """Label files beside their pictures, and classes.txt (labelImg, Label Studio)."""
    draw(pictures, root)
    for entry in pictures:
        write(root / f"{Path(entry.name).stem}.txt", yolo_rows(entry))
    write(root / "classes.txt", "\n".join(NAMES) + "\n")
    return root


def cvat(root: Path, pictures: list[Annotated]) -> Path:
    """CVAT for images 1.1."""
    images = ""
    for i, entry in enumerate(pictures):
        boxes = "".join(
            f'<box label="{escape(name)}" source="manual" occluded="0" xtl="{x1:.2f}" '
            f'ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0"></box>'
            for name, (x1, y1, x2, y2) in entry.boxes
        )
        width, height = entry.size
        head = f'<image id="{i}" name="{entry.name}" width="{width}" height="{height}">'
        images += f"{head}{boxes}</image>\n"
    draw(pictures, root / "images")
    text = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    write(root / "annotations.xml", f"{text}{images}</annotations>\n")
    return root


def labelme(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    for entry in pictures:
        shapes = [
            {"label": name, "shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}
            for name, (x1, y1, x2, y2) in entry.boxes
        ]
        content = {"version": "5.5.0", "shapes": shapes, "imagePath": entry.name}
        content |= {"imageData": None, "imageWidth": entry.size[0], "imageHeight": entry.size[1]}
        write(root / f"{Path(entry.name).stem}.json", json.dumps(content))
    return root


def via(root: Path, pictures: list[Annotated]) -> Path:
    """A VIA 2 project beside its pictures."""
    draw(pictures, root)
    metadata = {}
    for entry in pictures:
        regions = [
            {
                "shape_attributes": {
                    "name": "rect",
                    "x": x1,
                    "y": y1,
                    "width": x2 - x1,
                    "height": y2 - y1,
                },
                "region_attributes": {"label": name},
            }
            for name, (x1, y1, x2, y2) in entry.boxes
        ]
        metadata[f"{entry.name}1234"] = {"filename": entry.name, "size": 1234, "regions": regions}
    return write(root / "via_project.json", json.dumps({"_via_img_metadata": metadata}))


def via_csv(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    rows = []
    for entry in pictures:
        for k, (name, (x1, y1, x2, y2)) in enumerate(entry.boxes):
            shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            row = {"filename": entry.name, "file_size": 1, "file_attributes": "{}"}
            row |= {"region_count": 2, "region_id": k}
            row |= {"region_shape_attributes": json.dumps(shape)}
            rows.append(row | {"region_attributes": json.dumps({"label": name})})
    return table(root / "via.csv", rows)


def label_studio(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    tasks = []
    for i, entry in enumerate(pictures):
        width, height = entry.size
        result = [
            {
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "value": {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                    "rectanglelabels": [name],
                },
            }
            for name, (x1, y1, x2, y2) in entry.boxes
        ]
        data = {"image": f"/data/local-files/?d=elsewhere%2F{entry.name}"}
        tasks.append({"id": i, "data": data, "annotations": [{"id": i, "result": result}]})
    return write(root / "project-1.json", json.dumps(tasks))


def createml(root: Path, pictures: list[Annotated]) -> Path:
    """Roboflow's CreateML export: a file for each split."""
    for split, part in in_splits(pictures):
        draw(part, root / split)
        entries = []
        for entry in part:
            annotations = [
                {
                    "label": name,
                    "coordinates": {
                        "x": (x1 + x2) / 2,
                        "y": (y1 + y2) / 2,
                        "width": x2 - x1,
                        "height": y2 - y1,
                    },
                }
                for name, (x1, y1, x2, y2) in entry.boxes
            ]
            entries.append({"image": entry.name, "annotations": annotations})
        write(root / split / "_annotations.createml.json", json.dumps(entries))
    return root


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def tensorflow(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    rows = []
    for entry in pictures:
        for name, (x1, y1, x2, y2) in entry.boxes:
            row = {"filename": entry.name, "width": entry.size[0], "height": entry.size[1]}
            row |= {"class": name, "xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            rows.append(row)
    return table(root / "_annotations.csv", rows)


def open_images(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    rows = []
    for entry in pictures:
        width, height = entry.size
        for name, (x1, y1, x2, y2) in entry.boxes:
            row = {"ImageID": Path(entry.name).stem, "Source": "xclick"}
            row |= {"LabelName": f"/m/{NAMES.index(name)}", "Confidence": 1}
            row |= {"XMin": x1 / width, "XMax": x2 / width, "YMin": y1 / height}
            row |= {"YMax": y2 / height, "IsOccluded": 0, "IsTruncated": 0, "IsGroupOf": 0}
            rows.append(row)
    classes = "".join(f"/m/{i},{name}\n" for i, name in enumerate(NAMES))
    write(root / "class-descriptions-boxable.csv", classes)
    return table(root / "validation-annotations-bbox.csv", rows)


def ms_swift(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root)
    lines = []
    for entry in pictures:
        refs = [name for name, _ in entry.boxes]
        objects = {"ref": refs, "bbox": [list(box) for _, box in entry.boxes], "bbox_type": "real"}
        answer = "".join("<ref-object><bbox>" for _ in refs)
        turns = [{"role": "user", "content": "<image>find"}]
        turns.append({"role": "assistant", "content": answer})
        lines.append({"messages": turns, "images": [entry.name], "objects": objects})
    return write(root / "train.jsonl", "\n".join(map(json.dumps, lines)) + "\n")


def qwen(root: Path, pictures: list[Annotated]) -> Path:
    """Qwen's conversations with a JSON list of boxes in pixels in the answer."""
    draw(pictures, root)
    lines = []
    for entry in pictures:
        boxes = [{"bbox_2d": list(box), "label": name} for name, box in entry.boxes]
        answer = f"```json\n{json.dumps(boxes, ensure_ascii=False)}\n```"
        turns = [
            {"from": "human", "value": "<image>\nLocate all"},
            {"from": "gpt", "value": answer},
        ]
        lines.append({"image": entry.name, "conversations": turns})
    return write(root / "grounding.jsonl", "\n".join(map(json.dumps, lines)) + "\n")


WRITERS: dict[str, Callable[[Path, list[Annotated]], Path]] = {
    function.__name__: function
    for function in (
        voc,
        voc_beside,
        yolo,
        yolo_roboflow,
        darknet,
        cvat,
        labelme,
        via,
        via_csv,
        label_studio,
        createml,
        tensorflow,
        open_images,
        ms_swift,
        qwen,
    )
}


def coco_content(pictures: list[Annotated], file_names: list[str] | None = None) -> dict[str, Any]:
    """COCO's content of the scene, with other file names where they are given."""
    names = file_names or [entry.name for entry in pictures]
    images, annotations = [], []
    for i, (entry, name) in enumerate(zip(pictures, names, strict=True)):
        width, height = entry.size
        images.append({"id": i, "file_name": name, "width": width, "height": height})
        for label, (x1, y1, x2, y2) in entry.boxes:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": NAMES.index(label)}
            annotations.append({"id": len(annotations), "image_id": i, **box})
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def roboflow_coco(root: Path, pictures: list[Annotated]) -> Path:
    for split, part in in_splits(pictures):
        draw(part, root / split)
        write(root / split / "_annotations.coco.json", json.dumps(coco_content(part)))
    return root


def cvat_coco(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root / "images" / "default")
    content = json.dumps(coco_content(pictures))
    write(root / "annotations" / "instances_default.json", content)
    return root


def label_studio_coco(root: Path, pictures: list[Annotated]) -> Path:
    draw(pictures, root / "images")
    names = [f"../../label-studio/data/media/upload/1/{entry.name}" for entry in pictures]
    write(root / "result.json", json.dumps(coco_content(pictures, names)))
    return root
