"""The figure of the Stage-2 probe: the losses of the geometric fine-tune over its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from coordexp.analysis.comparison.probe_findings import Candidate
from coordexp.report import plot
from coordexp.report.plot import Box, Figure, Panel
from coordexp.report.scales import step_scale, y_scale
from coordexp.report.style import Look, looks_of
from coordexp.report.svg import group

TERMS = {
    "geo_loss": "L1 + (1 − GIoU)",
    "l1": "L1",
    "giou_loss": "1 − GIoU",
    "text_ce": "text cross-entropy, nats",
}
KEY_WIDTH = 250  # px
CAPTION = "The fine-tune of each candidate: same images, same order."


def probe_curves(candidates: Sequence[Candidate], looks: Mapping[str, Look]) -> Figure | None:
    """The losses on the training images of each step, one line for each candidate and seed.

    None where nothing was fine-tuned.
    """
    tuned = [candidate for candidate in candidates if candidate.curve]
    if not tuned:
        return None
    shown = looks_of({candidate.variant for candidate in tuned}, looks)
    height, boxes = plot.small_multiples(len(TERMS) + 1, key_rows=len(shown) + 1)
    parts = []
    for (term, title), box in zip(TERMS.items(), boxes, strict=False):
        parts.append(group({"panel": term}, term_panel(tuned, term, title, box, looks)))
    notes = ["each step's own training images"]
    parts += plot.key(boxes[-1].left, boxes[-1].top, KEY_WIDTH, shown, notes)
    label = "The geometric fine-tune of each candidate over its steps"
    return plot.figure("probe", label, CAPTION, height, parts)


def term_panel(
    candidates: Sequence[Candidate], term: str, title: str, box: Box, looks: Mapping[str, Look]
) -> Iterator[str]:
    """One loss of every candidate."""
    curves = []
    steps: list[int] = []
    values: list[float] = []
    for candidate in candidates:
        curve = {int(row["step"]): row[term] for row in candidate.curve}
        curves.append(curve)
        steps += curve.keys()
        values += curve.values()
    y = y_scale(values, box.top, box.bottom, from_zero=False)
    panel = Panel(step_scale(steps, box.left, box.right), y)
    yield from plot.heading(panel, title, "lower is better")
    yield from plot.grid_y(panel)
    yield from plot.steps_axis(panel, None)
    for candidate, curve in zip(candidates, curves, strict=True):
        name = f"{candidate.variant} s{candidate.seed}"
        yield from plot.curve(panel, curve, looks[candidate.variant], name)
