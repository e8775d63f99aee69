"""The directory that holds the pictures of a split: the one that is set, or one beside its
annotation file.

Most exporters write pictures beside their annotations: `train/_annotations.coco.json` with the
pictures in `train/` (Roboflow), `result.json` with `images/` (Label Studio),
`annotations/instances_default.json` with `images/default/` (CVAT) or with `train2017/` (COCO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import CocoConfig, MissingPictures
from coordexp.data.coco.annotations import CocoFile, CocoImage
from coordexp.data.picture_paths import ANNOTATION_DIRECTORIES
from coordexp.errors import UserError


@dataclass(frozen=True)
class PictureDirectory:
    path: Path
    setting: str  # how the message calls it: `data.images=pictures`; empty where none is set


def directory_of(
    split: str, annotations: Path, images: Sequence[CocoImage], settings: CocoConfig
) -> PictureDirectory:
    """Where the pictures of a split are looked for. `images` are those of its annotation file.

    Raises:
        UserError: the directory that is set does not exist, and missing pictures are refused.
    """
    key, path = set_directory(split, settings)
    if not path:
        return PictureDirectory(beside(annotations, images), "")
    root = Path(path)
    if settings.missing is not MissingPictures.draw and not root.is_dir():
        problem = "not a" if root.exists() else "no such"
        raise UserError(f"{key}={root}: {problem} directory")
    return PictureDirectory(root, f"{key}={root}")


def set_directory(split: str, settings: CocoConfig) -> tuple[str, str | None]:
    """The setting that names the directory of a split's pictures, and its value."""
    own = settings.train_pictures if split == "train" else settings.val_pictures
    return (f"data.{split}_pictures", own) if own else ("data.images", settings.images)


def share_directory(settings: CocoConfig, train: CocoFile, val: CocoFile) -> bool:
    """Whether names in the annotation files of train and val are relative to one directory.

    Where none is set, it is the one that holds the pictures of the file: CVAT writes 1.jpg of
    images/Train/ and 1.jpg of images/Validation/ in two files of one directory.
    """
    roots = [set_directory(split, settings)[1] for split in ("train", "val")]
    if any(roots):
        return roots[0] == roots[1]
    if train.path.parent != val.path.parent:
        return False
    found = [beside(coco.path, coco.images) for coco in (train, val)]
    # Where no picture is found, nothing says that equal names are different pictures.
    return found[0] == found[1] or train.path.parent in found


def beside(annotations: Path, images: Sequence[CocoImage]) -> Path:
    """The directory around the annotation file that holds most of the pictures."""
    best, most = annotations.parent, 0
    for root in directories_around(annotations):
        n_found = count_found(images, root)
        if n_found > most:
            best, most = root, n_found
    return best


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
