"""The Stage-2 probe on the page: the geometric fine-tune's curves, and the table of signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.probes import signal_differences
from coordexp.metrics import SIGNALS
from coordexp.report import plot
from coordexp.report.plot import Panel
from coordexp.report.style import Look

TERMS = {
    "geo_loss": "L1 + (1 − GIoU)",
    "l1": "L1",
    "giou_loss": "1 − GIoU",
    "text_ce": "text cross-entropy, nats",
}


def probe_curves(probe: dict[str, Any], look: dict[str, Look]) -> str | None:
    """The fine-tune's losses on its training images over its steps, a line a candidate (each seed thin where several)."""
    drawn = [c for c in probe["candidates"] if c["curve"]]
    if not drawn:
        return None
    variants = [variant for variant in look if any(c["variant"] == variant for c in drawn)]
    height, boxes = plot.small_multiples(len(TERMS) + 1, key_rows=len(variants) + 1)

    def draw() -> Iterator[str]:
        for (term, title), (left, right, top, bottom) in zip(TERMS.items(), boxes, strict=False):
            values = [row[term] for c in drawn for row in c["curve"]]
            steps = [int(row["step"]) for c in drawn for row in c["curve"]]
            panel = Panel(
                plot.step_scale(steps, left, right),
                plot.y_scale(values, top, bottom, from_zero=False),
            )
            yield plot.heading(panel, title, "lower is better")
            yield from plot.grid_y(panel)
            yield from plot.steps_axis(panel, None)
            for c in drawn:
                curve = {int(row["step"]): row[term] for row in c["curve"]}
                yield from plot.curve(
                    panel, curve, look[c["variant"]], f"{c['variant']} s{c['seed']}"
                )
        left, _, top, _ = boxes[len(TERMS)]
        yield from plot.key(
            left, top, 250, {v: look[v] for v in variants}, ["each step's own training images"]
        )

    return plot.sheet(height, "The geometric fine-tune of each candidate over its steps", draw())


def signal_table(probe: dict[str, Any], primary: str | None) -> dict[str, Any]:
    """Signals by row, candidates by column, and the primary's lead over each other candidate where there is an interval."""
    means = probe["means"]
    shown = [s for s in SIGNALS.values() if any(s.name in values for values in means.values())]
    best = {}
    for s in shown:
        held = {v: values[s.name] for v, values in means.items() if s.name in values}
        if s.lower_is_better is not None and len(held) > 1:
            top = (min if s.lower_is_better else max)(held.values())
            best[s.name] = [v for v, value in held.items() if value == top]
    by_signal: dict[str, dict[str, Lead]] = {}
    for lead in leads(signal_differences(probe), primary) if primary else []:
        by_signal.setdefault(lead.metric, {})[lead.second] = lead
    return {
        "signals": shown,
        "best": best,
        "leads": by_signal,
        "variants": list(means),
        "rivals": [v for v in means if v != primary],
    }
