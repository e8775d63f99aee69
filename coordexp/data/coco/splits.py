"""Which annotated pictures are for training and which for validation: a function of the files and the seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.annotations import CocoFile, CocoImage, read_coco
from coordexp.data.coco.conversion_stats import ConversionStats
from coordexp.errors import UserError
from coordexp.storage.files import sha256_file

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Split:
    """The pictures to convert, in the order of their file, and the stats of those that are not."""

    coco: CocoFile
    images: list[CocoImage]
    stats: ConversionStats


def annotation_files(settings: CocoConfig) -> list[Path]:
    return [
        Path(path)
        for path in (settings.annotations, settings.train_annotations, settings.val_annotations)
        if path
    ]


def source_digests(settings: CocoConfig) -> dict[str, str]:
    """sha256 of each annotation file, by its path.

    Raises:
        UserError: there is no such file.
    """
    for path in annotation_files(settings):
        if not path.is_file():
            raise UserError(f"{path}: no such annotation file")
    return {str(path): sha256_file(path) for path in annotation_files(settings)}


def read_splits(settings: CocoConfig) -> dict[str, Split]:
    """Train and val of the one annotation file, or of their own.

    Raises:
        UserError: not annotation files, fewer than two pictures to split, or a picture that is in both.
    """
    if settings.annotations:
        train, val = split_file(
            read_coco(Path(settings.annotations)), settings.val_fraction, settings.seed
        )
    else:
        train, val = (
            read_coco(Path(path or ""))
            for path in (settings.train_annotations, settings.val_annotations)
        )
    if both := {image.paths[0] for image in train.images} & {
        image.paths[0] for image in val.images
    }:
        raise UserError(
            f"{val.path}: {len(both)} of its pictures are in train as well, such as {min(both)}"
        )
    return {
        "train": drawn(train, settings.train_images, settings.seed),
        "val": drawn(val, settings.val_images, settings.seed),
    }


def split_file(whole: CocoFile, val_fraction: float, seed: int) -> tuple[CocoFile, CocoFile]:
    """Train and val; annotations of unknown pictures are train's."""
    n = len(whole.images)
    if n < 2:
        raise UserError(f"{whole.path}: a file of {n} pictures cannot be split into train and val")
    n_val = min(n - 1, max(1, round(val_fraction * n)))
    val = set(np.random.default_rng([seed, 0]).permutation(n)[:n_val].tolist())
    parts = [
        [image for i, image in enumerate(whole.images) if (i in val) == wanted]
        for wanted in (False, True)
    ]
    return CocoFile(whole.path, whole.names, parts[0], whole.astray), CocoFile(
        whole.path, whole.names, parts[1], []
    )


def drawn(coco: CocoFile, at_most: int | None, seed: int) -> Split:
    """`at_most` of the pictures in which something is annotated."""
    annotated = [image for image in coco.images if image.annotations]
    stats = ConversionStats(sum(len(image.annotations) for image in annotated) + len(coco.astray))
    stats.drop("unknown picture", len(coco.astray))
    stats.left_out.update({"nothing is annotated": len(coco.images) - len(annotated)})
    chosen = np.random.default_rng([seed, 1]).permutation(len(annotated))[:at_most]
    images = [annotated[i] for i in sorted(chosen.tolist())]
    if len(images) < len(annotated):
        stats.left_out["not drawn"] = len(annotated) - len(images)
        stats.drop(
            "picture not drawn",
            stats.annotated - len(coco.astray) - sum(len(i.annotations) for i in images),
        )
    return Split(coco, images, stats)
