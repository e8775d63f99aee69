"""What became of every annotated instance: kept as an object, or dropped for one reason that is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np

from coordexp.coords import COORD_TOKENS, write_coordjson
from coordexp.data.coco.instances import Instance
from coordexp.data.records import RENDERED, Record

SIDE_EDGES_BINS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MAX_FAULTS = 100  # pictures named one by one


@dataclass
class ConversionStats:
    """Counts of one split; the counts of single pictures add up to it."""

    annotated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # instances, by reason
    objects: Counter[str] = field(
        default_factory=Counter
    )  # instances kept: box, polygon, clipped, polygon simplified
    boxes_instead: Counter[str] = field(default_factory=Counter)  # of polygons, by reason
    pictures: Counter[str] = field(
        default_factory=Counter
    )  # kept, and of these resized and rendered
    left_out: Counter[str] = field(default_factory=Counter)  # pictures, by reason
    faults: list[str] = field(default_factory=list)  # which pictures could not be used, and why
    per_picture: Counter[int] = field(default_factory=Counter)  # objects
    sides_bins: Counter[int] = field(default_factory=Counter)  # of boxes, both sides
    characters: Counter[int] = field(
        default_factory=Counter
    )  # of a picture's CoordJSON, its coordinate tokens left out
    coord_tokens: Counter[int] = field(default_factory=Counter)  # of a picture's CoordJSON
    names: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.objects["box"] + self.objects["polygon"]

    def add(self, other: ConversionStats) -> None:
        for f in fields(self):
            if isinstance(mine := getattr(self, f.name), Counter):
                mine.update(getattr(other, f.name))
        self.annotated += other.annotated
        self.faults += other.faults[: MAX_FAULTS - len(self.faults)]

    def leave_out(self, reason: str, n_instances: int, fault: str = "") -> None:
        """A picture, and with it those of its instances that were not dropped for a reason of their own."""
        self.left_out[reason] += 1
        self.drop(reason, n_instances)
        self.faults += [fault] if fault else []

    def drop(self, reason: str, n_instances: int = 1) -> None:
        if n_instances:
            self.dropped[reason] += n_instances

    def keep(self, record: Record, instances: Iterable[Instance], resized: bool) -> None:
        """A picture that became a record, with these instances."""
        self.pictures.update(
            {"kept": 1, "resized": int(resized), "rendered": int(RENDERED in record.metadata)}
        )
        for instance in instances:
            self.objects["polygon" if instance.object.kind == "poly" else "box"] += 1
            self.objects.update(
                {"clipped": int(instance.clipped), "polygon simplified": int(instance.simplified)}
            )
            if instance.box_because:
                self.boxes_instead[instance.box_because] += 1
            self.names[instance.object.desc] += 1
        self._measure(record)

    def _measure(self, record: Record) -> None:
        objects = record.coord_objects()
        n_tokens = sum(len(o.bins) for o in objects)
        self.per_picture[len(objects)] += 1
        self.coord_tokens[n_tokens] += 1
        token_characters = sum(len(COORD_TOKENS[k]) for o in objects for k in o.bins)
        self.characters[len(write_coordjson(objects)) - token_characters] += 1
        for o in objects:
            xs, ys = o.bins[0::2], o.bins[1::2]
            self.sides_bins.update((max(xs) - min(xs), max(ys) - min(ys)))

    def report(self) -> dict[str, Any]:
        """For conversion.json. Kept and dropped instances are all there are."""
        assert self.kept + sum(self.dropped.values()) == self.annotated, (
            "an instance is not accounted for"
        )
        edges = SIDE_EDGES_BINS
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
            "names": len(self.names),
            "objects_per_picture": _spread(self.per_picture),
            "box_sides_bins": {
                f"{low} to {high - 1}" if high - low > 1 else str(low): sum(
                    n for side, n in self.sides_bins.items() if low <= side < high
                )
                for low, high in pairwise(edges)
            },
            "coordjson_coordinate_tokens": _spread(self.coord_tokens),
            "coordjson_other_characters": _spread(self.characters),
        }


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())


def _spread(counts: Counter[int]) -> dict[str, float]:
    """Of the values counted."""
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
    told = stats.report()
    lines = [
        f"{split}: {stats.pictures['kept']} pictures, {stats.kept} objects of {stats.annotated} annotated instances",
        f"  objects: {listed(told['objects'])}",
        f"  instances dropped: {listed(told['instances']['dropped'])}",
        f"  pictures left out: {listed(told['pictures']['left out'])}",
    ]
    lines += (
        [f"  boxes instead of polygons: {listed(stats.boxes_instead)}"]
        if stats.boxes_instead
        else []
    )
    lines += [f"  {fault}" for fault in stats.faults]
    for key, what in (
        ("objects_per_picture", "objects"),
        ("coordjson_coordinate_tokens", "coordinate tokens"),
    ):
        spread = told[key]
        lines.append(
            f"  {what} a picture: median {spread['median']}, p99 {spread['p99']}, at most {spread['max']}"
        )
    return "\n".join(lines)


def listed(counts: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{n} {reason}" for reason, n in counts.items() if isinstance(n, int) and n)
        or "none"
    )
