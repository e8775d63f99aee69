"""The gallery: validation images with the true boxes and the boxes of each probed candidate."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from coordexp.analysis.comparison.probe_findings import Candidate
from coordexp.coords import CoordObject, parse_coordjson, to_pixels
from coordexp.data.records import Record, read_records
from coordexp.detection.matching import THRESHOLDS
from coordexp.detection.rollouts import read_rollouts
from coordexp.detection.scores import score_rollouts
from coordexp.report import svg
from coordexp.report.plot import Figure
from coordexp.report.style import Look
from coordexp.report.svg import INK, element, fitted, group, path, text

CELL, GAP = 150.0, 12.0  # px: side of an image, room between columns
TOP, CAPTION_ROOM = 26.0, 34.0  # px: over the first row, under each image
N_EACH = 3  # images with the lowest F1, and as many with the highest
AT_50 = THRESHOLDS.index(0.5)
TRUTH = Look(INK, marker=(), dashes=None)
HALO = "#fefefe"  # under each box, so that it shows on dark images
CAPTION = (
    "Validation pictures: the truth, and what each candidate wrote, the three worst and the three "
    "best by F1@.5 averaged over the candidates. The number is the F1@.5 of that picture."
)


@dataclass(frozen=True)
class Column:
    """The answers of one candidate for each image, and their F1@.5."""

    variant: str
    texts: dict[int, str]
    f1: dict[int, float]


@dataclass(frozen=True)
class Validation:
    """The records of the validation set, and the directory from which they name their images."""

    records: Sequence[Record]
    root: Path

    def image_file(self, index: int) -> Path:
        return self.root / self.records[index].image


def gallery(candidates: Sequence[Candidate], looks: Mapping[str, Look]) -> Figure | None:
    """A row for each chosen image, a column for each variant (its first probed seed).

    None without a probe, where candidates were probed on different records, or where the records
    are no longer there.

    Raises:
        UserError: the records, an image that they name, or the rollouts are damaged or missing.
    """
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.variant, candidate)
    records_files = {candidate.records for candidate in first.values()}
    if len(records_files) != 1:
        return None
    records_file = Path(records_files.pop())
    if not records_file.exists():
        return None
    validation = Validation(read_records(records_file), records_file.parent)
    columns = [
        column_of(first[variant], validation.records) for variant in looks if variant in first
    ]
    chosen = choose_images(columns, validation.records)
    if not chosen:
        return None
    width = (len(columns) + 1) * (CELL + GAP)
    height = TOP + len(chosen) * (CELL + CAPTION_ROOM)
    parts = [text(0, 16, "truth", bold=True)]
    for i, column in enumerate(columns, start=1):
        parts.append(fitted(i * (CELL + GAP), 16, column.variant, CELL, bold=True))
    for row, index in enumerate(chosen):
        drawn = image_row(index, TOP + row * (CELL + CAPTION_ROOM), validation, columns, looks)
        parts.append(group({"panel": "image", "image": index}, drawn))
    label = "Validation pictures with true and predicted boxes"
    return Figure("gallery", svg.document(width, height, label, parts), CAPTION)


def column_of(candidate: Candidate, records: Sequence[Record]) -> Column:
    """A candidate's rollouts before the fine-tune, scored."""
    files = sorted(Path(candidate.directory).glob("before/rollouts-*.jsonl"))
    rollouts = read_rollouts(files)
    scores = score_rollouts(rollouts, records)
    n_boxes = scores.columns["n_predicted"] + scores.columns["n_truth"]  # [images]
    matched = scores.columns["tp_aware"][:, AT_50]  # [images]
    f1 = {}
    for image, hits, total in zip(
        scores.images.tolist(), matched.tolist(), n_boxes.tolist(), strict=True
    ):
        # An image without true and predicted objects counts as correct.
        f1[image] = 2 * hits / total if total else 1.0
    texts = {rollout.image_id: rollout.text for rollout in rollouts}
    return Column(candidate.variant, texts, f1)


def choose_images(columns: Sequence[Column], records: Sequence[Record]) -> list[int]:
    """The images with the lowest and the highest F1, averaged over the candidates.

    Images without objects are left out.
    """
    shared = set(columns[0].f1).intersection(*(column.f1 for column in columns))
    with_objects = [index for index in shared if records[index].objects]
    ranked = sorted(with_objects, key=lambda index: (sum(c.f1[index] for c in columns), index))
    return list(dict.fromkeys(ranked[:N_EACH] + ranked[-N_EACH:]))


def image_row(
    index: int,
    top: float,
    validation: Validation,
    columns: Sequence[Column],
    looks: Mapping[str, Look],
) -> Iterator[str]:
    """One image with the true boxes, then with those of each candidate; names under each."""
    record = validation.records[index]
    href = thumbnail(validation.image_file(index))
    below = top + CELL + 14
    truth = record.coord_objects()
    yield from image_cell(0, top, href, record, "truth", truth, TRUTH)
    data = {"mark": "names", "of": "truth"}
    yield fitted(0, below, names_of(truth), CELL, size=11, data=data)
    for i, column in enumerate(columns, start=1):
        x, look = i * (CELL + GAP), looks[column.variant]
        written = parse_coordjson(column.texts[index]).objects
        yield from image_cell(x, top, href, record, column.variant, written, look)
        words = f"{column.f1[index]:.2f} {names_of(written) or 'nothing that parses'}"
        data = {"mark": "names", "of": column.variant}
        yield fitted(x, below, words, CELL, size=11, data=data)


def names_of(objects: Sequence[CoordObject]) -> str:
    return ", ".join(obj.desc for obj in objects)


def image_cell(
    x: float,
    y: float,
    href: str,
    record: Record,
    of: str,
    objects: Sequence[CoordObject],
    look: Look,
) -> Iterator[str]:
    """The image fitted into a square, and boxes on it; a polygon is shown by its bounding box."""
    scale = CELL / max(record.width, record.height)
    width, height = record.width * scale, record.height * scale
    yield element("image", href=href, x=x, y=y, width=width, height=height)
    for obj in objects:
        pixels = to_pixels(obj.bins, record.width, record.height)
        xs, ys = pixels[0::2], pixels[1::2]
        left, right = x + min(xs) * scale, x + max(xs) * scale
        upper, lower = y + min(ys) * scale, y + max(ys) * scale
        corners = [(left, upper), (right, upper), (right, lower), (left, lower), (left, upper)]
        yield path(corners, HALO, width=3.2, opacity=0.75)
        data = {"mark": "box", "of": of}
        yield path(corners, look.colour, width=1.8, dashes=look.dashes, data=data)


def thumbnail(file: Path) -> str:
    """An image as a data URI, at twice the size at which it is shown, for dense screens."""
    with Image.open(file) as opened:
        small = opened.convert("RGB")
    small.thumbnail((2 * int(CELL), 2 * int(CELL)))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
