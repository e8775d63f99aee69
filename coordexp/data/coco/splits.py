"""Split the annotated pictures into training and validation.

The choice is a function of the annotation files and the seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordexp.config.schema import CocoConfig, source_files
from coordexp.data.coco.annotations import CocoFile, CocoImage, read_coco
from coordexp.data.coco.box_formats import in_coco_form
from coordexp.data.coco.conversion_stats import ConversionStats
from coordexp.data.coco.picture_directories import directory_of, share_directory
from coordexp.data.coco.shared_pictures import Link, fingerprints, groups, kinds_of_copies, links
from coordexp.data.formats.recognise import what_instead
from coordexp.errors import UserError
from coordexp.storage.digest_store import known_sha256


@dataclass(frozen=True)
class Split:
    """The pictures to convert, in the order of their file, and counts of what is left out."""

    coco: CocoFile
    images: list[CocoImage]
    stats: ConversionStats


def source_digests(settings: CocoConfig) -> dict[str, str]:
    """sha256 of each annotation file, by its path.

    Raises:
        UserError: there is no such file.
    """
    for path in map(Path, source_files(settings)):
        if path.is_dir():
            nothing = f"{path}: a directory, and of no format known here: name the annotation file"
            raise UserError(what_instead(path) or nothing)
        if not path.is_file():
            raise UserError(f"{path}: no such annotation file")
    return {str(path): known_sha256(path) for path in map(Path, source_files(settings))}


def read_splits(settings: CocoConfig, workers: int = 1) -> dict[str, Split]:
    """Train and val, from one annotation file that is split, or from one file each.

    All copies of a picture come to one side of a file that is split, unless
    `data.allow_shared_pictures` is set.

    Raises:
        UserError: not annotation files, boxes of another format, fewer than two pictures to split,
            or a picture in both.
    """
    if settings.annotations:
        whole = in_coco_form(read_coco(Path(settings.annotations)), settings)
        copies = [] if settings.allow_shared_pictures else copies_in(whole, settings, workers)
        train, val = split_file(whole, copies, settings.val_fraction, settings.seed)
    else:
        train, val = (
            in_coco_form(read_coco(Path(path or "")), settings)
            for path in (settings.train_annotations, settings.val_annotations)
        )
        copies = []
    train_paths = {image.paths[0] for image in train.images}
    both = train_paths.intersection(image.paths[0] for image in val.images)
    if both and share_directory(settings, train, val):
        raise UserError(
            f"{val.path}: {len(both)} of its pictures are in train as well, such as {min(both)}"
        )
    splits = {
        "train": sampled(train, settings.train_images, settings.seed),
        "val": sampled(val, settings.val_images, settings.seed),
    }
    if copies:
        note_copies(splits, whole, copies)
    return splits


def copies_in(whole: CocoFile, settings: CocoConfig, workers: int) -> list[Link]:
    """The pairs of pictures of a file that are one, by their files or names."""
    root = directory_of("train", whole.path, whole.images, settings).path
    sources = [image.find(root) for image in whole.images]
    names = [image.paths[0] for image in whole.images]
    return list(links(names, fingerprints(sources, workers, settings.name)))


def note_copies(splits: Mapping[str, Split], whole: CocoFile, copies: list[Link]) -> None:
    kinds = {whole.images[i].id: kind for i, kind in kinds_of_copies(copies).items()}
    for split in splits.values():
        found = (kinds[image.id] for image in split.images if image.id in kinds)
        split.stats.noted.update(map(kept_together, found))


def kept_together(kind: str) -> str:
    return f"pictures kept on one side of the split: {kind}"


def split_file(
    whole: CocoFile, copies: list[Link], val_fraction: float, seed: int
) -> tuple[CocoFile, CocoFile]:
    """Train and val; annotations of unknown pictures are counted with train."""
    in_val = drawn_for_val(whole.path, len(whole.images), copies, val_fraction, seed)
    train_images: list[CocoImage] = []
    val_images: list[CocoImage] = []
    for i, image in enumerate(whole.images):
        (val_images if i in in_val else train_images).append(image)
    train = CocoFile(whole.path, whole.names, train_images, whole.astray)
    return train, CocoFile(whole.path, whole.names, val_images, [])


def drawn_for_val(
    path: Path, n: int, copies: list[Link], val_fraction: float, seed: int
) -> set[int]:
    """Which of the n pictures of a file are for validation; all copies of one, or none.

    Raises:
        UserError: fewer than two pictures, or all of them copies of one.
    """
    if n < 2:
        raise UserError(f"{path}: a file of {n} pictures cannot be split into train and val")
    n_val = min(n - 1, max(1, round(val_fraction * n)))
    group_of = groups(n, copies)
    if len(set(group_of)) < 2:
        raise UserError(
            f"{path}: its {n} pictures are copies of one, which cannot be in train and val: "
            "give a file for each split, or set data.allow_shared_pictures=true"
        )
    return chosen_for_val(group_of, n_val, np.random.default_rng([seed, 0]).permutation(n))


def chosen_for_val(group_of: Sequence[int], n_val: int, order: Iterable[int]) -> set[int]:
    """About n_val pictures, groups of copies whole; without copies the first n_val of the order."""
    members: dict[int, set[int]] = {}
    for i in order:
        members.setdefault(group_of[i], set()).add(int(i))
    chosen: set[int] = set()
    for group in members.values():
        if len(chosen) + len(group) <= n_val:
            chosen.update(group)
    # Where every group is larger than the validation set, the smallest is it.
    return chosen or sorted(members.values(), key=len)[0]


def sampled(coco: CocoFile, at_most: int | None, seed: int) -> Split:
    """A random sample of `at_most` pictures (None: all) among those with annotations."""
    annotated = [image for image in coco.images if image.annotations]
    n_instances = sum(len(image.annotations) for image in annotated)
    stats = ConversionStats(n_instances + len(coco.astray))
    stats.drop("unknown picture", len(coco.astray))
    stats.left_out["nothing is annotated"] += len(coco.images) - len(annotated)
    chosen = np.random.default_rng([seed, 1]).permutation(len(annotated))[:at_most]
    images = [annotated[i] for i in sorted(chosen.tolist())]
    if len(images) < len(annotated):
        stats.left_out["not drawn"] = len(annotated) - len(images)
        n_kept = sum(len(image.annotations) for image in images)
        stats.drop("picture not drawn", n_instances - n_kept)
    return Split(coco, images, stats)
