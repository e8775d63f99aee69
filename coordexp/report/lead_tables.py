"""Tables of leads: at the decision step, over the declared window, and as claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.analysis.comparison.leads import Lead, LeadWindow
from coordexp.analysis.comparison.power import detectable_effect, signal_to_noise
from coordexp.analysis.recommendation.findings import Claim, Elimination, Ineligible
from coordexp.analysis.recommendation.statements import label
from coordexp.metrics import METRICS, Metric
from coordexp.report.labels import with_unit
from coordexp.report.numbers import (
    lead_interval,
    lead_value,
    metric_value,
    number,
    percent,
    probability,
)
from coordexp.report.result_tables import judged, metric_columns
from coordexp.report.table import (
    Cell,
    Table,
    bold,
    cell,
    column,
    empty,
    name,
    numbers,
    small,
    soft,
    words,
)

# The text for each method says which sources of variance its intervals include.
METHODS = {
    "paired bootstrap over images": (
        "a paired bootstrap over the validation images, which sees what other images would "
        "change, and not what another seed would"
    ),
    "crossed seeds x images": (
        "a t interval with seeds and images crossed (Satterthwaite's degrees of freedom), which "
        "sees what other seeds and other images would change"
    ),
}


@dataclass(frozen=True)
class Leads:
    """All leads that the page shows, and properties of the whole set.

    methods: the methods of their intervals.
    n_window: the largest number of steps of the declared window that a pair shares.
    lacks_interval: whether some lead has no interval.
    knows_seed_share: whether the share of variance due to seeds is known for some lead.
    """

    all: list[Lead]
    methods: list[str]
    n_window: int
    lacks_interval: bool
    knows_seed_share: bool

    @property
    def metrics(self) -> list[Metric]:
        names = {lead.metric for lead in self.all}
        return [metric for metric in METRICS.values() if metric.name in names]

    @property
    def by_pair(self) -> dict[tuple[str, str], dict[str, Lead]]:
        """The leads by metric, for each pair of variants."""
        pairs: dict[tuple[str, str], dict[str, Lead]] = {}
        for lead in self.all:
            pairs.setdefault((lead.first, lead.second), {})[lead.metric] = lead
        return pairs


def summed_up(leads: Sequence[Lead]) -> Leads:
    """The leads, with the properties of the whole set."""
    methods: dict[str, None] = {}  # as an ordered set
    n_window = 0
    lacks_interval = knows_seed_share = False
    for lead in leads:
        if lead.method is None:
            lacks_interval = True
        else:
            methods[lead.method] = None
        if lead.seed_share is not None:
            knows_seed_share = True
        if lead.window:
            n_window = max(n_window, lead.window.n)
    return Leads(list(leads), list(methods), n_window, lacks_interval, knows_seed_share)


def lead_table(
    leads: Leads, ineligible: Sequence[Ineligible], claims: Sequence[Claim] = ()
) -> Table:
    """Each pair's lead in each metric with its interval and verdict; adjusted p-values of claims.

    If no lead has an interval, its place shows the lead over the declared window.
    """
    columns = words("lead of")
    for metric in leads.metrics:
        margin = next(lead.margin for lead in leads.all if lead.metric == metric.name)
        bar = "no margin" if margin is None else f"margin {number(margin, 'g')}"
        columns.append(column(with_unit(metric), small(bar), numeric=True))
    table = Table("leads", columns)
    p_holm = {(claim.variant, claim.metric): claim.p_holm for claim in claims}
    for (first, second), by_metric in leads.by_pair.items():
        cells = []
        for metric in leads.metrics:
            p = p_holm.get((second, metric.name))
            cells.append(lead_cell(by_metric.get(metric.name), metric.unit, leads, p))
        rival = judged(second, ineligible)
        table.add(cell(name(first), ("over ", *rival)), *cells)
    return table


def lead_cell(lead: Lead | None, unit: str, leads: Leads, p_holm: float | None = None) -> Cell:
    """A lead; under it its interval and verdict, or its course over the declared window."""
    if lead is None:
        return empty()
    value = bold(lead_value(lead.value, unit))
    if lead.low is not None and lead.high is not None:
        likelihood = f"P {probability(lead.win_probability)}"
        if lead.seed_share is not None:
            likelihood += f" · seeds {percent(lead.seed_share)} %"
        interval = lead_interval(lead.low, lead.high, unit)
        verdict = lead.verdict or ""
        if p_holm is not None:
            verdict += f" · Holm p {number(p_holm, '.2g')}"
        return cell(value, interval, small(verdict), small(likelihood), small(power(lead, unit)))
    if lead.window and leads.n_window > 1 and not leads.methods:
        median, spread, ahead = window_lines(lead.window, unit)
        return cell(value, soft(median), soft(spread), small(ahead))
    return cell(value)


def power(lead: Lead, unit: str) -> str:
    """The lead over its standard error, and the smallest lead such a study detects."""
    assert lead.estimate is not None
    ratio = number(signal_to_noise(lead.estimate), ".1f")
    smallest = metric_value(detectable_effect(lead.estimate), unit)
    return f"SNR {ratio} · detects {smallest}"


def elimination_table(eliminated: Sequence[Elimination]) -> Table | None:
    """The variants that dropped out, in order: on what, behind whom, and by how much."""
    if not eliminated:
        return None
    columns = words("drops out", "behind", "on", "evidence")
    columns += numbers("lead", "95 % interval", "margin")
    columns.append(column(("p ", small("Holm, of the margin")), numeric=True))
    table = Table("eliminations", columns)
    for entry in eliminated:
        of_log = METRICS.get(entry.metric)
        unit, told = (of_log.unit, with_unit(of_log)) if of_log else ("", label(entry.metric))
        interval = empty()
        if entry.low is not None and entry.high is not None:
            interval = cell(lead_interval(entry.low, entry.high, unit))
        table.add(
            cell(name(entry.variant)),
            cell(name(entry.by)),
            cell(told),
            cell(entry.tier),
            cell(lead_value(entry.lead, unit)),
            interval,
            cell(number(entry.margin, "g")),
            cell(number(entry.p_holm, ".2g")),
        )
    return table


def window_lines(window: LeadWindow, unit: str) -> tuple[str, str, str]:
    """A lead over the declared window: median, [smallest, largest], and how often it is one."""
    return (
        lead_value(window.median, unit),
        lead_interval(window.min, window.max, unit),
        f"ahead at {percent(window.share_ahead)} %",
    )


def window_table(leads: Leads) -> Table | None:
    """The leads over the declared window, where the table of leads holds intervals instead."""
    if not leads.methods or leads.n_window < 2:
        return None
    caption = (
        f"Leads over the {leads.n_window} evaluations of the declared window: median, "
        "[smallest, largest], and at how many of them the first is ahead"
    )
    columns = [*words("lead of"), *metric_columns(leads.metrics, arrow=False)]
    table = Table("window", columns, caption=caption)
    for (first, second), by_metric in leads.by_pair.items():
        cells = []
        for metric in leads.metrics:
            lead = by_metric.get(metric.name)
            if lead and lead.window:
                median, spread, ahead = window_lines(lead.window, metric.unit)
                cells.append(cell(median, spread, small(ahead)))
            else:
                cells.append(empty())
        table.add(cell(name(first), ("over ", name(second))), *cells)
    return table


def claim_table(claims: Sequence[Claim]) -> Table | None:
    """The confirmatory family, with adjusted p-values where there are any."""
    if not claims:
        return None
    adjusted = any(claim.p_holm is not None for claim in claims)
    columns = [*words("over", "metric"), *numbers("lead", "95 % interval")]
    if adjusted:
        columns.append(column(("p ", small("Holm")), numeric=True))
    columns += words("verdict")
    table = Table("claims", columns)
    for claim in claims:
        metric = METRICS[claim.metric]
        cells = [
            cell(name(claim.variant)),
            cell(with_unit(metric)),
            cell(lead_value(claim.lead, metric.unit)),
            cell(lead_interval(claim.low, claim.high, metric.unit)),
        ]
        if adjusted:
            cells.append(cell(number(claim.p_holm, ".2g")))
        table.add(*cells, cell(claim.verdict))
    return table
