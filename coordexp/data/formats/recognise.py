"""Which format annotations have, from their content, and what to do with each.

A single file is told by its first line or its JSON; a directory by the files in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coordexp.config.yaml_file import is_too_deep
from coordexp.data.formats.commands import override
from coordexp.data.formats.createml import is_createml, read_createml
from coordexp.data.formats.csv_file import csv_header
from coordexp.data.formats.cvat import read_cvat
from coordexp.data.formats.dataset import Dataset, Source
from coordexp.data.formats.grounding import holds_boxes, is_conversation, read_grounding
from coordexp.data.formats.label_studio import is_label_studio, read_label_studio
from coordexp.data.formats.labelme import is_labelme, read_labelme
from coordexp.data.formats.splits import split_named
from coordexp.data.formats.tables import (
    OPEN_IMAGES_COLUMNS,
    TENSORFLOW_COLUMNS,
    read_open_images,
    read_tensorflow,
)
from coordexp.data.formats.via import CSV_COLUMNS, is_via, read_via
from coordexp.data.formats.voc import read_voc
from coordexp.data.formats.yolo import is_label_file, read_yolo
from coordexp.data.formats.yolo_files import NAME_FILES

MOST_FILES = 1_000_000  # of a directory that are looked at
TRIED = 20  # files of one kind that are opened to recognise a directory
HEAD_BYTES = 65536


@dataclass(frozen=True)
class Format:
    name: str  # what a message calls it
    read: Callable[[Source], Dataset] | None  # None: it is not converted
    instead: str = ""  # what to do with it, where it is not converted


COCO = Format("COCO annotations", None)
RECORDS = Format("a record file", None, "train on it with data=records")
RESULTS = Format(
    "detections in COCO's result format", None, "name the annotation file that they belong to"
)
LLAVA = Format(
    "LLaVA conversations", None, "they hold no boxes, so there is nothing to train coordinates on"
)
ARCHIVE = Format("an archive", None, "unpack it, and name the directory")
NAMELESS = Format(
    "YOLO labels without class names",
    None,
    "name the directory that holds data.yaml or classes.txt; if there is none, write classes.txt "
    "beside the labels, a name a line",
)
VOC = Format("Pascal VOC annotations (XML)", read_voc)
CVAT = Format("CVAT annotations (XML)", read_cvat)
YOLO = Format("YOLO labels", read_yolo)
LABELME = Format("LabelMe annotations (JSON)", read_labelme)
VIA = Format("VIA annotations (VGG Image Annotator)", read_via)
LABEL_STUDIO = Format("Label Studio annotations (JSON)", read_label_studio)
CREATEML = Format("CreateML annotations (JSON)", read_createml)
TENSORFLOW = Format("TensorFlow object detection boxes (CSV)", read_tensorflow)
OPEN_IMAGES = Format("Open Images boxes (CSV)", read_open_images)
GROUNDING = Format("grounding conversations (Qwen, ms-swift)", read_grounding)

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
XML_ROOTS = {"annotation": VOC, "annotations": CVAT}


@dataclass(frozen=True)
class Recognised:
    format: Format
    files: tuple[Path, ...]  # of this format


def recognise(path: Path) -> Recognised | None:
    """The format of a file or a directory; None where it is none of those known here."""
    if path.is_dir():
        return format_of_directory(path)
    found = format_of_file(path) if path.is_file() else None
    return Recognised(found, (path,)) if found else None


def what_instead(path: Path) -> str | None:
    """What annotations that are not a COCO file are, and what to do with them, in one line.

    None where they are COCO, or none of the formats known here.
    """
    found = recognise(path)
    if found is None or (found.format is COCO and not path.is_dir()):
        return None
    if found.format is COCO:
        return f"{path}: a directory of COCO annotations: set {coco_settings(found.files)}"
    if found.format.read is None:
        told = f"{path}: {found.format.name}, not COCO annotations: {found.format.instead}"
        if found.format is RECORDS:
            told += f" {shlex.quote(override('data.records', found.files[0]))}"
        return told
    command = f"coordexp convert {shlex.quote(str(path))} --out coco.json"
    return f"{path}: {found.format.name}, not COCO: turn them into COCO with `{command}`"


def coco_settings(files: tuple[Path, ...]) -> str:
    """The settings that name COCO files: train and val where two are called so, else one."""
    splits: dict[str, Path] = {}
    for file in files:
        words = [*re.split(r"[_.-]", file.stem), file.parent.name]
        split = next((split_named(word) for word in words if split_named(word)), "")
        splits.setdefault(split, file)
    if {"train", "val"} <= splits.keys():
        given = {"train_annotations": splits["train"], "val_annotations": splits["val"]}
    else:
        given = {"annotations": files[0]}
    return " ".join(shlex.quote(override(f"data.{key}", file)) for key, file in given.items())


def format_of_file(path: Path) -> Format | None:
    """The format of one file by its ending and content; None for an unreadable one."""
    if not path.is_file():  # a pipe, or a link to a device, which has no end
        return None
    ending = path.suffix.lower()
    try:
        if ending == ".xml":
            return XML_ROOTS.get(xml_root(path))
        if ending == ".csv":
            return format_of_table(csv_header(path))
        if ending in (".yaml", ".yml"):
            return YOLO if is_yolo_yaml(path) else None
        if path.name in NAME_FILES:
            return YOLO
        if ending in ARCHIVES:
            return ARCHIVE
        if ending == ".txt":
            return NAMELESS if is_label_file(path) else None
        if ending in (".json", ".jsonl", ".ndjson"):
            return format_of_json(path)
    except (OSError, ValueError, RecursionError):
        return None
    return None


def xml_root(path: Path) -> str:
    """The name of the root, from the beginning of the file alone."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8", errors="replace")
    match = re.search(r"<([A-Za-z_][\w.-]*)", re.sub(r"<!--.*?-->", "", head, flags=re.DOTALL))
    return match[1] if match else ""


def format_of_table(header: set[str]) -> Format | None:
    for columns, found in (
        (TENSORFLOW_COLUMNS, TENSORFLOW),
        (OPEN_IMAGES_COLUMNS, OPEN_IMAGES),
        (CSV_COLUMNS, VIA),
    ):
        if columns <= header:
            return found
    return None


def is_yolo_yaml(path: Path) -> bool:
    text = path.read_bytes()[: 2**20]
    if is_too_deep(text):
        return path.stem == "data"  # reading it tells what is broken
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return path.stem == "data"
    return (
        isinstance(content, dict) and "names" in content and bool({"train", "val"} & set(content))
    )


def format_of_json(path: Path) -> Format | None:
    """Raises ValueError: neither JSON nor JSON lines."""
    try:
        raw = json.loads(path.read_bytes())
    except ValueError:  # several values, a line each
        with open(path, "rb") as file:
            raw = [json.loads(line) for line in file.readlines(HEAD_BYTES)[:TRIED] if line.strip()]
        return format_of_rows(raw)
    if isinstance(raw, dict):
        if {"images", "annotations", "categories"} <= raw.keys():
            return COCO
        if is_labelme(raw):
            return LABELME
        if is_via(raw):
            return VIA
        return format_of_rows([raw])
    if not isinstance(raw, list) or not raw:
        return None
    if is_label_studio(raw):
        return LABEL_STUDIO
    return CREATEML if is_createml(raw) else format_of_rows(raw)


def format_of_rows(rows: list[Any]) -> Format | None:
    """The format of JSON lines, or of a list."""
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    if is_conversation(rows[0]):
        return GROUNDING if any(map(holds_boxes, rows)) else LLAVA
    if {"images", "width", "height", "objects"} <= rows[0].keys():
        return RECORDS
    if {"image_id", "category_id", "score"} <= rows[0].keys():
        return RESULTS
    return None


def format_of_directory(path: Path) -> Recognised | None:
    """The format of a directory: that of the first of its files that has one.

    A description of YOLO's classes goes before label files, JSON before XML.
    """
    by_ending: dict[str, list[Path]] = {}
    for n, file in enumerate(files_below(path)):
        if n == MOST_FILES:
            break
        by_ending.setdefault(file.suffix.lower(), []).append(file)
    for ending in (".yaml", ".yml", ".json", ".xml", ".csv", ".jsonl", ".ndjson"):
        files = by_ending.get(ending, [])
        for file in files[:TRIED]:
            if found := format_of_file(file):
                return Recognised(found, files_of(found, file, files))
    texts = [*by_ending.get(".names", []), *by_ending.get(".txt", [])]
    names = [file for file in texts if file.name in NAME_FILES]
    labels = [file for file in texts[:TRIED] if file not in names and is_label_file(file)]
    if not labels:
        return None
    return Recognised(YOLO, (names[0],)) if names else Recognised(NAMELESS, (labels[0],))


def files_of(found: Format, first: Path, files: list[Path]) -> tuple[Path, ...]:
    """The files of a directory that have this format; of YOLO the one that names the classes."""
    if found is YOLO:
        return (first,)
    if found in (VOC, LABELME):  # a file a picture: each is checked when it is read
        return tuple(files)
    return tuple(file for file in files if format_of_file(file) is found)


def files_below(path: Path) -> Iterator[Path]:
    """The files of a directory and of those in it, sorted, the upper ones first; none hidden."""
    for directory, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(directory) / name for name in sorted(names) if not name.startswith("."))
