"""Counts over annotated instances: each is kept as an object, or dropped for exactly one reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.coords import COORD_TOKENS, write_coordjson
from coordexp.data.coco.instances import Instance
from coordexp.data.records import RENDERED, Record
from coordexp.storage.files import read_json

SIDE_EDGES_BINS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MAX_FAULTS = 100  # pictures that are named one by one
MANY_LEFT_OUT = 0.05  # of the pictures: a share from which on the card tells it
BY_END = "found under the last parts of their name"


@dataclass
class ConversionStats:
    """Counts of one split. The counts of single pictures add up to it."""

    annotated: int = 0  # instances
    dropped: Counter[str] = field(default_factory=Counter)  # instances, by reason
    # Instances that were kept: box, polygon, clipped, polygon simplified.
    objects: Counter[str] = field(default_factory=Counter)
    boxes_instead: Counter[str] = field(default_factory=Counter)  # of polygons, by reason
    # Pictures that were kept; how many of these were resized or rendered. Pictures to convert that
    # were found under the last parts of their name (image_files.py).
    pictures: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)  # pictures, by reason
    faults: list[str] = field(default_factory=list)  # which pictures could not be used, and why
    per_picture: Counter[int] = field(default_factory=Counter)  # objects
    sides_bins: Counter[int] = field(default_factory=Counter)  # of boxes, both sides
    # Lengths of the CoordJSON of each picture: characters outside coordinate tokens, and
    # coordinate tokens.
    characters: Counter[int] = field(default_factory=Counter)
    coord_tokens: Counter[int] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    # What to know about pictures and boxes, by sentence: not errors, nothing is dropped for it.
    noted: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.objects["box"] + self.objects["polygon"]

    def add(self, other: ConversionStats) -> None:
        for f in fields(self):
            counter = getattr(self, f.name)
            if isinstance(counter, Counter):
                counter.update(getattr(other, f.name))
        self.annotated += other.annotated
        self.faults += other.faults[: MAX_FAULTS - len(self.faults)]

    def leave_out(self, reason: str, n_instances: int, fault: str = "") -> None:
        """Count a picture as left out, and its remaining instances as dropped for that reason."""
        self.left_out[reason] += 1
        self.drop(reason, n_instances)
        if fault and len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)

    def drop(self, reason: str, n_instances: int = 1) -> None:
        if n_instances:
            self.dropped[reason] += n_instances

    def keep(self, record: Record, instances: Iterable[Instance], resized: bool) -> None:
        """Count a picture that became a record, and the instances that became its objects."""
        self.pictures["kept"] += 1
        self.pictures["resized"] += int(resized)
        self.pictures["rendered"] += int(RENDERED in record.metadata)
        for instance in instances:
            kind = "polygon" if instance.object.kind == "poly" else "box"
            self.objects[kind] += 1
            self.objects["clipped"] += int(instance.clipped)
            self.objects["polygon simplified"] += int(instance.simplified)
            if instance.box_because:
                self.boxes_instead[instance.box_because] += 1
            self.names[instance.object.desc] += 1
        self._measure(record)

    def _measure(self, record: Record) -> None:
        """Count lengths and box sizes of a record as CoordJSON."""
        objects = record.coord_objects()
        n_tokens = 0
        token_characters = 0
        for obj in objects:
            n_tokens += len(obj.bins)
            token_characters += sum(len(COORD_TOKENS[k]) for k in obj.bins)
            xs, ys = obj.bins[0::2], obj.bins[1::2]
            self.sides_bins[max(xs) - min(xs)] += 1
            self.sides_bins[max(ys) - min(ys)] += 1
        self.per_picture[len(objects)] += 1
        self.coord_tokens[n_tokens] += 1
        self.characters[len(write_coordjson(objects)) - token_characters] += 1

    def report(self) -> dict[str, Any]:
        """The content of conversion.json for this split.

        Kept and dropped instances must add up to the annotated ones.
        """
        accounted_for = self.kept + sum(self.dropped.values())
        assert accounted_for == self.annotated, "an instance is not accounted for"
        return {
            "instances": {
                "annotated": self.annotated,
                "kept": self.kept,
                "dropped": _by_count(self.dropped),
            },
            "objects": {
                **dict(self.objects),
                "box instead of polygon": _by_count(self.boxes_instead),
            },
            "pictures": {
                **dict(self.pictures),
                "left out": _by_count(self.left_out),
                "faults": self.faults,
            },
            "noted": _by_count(self.noted),
            "names": len(self.names),
            "objects_per_picture": _spread(self.per_picture),
            "box_sides_bins": _histogram(self.sides_bins),
            "coordjson_coordinate_tokens": _spread(self.coord_tokens),
            "coordjson_other_characters": _spread(self.characters),
        }


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())


def _histogram(sides_bins: Counter[int]) -> dict[str, int]:
    """Number of box sides per interval, by a label such as `5 to 9`."""
    histogram = {}
    for low, high in pairwise(SIDE_EDGES_BINS):
        label = str(low) if high == low + 1 else f"{low} to {high - 1}"
        histogram[label] = sum(sides_bins[side] for side in range(low, high))
    return histogram


def _spread(counts: Counter[int]) -> dict[str, float]:
    """Mean, quantiles and maximum of the values counted; zeros where there are none."""
    values = np.repeat(list(counts), list(counts.values())) if counts else np.zeros(1)
    p50, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99], method="inverted_cdf").tolist()
    return {
        "mean": round(float(values.mean()), 2),
        "median": p50,
        "p90": p90,
        "p99": p99,
        "max": values.max().item(),
    }


def summary(split: str, stats: ConversionStats) -> str:
    """A few lines for the terminal."""
    report = stats.report()
    lines = [
        f"{split}: {stats.pictures['kept']} pictures, "
        f"{stats.kept} objects of {stats.annotated} annotated instances",
        f"  objects: {listed(report['objects'])}",
        f"  instances dropped: {listed(report['instances']['dropped'])}",
        f"  pictures left out: {listed(report['pictures']['left out'])}",
    ]
    if stats.pictures[BY_END]:
        lines.append(f"  pictures {BY_END}: {stats.pictures[BY_END]}")
    if stats.boxes_instead:
        lines.append(f"  boxes instead of polygons: {listed(stats.boxes_instead)}")
    lines += [f"  {n} {what}" for what, n in stats.noted.items()]
    lines += [f"  {fault}" for fault in stats.faults]
    for key, what in (
        ("objects_per_picture", "objects"),
        ("coordjson_coordinate_tokens", "coordinate tokens"),
    ):
        spread = report[key]
        lines.append(
            f"  {what} a picture: median {spread['median']}, p99 {spread['p99']}, "
            f"at most {spread['max']}"
        )
    return "\n".join(lines)


def conversion_notes(directory: Path) -> list[str]:
    """What conversion.json of a data directory notes, and whether many pictures were left out;
    empty for data that were not converted.

    Raises:
        UserError: the file is not valid JSON.
    """
    path = directory / "conversion.json"
    if not path.exists():
        return []
    notes = []
    for split, report in read_json(path).items():
        notes += [f"{split}: {n} {what}" for what, n in report.get("noted", {}).items()]
        pictures = report.get("pictures", {})
        left_out = pictures.get("left out", {})
        n_left_out = sum(left_out.values())
        total = n_left_out + pictures.get("kept", 0)
        if n_left_out > MANY_LEFT_OUT * total:
            notes.append(f"{split}: {n_left_out} of {total} pictures left out: {listed(left_out)}")
    return notes


def listed(counts: Mapping[str, Any]) -> str:
    """`3 box, 1 clipped`: the counts that are not 0, or `none`."""
    parts = [f"{n} {reason}" for reason, n in counts.items() if isinstance(n, int) and n]
    return ", ".join(parts) or "none"
