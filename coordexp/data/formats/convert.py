"""Annotations of another format to a COCO file, or to one for each split."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordexp.data.formats.commands import next_command
from coordexp.data.formats.dataset import Coordinates, Dataset, Picture, Shape, Source
from coordexp.data.formats.picture_files import PictureFiles
from coordexp.data.formats.recognise import COCO, coco_settings, recognise, what_instead
from coordexp.data.formats.splits import by_split
from coordexp.data.picture_paths import ANNOTATION_DIRECTORIES
from coordexp.data.records import twice_area
from coordexp.errors import UserError, escaped
from coordexp.storage.files import write_text

MAX_NOTES = 20
DECIMALS = 4  # of a pixel
NAME_IMAGES = "name their directory with --images DIRECTORY"


def convert(
    path: Path,
    out: Path,
    images: Path | None = None,
    coordinates: Coordinates | None = None,
    first_pixel: int | None = None,
    label: str | None = None,
) -> list[str]:
    """Write the annotations at `path` as COCO; returns what to print.

    With train and val in the source a file is written for each split, `coco_train.json` for
    `coco.json`.

    Raises:
        UserError: the format is unknown, its files are broken, or all pictures are missing and
            `images` does not say where they will lie; nothing is written then.
    """
    root = images or picture_root(path)
    if not root.is_dir():
        raise UserError(f"--images {root}: no such directory")
    found = recognise(path)
    if found is None or found.format.read is None:
        raise not_converted(path)
    source = Source(path, found.files, PictureFiles(root), coordinates, first_pixel, label)
    dataset = found.format.read(source)
    splits = by_split(dataset.pictures)
    refuse_empty(path, dataset)
    missing = missing_pictures(dataset, root)
    if images is None and len(missing) == len(dataset.pictures):
        told = f"{missing_below(root, missing)} (also if they are still to come)"
        raise UserError(f"{path}: all its pictures are missing: {told}")
    names = sorted({shape.name for picture in dataset.pictures for shape in picture.shapes})
    files = {split: split_file(out, split) for split in splits}
    for file in files.values():
        if file.exists():
            raise UserError(f"{file}: exists already: remove it, or name another file with --out")
    contents = {split: json.dumps(coco_of(splits[split], names)) + "\n" for split in splits}
    for split, file in files.items():
        write_text(file, contents[split])
    return summary(found.format.name, dataset, files, splits, root, missing)


def picture_root(path: Path) -> Path:
    """The directory below which pictures are looked for, and to which their names are relative."""
    base = path if path.is_dir() else path.parent
    if base.absolute().name.lower() in ANNOTATION_DIRECTORIES:
        return base.absolute().parent if base == Path() else base.parent
    return base


def not_converted(path: Path) -> UserError:
    found = recognise(path)
    if found and found.format is COCO and not path.is_dir():
        use = f"data=coco {coco_settings(found.files)}"
        return UserError(f"{path}: COCO annotations already: use {use}")
    if told := what_instead(path):
        return UserError(told)
    if not path.exists():
        return UserError(f"{path}: no such file or directory")
    return UserError(f"{path}: none of the formats that `coordexp convert` knows (docs/data.md)")


def refuse_empty(path: Path, dataset: Dataset) -> None:
    """Refuse a data set without an object, and one that names a picture twice.

    Raises:
        UserError: naming the picture, or what was dropped.
    """
    if not any(picture.shapes for picture in dataset.pictures):
        dropped = listed(dataset) or "nothing was dropped"
        remedy = "" if dataset.pictures else f": where pictures are elsewhere, {NAME_IMAGES}"
        raise UserError(f"{path}: no object is left ({dropped}){remedy}")
    seen = set()
    for picture in dataset.pictures:
        if picture.file_name in seen:
            raise UserError(f"{path}: the picture {picture.file_name!r} is annotated twice")
        seen.add(picture.file_name)


def missing_pictures(dataset: Dataset, root: Path) -> list[str]:
    names = [picture.file_name for picture in dataset.pictures]
    return [name for name in names if not os.path.isfile(root / name)]


def missing_below(root: Path, missing: Sequence[str]) -> str:
    return f"not found below {root}: {len(missing)} pictures, such as {missing[0]!r}: {NAME_IMAGES}"


def split_file(out: Path, split: str) -> Path:
    return out.with_name(f"{out.stem}_{split}{out.suffix}") if split else out


def coco_of(pictures: Sequence[Picture], names: Sequence[str]) -> dict[str, Any]:
    """The content of a COCO file; ids count from 1."""
    ids = {name: i for i, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(pictures, start=1):
        images.append(
            {
                "id": image_id,
                "file_name": picture.file_name,
                "width": picture.width,
                "height": picture.height,
            }
        )
        for shape in picture.shapes:
            entry = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(entry | annotation_of(shape, ids[shape.name]))
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def annotation_of(shape: Shape, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box
    entry: dict[str, Any] = {
        "category_id": category_id,
        "bbox": [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(area_of(shape), DECIMALS),
        "iscrowd": int(shape.crowd),
    }
    if shape.rings:
        entry["segmentation"] = [[round(v, DECIMALS) for v in ring] for ring in shape.rings]
    if shape.attributes:
        entry["attributes"] = dict(shape.attributes)
    return entry


def area_of(shape: Shape) -> float:
    """px², as COCO has it: of the outline where there is one."""
    if not shape.rings:
        x1, y1, x2, y2 = shape.box
        return (x2 - x1) * (y2 - y1)
    total = 0.0
    for ring in shape.rings:
        points = list(zip(ring[0::2], ring[1::2], strict=True))
        total += abs(twice_area(points)) / 2
    return total


def summary(
    format_name: str,
    dataset: Dataset,
    files: dict[str, Path],
    splits: dict[str, list[Picture]],
    root: Path,
    missing: Sequence[str],
) -> list[str]:
    """What was written and dropped, and the command that comes next."""
    lines = []
    for split, file in files.items():
        n_shapes = sum(len(picture.shapes) for picture in splits[split])
        lines.append(f"{file}: {len(splits[split])} pictures, {n_shapes} objects ({format_name})")
    if dropped := listed(dataset):
        lines.append(f"  dropped: {dropped}")
    if missing:
        lines.append(f"  {missing_below(root, missing)}")
    notes = list(dict.fromkeys(dataset.notes))
    lines += [f"  {note}" for note in notes[:MAX_NOTES]]
    if len(notes) > MAX_NOTES:
        lines.append(f"  … and {len(notes) - MAX_NOTES} more")
    if not missing:
        lines.append(
            "next comes a rehearsal; experiment=small_real trains on the pictures (docs/data.md)"
        )
    lines.append(f"next: {next_command(files, root)}")
    return [escaped(line) for line in lines]  # they repeat names of the files


def listed(dataset: Dataset) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in dataset.dropped.most_common() if n)
