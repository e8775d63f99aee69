"""Pictures of the validation set with the true boxes and what each candidate wrote, worst and best by F1."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from coordexp.coords import CoordObject, parse_coordjson, to_pixels
from coordexp.data.records import Record, read_records
from coordexp.detection.matching import THRESHOLDS
from coordexp.detection.scores import read_rollouts, score_rollouts
from coordexp.report.style import Look
from coordexp.report.svg import INK, element, fitted, path, picture, text

CELL, GAP, HEAD, FOOT = 150.0, 12.0, 26.0, 34.0  # px
N_EACH = 3  # worst ones, and best ones
AT = THRESHOLDS.index(0.5)


@dataclass(frozen=True)
class Candidate:
    """One column: what a candidate wrote for each image, and its F1 there."""

    variant: str
    texts: dict[int, str]
    f1: dict[int, float]


def gallery(probe: dict[str, Any], look: dict[str, Look]) -> str | None:
    """A row a picture, a column a candidate (its first probed seed); None without a probe or without the pictures."""
    first = {c["variant"]: c for c in reversed(probe["candidates"])}
    if not first:
        return None
    records_path = Path(next(iter(first.values()))["records"])
    if not records_path.exists() or len({c["records"] for c in first.values()}) > 1:
        return None
    records = read_records(records_path)
    candidates = [candidate(first[v], records) for v in look if v in first]
    chosen = choose(candidates, records, records_path.parent)
    if not chosen:
        return None
    width = (len(candidates) + 1) * (CELL + GAP)
    height = HEAD + len(chosen) * (CELL + FOOT)
    label = "Validation pictures with true and predicted boxes"
    return picture(
        width, height, label, rows(chosen, records, records_path.parent, candidates, look)
    )


def candidate(entry: dict[str, Any], records: Sequence[Record]) -> Candidate:
    found = read_rollouts(sorted(Path(entry["directory"]).glob("before/rollouts-*.jsonl")))
    scores = score_rollouts(found, records)
    total = scores.columns["n_predicted"] + scores.columns["n_truth"]
    hits = zip(
        scores.images.tolist(),
        scores.columns["tp_aware"][:, AT].tolist(),
        total.tolist(),
        strict=True,
    )
    f1 = {image: 2 * tp / n if n else 1.0 for image, tp, n in hits}
    return Candidate(entry["variant"], {row["image_id"]: row["text"] for row in found}, f1)


def choose(candidates: Sequence[Candidate], records: Sequence[Record], root: Path) -> list[int]:
    """The images with the lowest and the highest F1 averaged over the candidates, of those whose picture is there."""
    shared = set.intersection(*(set(c.f1) for c in candidates))
    there = [i for i in shared if records[i].objects and (root / records[i].image).exists()]
    ranked = sorted(there, key=lambda i: (sum(c.f1[i] for c in candidates), i))
    return list(dict.fromkeys(ranked[:N_EACH] + ranked[-N_EACH:]))


def rows(
    chosen: Sequence[int],
    records: Sequence[Record],
    root: Path,
    candidates: Sequence[Candidate],
    look: dict[str, Look],
) -> Iterator[str]:
    yield text(0, 16, "truth", bold=True)
    for column, c in enumerate(candidates, start=1):
        yield fitted(column * (CELL + GAP), 16, c.variant, CELL, bold=True)
    for row, i in enumerate(chosen):
        record, top = records[i], HEAD + row * (CELL + FOOT)
        href = thumbnail(root / record.image)
        truth = record.coord_objects()
        yield from cell(0, top, href, record, truth, INK, None)
        yield fitted(0, top + CELL + 14, ", ".join(o.desc for o in truth), CELL, size=11)
        for column, c in enumerate(candidates, start=1):
            x, parsed = column * (CELL + GAP), parse_coordjson(c.texts[i])
            yield from cell(
                x, top, href, record, parsed.objects, look[c.variant].colour, look[c.variant].dashes
            )
            names = ", ".join(o.desc for o in parsed.objects) or "nothing that parses"
            yield fitted(x, top + CELL + 14, f"{c.f1[i]:.2f} {names}", CELL, size=11)


def cell(
    x: float,
    y: float,
    href: str,
    record: Record,
    objects: Sequence[CoordObject],
    colour: str,
    dashes: str | None,
) -> Iterator[str]:
    """The picture fitted into a square, and boxes on it (of a polygon the box around it)."""
    scale = CELL / max(record.width, record.height)
    yield element(
        "image", href=href, x=x, y=y, width=record.width * scale, height=record.height * scale
    )
    for obj in objects:
        pixels = to_pixels(obj.bins, record.width, record.height)
        left, right = (x + edge(pixels[0::2]) * scale for edge in (min, max))
        upper, lower = (y + edge(pixels[1::2]) * scale for edge in (min, max))
        corners = [(left, upper), (right, upper), (right, lower), (left, lower), (left, upper)]
        yield path(corners, "#fefefe", width=3.2, opacity=0.75)
        yield path(corners, colour, width=1.8, dashes=dashes)


def thumbnail(file: Path) -> str:
    """A picture as a data URI, no larger than it is shown on a dense screen."""
    with Image.open(file) as opened:
        small = opened.convert("RGB")
    small.thumbnail((2 * int(CELL), 2 * int(CELL)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
