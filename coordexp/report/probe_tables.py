"""Tables of the Stage-2 probe: the two rankings, and the signals of each candidate."""

from __future__ import annotations

from collections.abc import Mapping

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.findings import ProbeFinding
from coordexp.metrics import PROBE_METRICS, ProbeMetric, best
from coordexp.report.numbers import number
from coordexp.report.result_tables import direction
from coordexp.report.table import (
    Cell,
    Line,
    Table,
    cell,
    column,
    empty,
    name,
    small,
    words,
)


def ranking_table(finding: ProbeFinding | None) -> Table | None:
    """The candidates ranked by Stage-1, and ranked by the probe's signal."""
    if finding is None:
        return None
    # A variant that is not eligible or was not probed is in only one of the rankings.
    rankings = {
        "Stage-1": finding.stage1_ranking,
        f"probe, by {PROBE_METRICS[finding.signal].label}": finding.probe_ranking,
    }
    n_places = max(len(variants) for variants in rankings.values())
    table = Table("rankings", words("ranking", *map(str, range(1, n_places + 1))))
    for label, variants in rankings.items():
        cells = [cell(name(variant)) for variant in variants]
        cells += [empty()] * (n_places - len(variants))
        table.add(cell(label), *cells)
    return table


def signal_table(probe: StudyProbe, primary: str | None) -> Table | None:
    """Each candidate's signals, and the Stage-1 primary's lead over each other candidate.

    Leads are shown where there are intervals. None where nothing was probed.
    """
    if not probe.candidates:
        return None
    of_primary = [] if primary is None else leads(probe.differences, primary)
    by_signal: dict[str, dict[str, Lead]] = {}
    for lead in of_primary:
        by_signal.setdefault(lead.metric, {})[lead.second] = lead
    rivals = [variant for variant in probe.means if variant != primary] if by_signal else []

    caption = "Signals of each candidate"
    if by_signal:
        caption += (
            ", and the Stage-1 primary's lead over each other one with its 95 % interval "
            "(positive: better)"
        )
    columns = words("signal")
    columns += [column(name(variant), numeric=True) for variant in probe.means]
    columns += [column(("over ", name(rival)), numeric=True) for rival in rivals]
    table = Table("signals", columns, caption=caption)
    for signal in PROBE_METRICS.values():
        if any(signal.name in values for values in probe.means.values()):
            over = by_signal.get(signal.name, {})
            table.add(
                cell(signal_heading(signal)),
                *signal_cells(probe.means, signal),
                *[lead_cell(over.get(rival)) for rival in rivals],
            )
    return table


def signal_heading(signal: ProbeMetric) -> Line:
    """The name of a signal, with an arrow to the better side where one side is better."""
    if signal.lower_is_better is None:
        return signal.label
    return f"{signal.label} ", direction(signal.lower_is_better)


def signal_cells(means: Mapping[str, Mapping[str, float]], signal: ProbeMetric) -> list[Cell]:
    """A signal of each candidate; the best are bold, several where they are equal."""
    held = {variant: v[signal.name] for variant, v in means.items() if signal.name in v}
    leading: list[str] = []
    if signal.lower_is_better is not None and len(held) > 1:
        leading = best(held, signal.lower_is_better)
    cells = []
    for variant in means:
        tone = "best" if variant in leading else ""
        cells.append(cell(number(held.get(variant), ".3f"), tone=tone))
    return cells


def lead_cell(lead: Lead | None) -> Cell:
    """A lead on a signal, with its interval below it."""
    if lead is None:
        return empty()
    interval = f"[{number(lead.low, '+.3f')}, {number(lead.high, '+.3f')}]"
    return cell(number(lead.value, "+.3f"), small(interval))
