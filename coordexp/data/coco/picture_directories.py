"""The directory that holds the pictures of a split: the one that is set, or one beside its
annotation file.

Most exporters write pictures beside their annotations: `train/_annotations.coco.json` with the
pictures in `train/` (Roboflow), `result.json` with `images/` (Label Studio),
`annotations/instances_default.json` with `images/default/` (CVAT) or with `train2017/` (COCO).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import CocoConfig, MissingPictures
from coordexp.data.coco.annotations import CocoImage
from coordexp.data.coco.splits import Split
from coordexp.errors import UserError

ANNOTATION_DIRECTORIES = ("annotations", "labels")


@dataclass(frozen=True)
class PictureDirectory:
    path: Path
    setting: str  # how the message calls it: `data.images=pictures`; empty where none is set


def directory_of(name: str, split: Split, settings: CocoConfig) -> PictureDirectory:
    """Where the pictures of a split are looked for.

    Raises:
        UserError: the directory that is set does not exist, and missing pictures are refused.
    """
    key = f"{name}_pictures"
    own = getattr(settings, key)
    path, setting = (own, f"data.{key}") if own else (settings.images, "data.images")
    if not path:
        return beside(name, split)
    root = Path(path)
    if settings.missing is not MissingPictures.draw and not root.is_dir():
        problem = "not a" if root.exists() else "no such"
        raise UserError(f"{setting}={root}: {problem} directory")
    return PictureDirectory(root, f"{setting}={root}")


def beside(name: str, split: Split) -> PictureDirectory:
    """The directory around the annotation file that holds most of the pictures; it is told."""
    best, most = split.coco.path.parent, 0
    for root in directories_around(split.coco.path):
        n_found = count_found(split.images, root)
        if n_found > most:
            best, most = root, n_found
    if most:
        print(
            f"{name}: the pictures are those in {best}, beside {split.coco.path}", file=sys.stderr
        )
    return PictureDirectory(best, "")


def directories_around(annotations: Path) -> list[Path]:
    """The existing directories in which exporters put the pictures of this annotation file."""
    bases = [annotations.parent]
    if annotations.absolute().parent.name.lower() in ANNOTATION_DIRECTORIES:
        bases.append(annotations.parent / "..")
    subset = annotations.stem.rpartition("_")[2]  # instances_train2017.json is of train2017/
    roots = []
    for base in bases:
        roots += [base, base / "images", base / "images" / subset, base / subset]
    return [root for root in roots if root.is_dir()]


def count_found(images: Sequence[CocoImage], root: Path) -> int:
    return sum(image.find(root) is not None for image in images)
