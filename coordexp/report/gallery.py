"""The gallery: validation pictures with the true objects, and those that each candidate wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.analysis.comparison.probe_findings import Candidate
from coordexp.coords import parse_coordjson
from coordexp.data.records import Record, read_records
from coordexp.detection.matching import THRESHOLDS
from coordexp.detection.rollouts import read_rollouts
from coordexp.detection.scores import score_rollouts
from coordexp.report import svg
from coordexp.report.plot import Cell, Figure
from coordexp.report.shots import SIDE, TRUTH, judged, legend, legend_width, picture_of, shot
from coordexp.report.style import Look, looks_of
from coordexp.report.svg import element, group

GAP, LEGEND = 14.0, 32.0  # px: between cells, height of the legend
N_EACH = 3  # images with the lowest F1, and as many with the highest
AT_50 = THRESHOLDS.index(0.5)
CAPTION = (
    "Left: the truth. Rollouts before the fine-tune; the number is the F1@.5 of that picture. "
    "A polygon is matched by its bounding box. Click a picture to enlarge it."
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


@dataclass(frozen=True)
class Drawn:
    """A cell: its size in px, and its content."""

    name: str
    label: str
    width: float
    height: float
    content: str


def gallery(candidates: Sequence[Candidate], looks: Mapping[str, Look]) -> Figure | None:
    """A row for each chosen image: the truth, then each variant (its first probed seed).

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
        column_of(first[variant], validation.records) for variant in looks_of(first.keys(), looks)
    ]
    chosen = choose_images(columns, validation.records)
    if not chosen:
        return None
    rows = [list(image_row(index, validation, columns)) for index in chosen]
    means = [sum(column.f1[index] for column in columns) / len(columns) for index in chosen]
    label = "Validation pictures with true and predicted objects"
    title = f"What they write, from the worst picture (mean F1@.5 {min(means):.2f}) to the best "
    title += f"({max(means):.2f})"
    cells = [[Cell(cell.name, svg_of(cell), cell.label) for cell in row] for row in rows]
    key = svg.document(legend_width(), 20, "found, false, missed", [legend()])
    cells.insert(0, [Cell("key", key, "How an outline is drawn: found, false, missed")])
    return Figure("gallery", sheet(label, rows), label, CAPTION, title, cells)


def svg_of(cell: Drawn) -> str:
    return svg.document(cell.width, cell.height, cell.label, [cell.content])


def sheet(label: str, rows: Sequence[Sequence[Drawn]]) -> str:
    """The whole gallery as one drawing."""
    parts = [legend()]
    y = LEGEND
    for row in rows:
        for i, cell in enumerate(row):
            placed = element(
                "svg", cell.content, x=i * (SIDE + GAP), y=y, width=cell.width, height=cell.height
            )
            parts.append(placed)
        y += max(cell.height for cell in row) + GAP
    width = max(len(row) for row in rows) * (SIDE + GAP)
    return svg.document(max(width, legend_width()), y, label, parts)


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


def image_row(index: int, validation: Validation, columns: Sequence[Column]) -> Iterator[Drawn]:
    """The cells of one image; its data stand in the first one, to which the others refer."""
    record = validation.records[index]
    identity = f"picture-{index}"
    picture = picture_of(validation.image_file(index), record, identity)
    truth = record.coord_objects()
    n_true = f"{len(truth)} object{'s' if len(truth) != 1 else ''}"
    label = f"Picture {index}: the truth, {n_true}"
    content = shot(record, picture, [(obj, TRUTH) for obj in truth], "truth", f"truth: {n_true}")
    yield cell_of(index, 0, "truth", label, content)
    again = element("use", href=f"#{identity}")
    for i, column in enumerate(columns, start=1):
        parsed = parse_coordjson(column.texts[index])
        written = parsed.objects
        f1 = f"{column.f1[index]:.2f}"
        words = f"{column.variant}: F1 {f1}"
        if not written:
            words += ", an empty list" if parsed.strict else ", nothing that parses"
        shown = judged(written, truth)
        label = f"Picture {index}: {column.variant}, F1@.5 {f1}"
        content = shot(record, again, shown, column.variant, words)
        yield cell_of(index, i, column.variant, label, content)


def cell_of(index: int, place: int, of: str, label: str, drawn: tuple[float, float, str]) -> Drawn:
    """A cell; its mark in the drawing names image and candidate."""
    width, height, content = drawn
    marked = group({"panel": "shot", "image": index, "of": of}, [content])
    return Drawn(f"{index}-{place}", label, width, height, marked)
