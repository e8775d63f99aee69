"""Tables of the Stage-2 probe: the two rankings, and the metrics of each candidate."""

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
    code,
    column,
    empty,
    name,
    numbers,
    small,
    words,
)

# Where the temperature of the decode comes from, in words.
ORIGINS = {
    "setting": "probe.temperature",
    "token table": "fitted on one half of the validation images",
    "no token table": "not fitted: there is no token table",
}


# What AP can make of the scores, in words.
SCORES = {
    "ranked": "rank the objects",
    "constant": "all the same: AP is of one operating point",
    "none": "none: no AP",
}


def ranking_table(finding: ProbeFinding | None, source: str = "probe") -> Table | None:
    """The candidates ranked by Stage-1, and by their rollouts, which `source` names."""
    if finding is None:
        return None
    # A variant that is not eligible or was not probed is in only one of the rankings.
    rankings = {
        "Stage-1": finding.stage1_ranking,
        f"{source}, by {PROBE_METRICS[finding.signal].label}": finding.probe_ranking,
    }
    n_places = max(len(variants) for variants in rankings.values())
    table = Table("rankings", words("ranking", *map(str, range(1, n_places + 1))))
    for label, variants in rankings.items():
        cells = [cell(name(variant)) for variant in variants]
        cells += [empty()] * (n_places - len(variants))
        table.add(cell(label), *cells)
    return table


def metric_table(probe: StudyProbe, primary: str | None) -> Table | None:
    """Each candidate's metrics, and the Stage-1 primary's lead over each other candidate.

    Leads are shown where there are intervals. None where nothing was probed.
    """
    if not probe.candidates:
        return None
    of_primary = [] if primary is None else leads(probe.differences, primary)
    by_metric: dict[str, dict[str, Lead]] = {}
    for lead in of_primary:
        by_metric.setdefault(lead.metric, {})[lead.second] = lead
    rivals = [variant for variant in probe.means if variant != primary] if by_metric else []

    caption = "Metrics of the probe of each candidate"
    if probe.handed_over is not None:
        caption = "Metrics of the rollouts handed over for each candidate"
    if by_metric:
        caption += (
            ", and the Stage-1 primary's lead over each other one with its 95 % interval "
            "(positive: better)"
        )
    columns = words("metric")
    columns += [column(name(variant), numeric=True) for variant in probe.means]
    columns += [column(("over ", name(rival)), numeric=True) for rival in rivals]
    table = Table("probe-metrics", columns, caption=caption)
    for metric in PROBE_METRICS.values():
        if any(metric.name in values for values in probe.means.values()):
            over = by_metric.get(metric.name, {})
            table.add(
                cell(metric_heading(metric)),
                *metric_cells(probe.means, metric),
                *[lead_cell(over.get(rival)) for rival in rivals],
            )
    return table


def handed_over_table(probe: StudyProbe) -> Table | None:
    """The files of rollouts that were handed over; None where there are none."""
    if probe.handed_over is None:
        return None
    caption = "Rollouts that were handed over, and what is known of them"
    columns = [*words("run", "file", "format"), *numbers("step", "images", "not shared")]
    columns += [*numbers("objects not taken"), *words("scores", "sha256")]
    table = Table("handed-over", columns, caption=caption)
    for file in probe.handed_over.files:
        table.add(
            cell(name(file.run)),
            cell(code(file.path)),
            cell(file.format),
            cell(str(file.step)) if file.step is not None else cell("not known"),
            cell(str(file.images)),
            cell(str(file.left_out)),
            cell(str(sum(file.dropped.values()))),
            cell(SCORES[file.scores]),
            cell(code(file.sha256[:12])),
        )
    return table


def fine_tune_table(probe: StudyProbe) -> Table | None:
    """What the fine-tune changed in each candidate's rollouts; None without such an interval."""
    if not probe.fine_tune_effects:
        return None
    caption = "Rollouts of each candidate before and after the fine-tune, with the 95 % interval"
    columns = [*words("candidate", "metric"), *numbers("start", "end", "change")]
    table = Table("fine-tune", columns, caption=caption)
    for effect in probe.fine_tune_effects:
        change = effect.change
        interval = f"[{number(change.low, '+.3f')}, {number(change.high, '+.3f')}]"
        table.add(
            cell(name(effect.variant)),
            cell(PROBE_METRICS[effect.metric].label),
            cell(number(effect.before, ".3f")),
            cell(number(effect.after, ".3f")),
            cell(number(change.difference, "+.3f"), small(interval)),
        )
    return table


def temperatures(probe: StudyProbe, none_to_fit: bool = False) -> list[str]:
    """At which temperature each candidate's coordinates were decoded, and where it comes from.

    none_to_fit: no validation image was left to fit the temperature of the token tables.
    """
    lines = []
    for candidate in probe.candidates:
        if candidate.temperature is not None and candidate.temperature_source is not None:
            value, origin = candidate.temperature, ORIGINS[candidate.temperature_source]
            if candidate.temperature_source == "token table" and none_to_fit:
                origin = "not fitted: no validation image was left for it"
            lines.append(
                f"{candidate.variant} s{candidate.seed}: T = {number(value, '.3g')} ({origin})"
            )
    return lines


def metric_heading(metric: ProbeMetric) -> Line:
    """The name of a metric, with an arrow to the better side where one side is better."""
    if metric.lower_is_better is None:
        return metric.label
    return f"{metric.label} ", direction(metric.lower_is_better)


def metric_cells(means: Mapping[str, Mapping[str, float]], metric: ProbeMetric) -> list[Cell]:
    """A metric of each candidate; the best are bold, several where they are equal."""
    held = {variant: v[metric.name] for variant, v in means.items() if metric.name in v}
    leading: list[str] = []
    if metric.lower_is_better is not None and len(held) > 1:
        leading = best(held, metric.lower_is_better)
    cells = []
    for variant in means:
        tone = "best" if variant in leading else ""
        cells.append(cell(number(held.get(variant), ".3f"), tone=tone))
    return cells


def lead_cell(lead: Lead | None) -> Cell:
    """A lead on a metric, with its interval below it."""
    if lead is None:
        return empty()
    interval = f"[{number(lead.low, '+.3f')}, {number(lead.high, '+.3f')}]"
    return cell(number(lead.value, "+.3f"), small(interval))
