"""Record files of the user's own: checked as `coordexp validate` does, then copied with their
pictures.

Coordinates that are written as tokens become pixels. Everything is checked before anything is
written.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.config.schema import RecordsConfig
from coordexp.coords import to_pixels
from coordexp.data.coco.conversion import keep_pictures_of, picture_digests
from coordexp.data.coco.leaks import Pictures, leaks
from coordexp.data.coco.shared_pictures import Link, fingerprints, kinds_of_copies, links
from coordexp.data.coco.splits import drawn_for_val, kept_together
from coordexp.data.parallel import n_cores
from coordexp.data.picture_paths import paths_of
from coordexp.data.records import (
    KINDS,
    ORDER,
    RENDERED,
    Record,
    geometry_problem,
    parse_record,
    write_records,
)
from coordexp.data.validate import as_numbers, validate
from coordexp.errors import UserError
from coordexp.storage.digest_store import known_sha256
from coordexp.storage.files import naming_full_disk
from coordexp.storage.identity import Sources


@dataclass(frozen=True)
class Entry:
    """A record that names its picture below `images/<split>/`, and the picture's file."""

    record: Record
    source: Path


@dataclass(frozen=True)
class RecordPlan:
    sources: Sources
    splits: dict[str, list[Entry]]
    counts: dict[str, Counter[str]]  # of each split: what was left out
    noted: dict[str, Counter[str]]  # of each split: copies of pictures, by a sentence


def planned_records(settings: RecordsConfig) -> RecordPlan:
    """Check and read the record files.

    Raises:
        UserError: `coordexp validate` would find a problem, a picture or a copy of one is in both
            splits, or a split has no record.
    """
    kinds: dict[Path, str] = {}  # of pictures whose copies the split keeps together
    if settings.records:
        path = Path(settings.records)
        entries, counted = checked_entries(path)
        copies = [] if settings.allow_shared_pictures else copies_in(path, entries, settings)
        kinds = {entries[i].source: kind for i, kind in kinds_of_copies(copies).items()}
        train, val = divided(path, entries, copies, settings)
        found = {"train": (path, train, counted), "val": (path, val, Counter[str]())}
    else:
        found = {}
        for split, name in (("train", settings.train_records), ("val", settings.val_records)):
            path = Path(name or "")
            found[split] = (path, *checked_entries(path))
    refuse_shared(found["val"][0], found["train"][1], found["val"][1])
    at_most = {"train": settings.train_images, "val": settings.val_images}
    splits, counts, noted, pictures = {}, {}, {}, {}
    for split, (path, entries, counted) in found.items():
        sample = sampled(entries, at_most[split], settings.seed)
        counted["record not drawn"] += len(entries) - len(sample)
        splits[split] = [below_images(entry, split, path) for entry in sample]
        refuse_one_name(path, splits[split])
        counts[split] = counted
        noted[split] = Counter(kept_together(kinds[e.source]) for e in sample if e.source in kinds)
        pictures[split] = pictures_of(path, sample)
    if settings.allow_shared_pictures or not settings.records:
        allowed = settings.allow_shared_pictures
        noted["val"] += leaks(pictures["train"], pictures["val"], allowed, n_cores(), settings.name)
    sources = sources_of([path for path, _, _ in found.values()], splits)
    return RecordPlan(sources, splits, counts, noted)


def sources_of(paths: Iterable[Path], splits: Mapping[str, list[Entry]]) -> Sources:
    """The digests of the record files, and of the pictures of each split."""
    pictures = {
        entry.record.image.removeprefix("images/"): entry.source
        for entries in splits.values()
        for entry in entries
    }
    return Sources({str(path): known_sha256(path) for path in paths}, picture_digests(pictures))


def pictures_of(path: Path, entries: list[Entry]) -> Pictures:
    """The pictures of records. Drawn ones have no file here: shapes of one kind look alike."""
    names = [entry.record.image for entry in entries]
    is_drawn = [bool(entry.record.metadata.get(RENDERED)) for entry in entries]
    files = [None if d else e.source for d, e in zip(is_drawn, entries, strict=True)]
    return Pictures(path, names, files)


def copies_in(path: Path, entries: list[Entry], settings: RecordsConfig) -> list[Link]:
    """The pairs of records whose pictures are one, by their files or names."""
    pictures = pictures_of(path, entries)
    prints = fingerprints(pictures.files, n_cores(), settings.name)
    return list(links(pictures.names, prints))


def checked_entries(path: Path) -> tuple[list[Entry], Counter[str]]:
    """The records of a file without a problem; objects and records that were dropped are counted.

    Raises:
        UserError: with the first of the problems, and their number.
    """
    counts: Counter[str] = Counter()
    problems = validate(path, counts, workers=n_cores())
    if first := next(problems, None):
        n_more = sum(1 for _ in problems)
        more = f" (and {n_more} more: `coordexp validate {path}` prints them)" if n_more else ""
        raise UserError(f"{first}{more}")
    dropped: Counter[str] = Counter()
    entries = []
    for where, line in lines_of(path):
        record = in_pixels(line, where, dropped)
        if record is not None:
            entries.append(Entry(record, path.parent / record.image))
    if not entries:
        raise UserError(f"{path}: no record is left")
    return entries, dropped


def lines_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, "rb") as file:
        for n, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{n}", json.loads(line)


def in_pixels(raw: dict[str, Any], where: str, dropped: Counter[str]) -> Record | None:
    """The record of a valid line, with pixels in place of coordinate tokens.

    A box of rounded bins may have no area; training refuses it, so it is dropped. None where no
    object is left of several.
    """
    kept = []
    for i, entry in enumerate(raw["objects"]):
        kind = next(kind for kind in KINDS if kind in entry)
        if isinstance(entry[kind][0], str):
            entry[kind] = to_pixels(as_numbers(entry[kind]), raw["width"], raw["height"])
            if geometry_problem(kind, entry[kind]):
                dropped["object without area, in rounded bins"] += 1
                continue
        kept.append(i)
    if raw["objects"] and not kept:
        dropped["record of which no object is left"] += 1
        return None
    objects = [raw["objects"][i] for i in kept]
    metadata = dict(raw.get("metadata", {}))
    if ORDER in metadata:
        metadata[ORDER] = [kept.index(i) for i in metadata[ORDER] if i in kept]
    line = json.dumps(raw | {"objects": objects, "metadata": metadata})
    return parse_record(line, where)


def divided(
    path: Path, entries: list[Entry], copies: list[Link], settings: RecordsConfig
) -> tuple[list[Entry], list[Entry]]:
    """Train and val, from one file; the choice is a function of the seed."""
    n = len(entries)
    in_val = drawn_for_val(path, n, copies, settings.val_fraction, settings.seed)
    train = [entry for i, entry in enumerate(entries) if i not in in_val]
    return train, [entries[i] for i in sorted(in_val)]


def sampled(entries: list[Entry], at_most: int | None, seed: int) -> list[Entry]:
    chosen = np.random.default_rng([seed, 1]).permutation(len(entries))[:at_most]
    return [entries[i] for i in sorted(chosen.tolist())]


def refuse_shared(val: Path, train_entries: list[Entry], val_entries: list[Entry]) -> None:
    in_train = {os.path.realpath(entry.source) for entry in train_entries}
    both = [entry for entry in val_entries if os.path.realpath(entry.source) in in_train]
    if both:
        problem = f"{len(both)} of its pictures are in train as well, such as {both[0].source}"
        raise UserError(f"{val}: {problem}: take them out of one")


def below_images(entry: Entry, split: str, path: Path) -> Entry:
    """The entry, its picture named as it is written: below `images/<split>/`."""
    names = paths_of(entry.record.image)
    if not names:
        raise UserError(f"{path}: the picture {entry.record.image!r} names no file")
    return replace(entry, record=replace(entry.record, image=f"images/{split}/{names[0]}"))


def refuse_one_name(path: Path, entries: list[Entry]) -> None:
    """Refuse `../a/1.jpg` beside `a/1.jpg`: both would be written as a/1.jpg."""
    names = Counter(entry.record.image for entry in entries)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: {count} pictures would become {name}: rename all but one")


def copy_records(plan: RecordPlan, out: Path) -> None:
    """Write `out`/{train,val}.jsonl and copy the pictures; those that are there are kept."""
    keep_pictures_of(plan.sources, out)
    for split, entries in plan.splits.items():
        for entry in entries:
            copy_picture(entry.source, out / entry.record.image)
        write_records(out / f"{split}.jsonl", (entry.record for entry in entries))


def copy_picture(source: Path, path: Path) -> None:
    if path.exists() and path.stat().st_size == source.stat().st_size:
        return
    temporary = path.with_name(f".{os.getpid()}.tmp")
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, temporary)
        os.replace(temporary, path)
