"""The figures of a report, each a function from the study's numbers to SVG.

A figure whose numbers are not there (logs without token tables, no run that finished) is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordexp.analysis.comparison.leads import Lead
from coordexp.report.curves import lead_curves, metric_curves
from coordexp.report.effects import effects
from coordexp.report.log_figures import losses, ratios
from coordexp.report.probes import probe_curves
from coordexp.report.ranks import ranks
from coordexp.report.slices import slices
from coordexp.report.style import Look
from coordexp.study.inputs import RunData


def draw(
    study: dict[str, Any],
    runs: Sequence[RunData],
    primary: str | None,
    leads: Sequence[Lead],
    look: dict[str, Look],
) -> dict[str, str]:
    """Every figure that the numbers allow: name -> SVG."""
    comparison = study["comparison"]
    figures = {
        "effects": effects(comparison, leads, study["recommendation"]["confirmatory"], look),
        "curves": metric_curves(comparison, look),
        "ranks": ranks(comparison, look),
        "leads": lead_curves(comparison, primary, look),
        "ratios": ratios(study["audit"]["runs"], look),
        "slices": slices(comparison["slices"], comparison["decision_step"], look),
        "probe": probe_curves(study["probe"], look),
        "gallery": pictures(study["probe"], look),
        "losses": losses(runs, comparison["decision_step"], look),
    }
    return {name: figure for name, figure in figures.items() if figure}


def pictures(probe: dict[str, Any], look: dict[str, Look]) -> str | None:
    """The gallery; what reads pictures and matches boxes is imported only where something was probed."""
    if not probe["candidates"]:
        return None
    from coordexp.report.gallery import gallery

    return gallery(probe, look)
