"""Convert annotation files to record files and pictures, and count what happens to every instance.

Pictures that are already written are kept, so a killed conversion continues.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from coordexp.config.schema import CocoConfig, Geometry, ObjectOrder
from coordexp.data.coco.annotations import CocoImage
from coordexp.data.coco.conversion_stats import ConversionStats, listed
from coordexp.data.coco.image_files import ImageFile, find_image_files
from coordexp.data.coco.images import (
    fitted_size,
    orientation_note,
    read_picture,
    rendered,
    resized,
    save_picture,
)
from coordexp.data.coco.instances import (
    ROTATED,
    DroppedError,
    Frame,
    Instance,
    convert_instance,
    drawn_outlines,
    is_rotated,
)
from coordexp.data.coco.leaks import check_leaks
from coordexp.data.coco.polygons import PolygonLimits
from coordexp.data.coco.splits import Split, read_splits, source_digests
from coordexp.data.parallel import in_parallel, n_cores
from coordexp.data.pictures import LeftOutError
from coordexp.data.records import ORDER, RENDERED, Record, in_order, reading_order, write_records
from coordexp.errors import UserError
from coordexp.storage.digest_store import known_sha256s
from coordexp.storage.identity import SOURCES, Sources, read_sources, write_sources


@dataclass(frozen=True)
class Task:
    """A picture to convert, with the names of the categories that occur in it."""

    image: CocoImage
    names: Mapping[Any, str]
    source: Path | None = None  # its file; None: it is drawn
    written: str = ""  # below images/<split>/


@dataclass(frozen=True)
class Kept:
    """An annotation that gave an object."""

    instance: Instance
    annotation: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a conversion reads, known and checked before anything is written."""

    sources: Sources
    splits: dict[str, Split]
    files: dict[str, list[ImageFile]]


class NothingLeftError(UserError):
    """A split has no picture that could be converted."""


def convert_annotations(
    settings: CocoConfig, out: Path, workers: int | None = None
) -> dict[str, ConversionStats]:
    """Write `out`/{train,val}.jsonl and the pictures they name; returns the stats of each split.

    Raises:
        UserError: a file is not a COCO annotation file, its boxes have another format, pictures
            are missing or in both splits, or a split has no record.
    """
    workers = workers or n_cores()
    return convert_planned(settings, planned_conversion(settings, workers), out, workers)


def planned_conversion(settings: CocoConfig, workers: int) -> Plan:
    """Read and check the annotations, and find the pictures.

    Raises:
        UserError: a file is not a COCO annotation file, its boxes have another format, or pictures
            are missing or in both splits.
    """
    annotations = source_digests(settings)
    splits = read_splits(settings, workers)
    for name, split in splits.items():
        if not split.images:
            raise nothing_left(name, split)
    files = find_image_files(splits, settings)
    for name, split in splits.items():
        if not split.images:  # every picture is missing
            raise nothing_left(name, split)
    check_leaks(splits, files, settings, workers)
    pictures = {
        f"{name}/{file.written}": file.source
        for name, found in files.items()
        for file in found
        if file.source is not None
    }
    return Plan(Sources(annotations, picture_digests(pictures)), splits, files)


def picture_digests(pictures: Mapping[str, Path]) -> dict[str, str]:
    """sha256 of the source of each picture; those that cannot be read will be left out."""
    readable = {name: source for name, source in pictures.items() if os.access(source, os.R_OK)}
    found = known_sha256s(list(readable.values()))
    return {name: found[source] for name, source in readable.items()}


def convert_planned(
    settings: CocoConfig, plan: Plan, out: Path, workers: int
) -> dict[str, ConversionStats]:
    """Write records and pictures.

    Raises:
        NothingLeftError: no picture of a split could be used.
    """
    # The new annotations and their pictures are valid. Only now remove an earlier conversion.
    keep_pictures_of(plan.sources, out)
    for name, split in plan.splits.items():
        tasks = (
            Task(image, names_in(image, split.coco.names), file.source, file.written)
            for image, file in zip(split.images, plan.files[name], strict=True)
        )
        convert = partial(convert_image, settings, out, name)
        results = in_parallel(convert, tasks, workers)
        label = f"{settings.name} {name}"
        bar = tqdm(results, total=len(split.images), desc=label, unit="img", mininterval=1.0)
        write_records(out / f"{name}.jsonl", added_up(bar, split.stats))
        if not split.stats.pictures["kept"]:
            raise nothing_left(name, split)
    return {name: split.stats for name, split in plan.splits.items()}


def nothing_left(name: str, split: Split) -> NothingLeftError:
    pictures, instances = listed(split.stats.left_out), listed(split.stats.dropped)
    return NothingLeftError(
        f"{split.coco.path}: no picture is left for {name} "
        f"(pictures: {pictures}; instances: {instances})"
    )


def keep_pictures_of(sources: Sources, out: Path) -> None:
    """Remove pictures made from other sources, and half-written files of a killed run."""
    if (out / SOURCES).exists() and (before := read_sources(out)) != sources:
        (out / "data.json").unlink(missing_ok=True)
        if set(before.files.values()) != set(sources.files.values()):
            shutil.rmtree(out / "images", ignore_errors=True)
        for name in changed_pictures(before, sources):
            (out / "images" / name).unlink(missing_ok=True)
    for leftover in [*out.glob(".*.tmp"), *(out / "images").rglob("*.tmp")]:
        if leftover.is_file():  # the annotations may name a directory like a temporary file
            leftover.unlink()
    write_sources(out, sources)


def changed_pictures(before: Sources, now: Sources) -> list[str]:
    """The pictures whose source is another file than before, or is there no more or only now."""
    names = before.pictures.keys() | now.pictures.keys()
    return sorted(name for name in names if before.pictures.get(name) != now.pictures.get(name))


def names_in(image: CocoImage, names: Mapping[Any, str]) -> dict[Any, str]:
    used = {annotation["category_id"] for annotation in image.annotations}
    return {category: names[category] for category in used if category in names}


def added_up(
    results: Iterable[tuple[Record | None, ConversionStats]], total: ConversionStats
) -> Iterator[Record]:
    """Pass the records on and add their stats to `total`."""
    for record, stats in results:
        total.add(stats)
        if record is not None:
            yield record


def convert_image(
    settings: CocoConfig, out: Path, split: str, task: Task
) -> tuple[Record | None, ConversionStats]:
    """Convert and write one picture. Returns its record (None if it is left out) and its stats."""
    image, source = task.image, task.source
    frame = frame_of(image, settings)
    stats = ConversionStats()
    kept = kept_annotations(task, frame, settings, stats)
    try:
        refuse_crowded(kept, settings)
        path = out / "images" / split / task.written
        if not path.exists():
            save_picture(draw(image, frame, kept) if source is None else read(source, frame), path)
    except LeftOutError as reason:
        fault = f"{image.paths[0]}: {reason.found}" if reason.found else ""
        stats.leave_out(reason.reason, len(kept), fault)
        return None, stats
    if source is not None and (note := orientation_note(source, frame.annotated)):
        stats.noted[note] += 1
    if n_rotated := sum(is_rotated(k.annotation) for k in kept):
        stats.noted[ROTATED] += n_rotated
    written = str(path.relative_to(out))
    record = record_of(image, written, frame, kept, settings, is_drawn=source is None)
    stats.keep(record, [k.instance for k in kept], resized=frame.annotated != frame.record)
    return record, stats


def frame_of(image: CocoImage, settings: CocoConfig) -> Frame:
    fitted = fitted_size(image.width, image.height, settings.pixel_budget)
    return Frame((image.width, image.height), fitted)


def kept_annotations(
    task: Task, frame: Frame, settings: CocoConfig, stats: ConversionStats
) -> list[Kept]:
    """The annotations that give objects; the others are counted in `stats`.

    Of equal objects the first is kept.
    """
    polygons = settings.geometry is Geometry.poly_prefer
    limits = PolygonLimits(settings.max_vertices, settings.min_polygon_iou) if polygons else None
    kept: dict[Any, Kept] = {}
    for annotation in task.image.annotations:
        try:
            instance = convert_instance(annotation, task.names, frame, limits)
        except DroppedError as reason:
            stats.drop(str(reason))
            continue
        if instance.object in kept:
            stats.drop("the same object twice")
        else:
            kept[instance.object] = Kept(instance, annotation)
    return list(kept.values())


def refuse_crowded(kept: list[Kept], settings: CocoConfig) -> None:
    """Raises LeftOutError for a picture without objects, or with more than `max_objects`.

    A truncated list of objects would train the model to stop early.
    """
    if not kept:
        raise LeftOutError("no object is left")
    if len(kept) > settings.max_objects:
        raise LeftOutError("more than max_objects")


def read(source: Path, frame: Frame) -> Image.Image:
    return resized(read_picture(source, frame.annotated), frame.record)


def draw(image: CocoImage, frame: Frame, kept: list[Kept]) -> Image.Image:
    shapes = [
        (k.instance.object.desc, drawn_outlines(k.annotation, k.instance.object, frame))
        for k in kept
    ]
    return rendered(frame.record, shapes, image.paths[0])


def record_of(
    image: CocoImage,
    picture: str,
    frame: Frame,
    kept: list[Kept],
    settings: CocoConfig,
    is_drawn: bool = False,
) -> Record:
    """The record, with objects in writing order; its metadata identify the source annotations."""
    objects = reading_order(k.instance.object for k in kept)
    metadata = image.metadata | {"annotated_size_px": list(frame.annotated)}
    if is_drawn:
        metadata[RENDERED] = True
    if settings.order is ObjectOrder.random:
        rng = np.random.default_rng([settings.seed, zlib.crc32(repr(image.id).encode())])
        metadata[ORDER] = rng.permutation(len(objects)).tolist()
    return Record(picture, *frame.record, in_order(objects, metadata.get(ORDER)), metadata)
