"""Tables on the stability of the results: other steps, other temperatures, the plateau."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordexp.analysis.comparison.findings import (
    Comparison,
    Drift,
    Plateau,
    Stability,
    TemperatureRow,
)
from coordexp.analysis.comparison.plateau import FLAT_PERCENT_PER_100_STEPS
from coordexp.metrics import METRICS, Metric
from coordexp.report.labels import metrics_in, temperature_label, with_unit
from coordexp.report.numbers import NONE, metric_value, number, percent
from coordexp.report.result_tables import best_variants, metric_cells, metric_columns
from coordexp.report.table import (
    Cell,
    Part,
    Table,
    cell,
    column,
    empty,
    listed,
    name,
    numbers,
    small,
    words,
)


def stability_table(comparison: Comparison) -> Table | None:
    """Whether another stopping point would have chosen another variant.

    None where the declared window holds a single step.
    """
    steps = comparison.window.steps
    if len(steps) < 2 or not comparison.stability:
        return None
    caption = (
        "Would another stopping point have chosen another variant? Over the declared window, "
        f"{len(steps)} evaluations from step {steps[0]} to {steps[-1]}"
    )
    columns = [
        *words("metric", "best at the end"),
        column("without a break", small("from step"), numeric=True),
        column("best at", small("% of the window"), numeric=True),
        *words("with a block left out"),
    ]
    table = Table("stability", columns, caption=caption)
    for metric, stability in comparison.stability.items():
        last = stability.last_winner
        table.add(
            cell(METRICS[metric].label),
            cell(name(last) if last else "several are equal"),
            cell(number(stability.settled_from, "d")),
            cell(percent(stability.share)),
            cell(blocks_line(stability)),
        )
    return table


def blocks_line(stability: Stability) -> tuple[str | Part, ...]:
    """Whether leaving out one block of the window changes the best variant, and to which one."""
    winners = stability.leave_one_block_out
    if not winners:
        return (NONE,)
    others = [winner for winner in winners if winner != stability.last_winner]
    if not others:
        return ("the same, whichever",)
    changed = []
    for other in dict.fromkeys(others):
        changed.append(name(other) if other else Part("a tie"))
    return (f"{len(others)} of {len(winners)} change it, to ", *listed(changed))


def temperatures_read(comparison: Comparison) -> list[str]:
    """The temperatures at which the logs hold metrics that depend on the temperature."""
    tables = comparison.temperatures
    return [temperature for temperature, rows in tables.items() if dependent_metrics(rows)]


def dependent_metrics(rows: Iterable[TemperatureRow]) -> list[Metric]:
    """The metrics of these rows that depend on the temperature; accuracy does not."""
    return [metric for metric in metrics_in(rows) if metric.has_temperature]


def temperature_table(comparison: Comparison) -> Table | None:
    """The metrics at each temperature; None where the logs hold fewer than two."""
    temperatures = temperatures_read(comparison)
    if len(temperatures) < 2:
        return None
    metrics = dependent_metrics(comparison.temperatures[temperatures[0]])
    columns = [*words("variant"), *numbers("T"), *metric_columns(metrics)]
    table = Table("temperatures", columns)
    for temperature in temperatures:
        rows = comparison.temperatures[temperature]
        ranked = [row for row in rows if row.variant not in comparison.controls]
        best = best_variants({row.variant: row.values for row in ranked}, metrics)
        for row in rows:
            used = ", ".join(number(value, ".2f") for value in dict.fromkeys(row.used))
            table.add(
                cell(name(row.variant)),
                cell(used or NONE),
                *metric_cells(row.variant, row.values, metrics, best),
                group=f"at {temperature_label(comparison, temperature)}",
            )
    return table


def temperature_disagreements(comparison: Comparison) -> list[str]:
    """Sentences on metrics whose best variant at another temperature differs from the rule's."""
    reference = comparison.winners[comparison.temperature]
    sentences = []
    for temperature, winners in comparison.winners.items():
        for metric, winner in winners.items():
            if metric in reference and winner != reference[metric]:
                sentences.append(
                    f"{METRICS[metric].label}: {reference[metric] or 'nobody'} is best at "
                    f"{temperature_label(comparison, comparison.temperature)}, "
                    f"{winner or 'nobody'} at {temperature_label(comparison, temperature)}"
                )
    return sentences


def plateau_table(plateaus: Sequence[Plateau], n_seeds: int) -> Table | None:
    """A row for each variant: where its collapse ends, and its level and slope in each metric.

    None where no run has a plateau.
    """
    if not plateaus:
        return None
    by_variant: dict[str, list[Plateau]] = {}
    for plateau in plateaus:
        by_variant.setdefault(plateau.variant, []).append(plateau)
    present = {plateau.metric for plateau in plateaus}
    metrics = [metric for metric in METRICS.values() if metric.name in present]

    mean = ", mean over the seeds," if n_seeds > 1 else ""
    caption = (
        f"Level over the last third of each run{mean} and its slope, in % of the level per 100 "
        f"steps; flat means less than {FLAT_PERCENT_PER_100_STEPS:g}"
    )
    columns = [
        *words("variant"),
        column("collapse ends", small("step"), numeric=True),
        column("judged from", small("step"), numeric=True),
        *metric_columns(metrics, arrow=False),
    ]
    table = Table("plateau", columns, caption=caption)
    for variant, of_variant in by_variant.items():
        table.add(
            cell(name(variant)),
            cell(span([plateau.collapse_ends for plateau in of_variant], "d")),
            cell(span([plateau.from_step for plateau in of_variant], "d")),
            *[plateau_cell(of_variant, metric) for metric in metrics],
        )
    return table


def plateau_cell(plateaus: Sequence[Plateau], metric: Metric) -> Cell:
    """The level of one metric, mean over seeds; under it the slopes, and whether they are flat."""
    seeds = [plateau for plateau in plateaus if plateau.metric == metric.name]
    if not seeds:
        return empty()
    level = sum(seed.level for seed in seeds) / len(seeds)
    slopes = span([seed.slope_percent_per_100_steps for seed in seeds], "+.1f")
    n_flat = sum(seed.flat for seed in seeds)
    state = f"{n_flat} of {len(seeds)} flat"
    if n_flat == len(seeds):
        state = "flat"
    elif n_flat == 0:
        state = "moving"
    return cell(metric_value(level, metric.unit), small(f"{slopes}, {state}"))


def span(values: Sequence[float], form: str) -> str:
    """The smallest and the largest value, as `80 to 120`; one value if both print the same."""
    low, high = number(min(values), form), number(max(values), form)
    return low if low == high else f"{low} to {high}"


def drift_table(drifts: Sequence[Drift]) -> Table | None:
    """Whether the variants' plateaus differ by more than a single run varies on its plateau."""
    if not drifts:
        return None
    columns = [
        *words("metric"),
        column("largest difference", small("of the variants' levels"), numeric=True),
        column("largest spread", small("of one run"), numeric=True),
        *words("the variants"),
    ]
    table = Table("drift", columns)
    for drift in drifts:
        metric = METRICS[drift.metric]
        table.add(
            cell(with_unit(metric)),
            cell(metric_value(drift.between, metric.unit)),
            cell(metric_value(drift.within, metric.unit)),
            cell("differ by more than the drift" if drift.differ else "lie within the drift"),
        )
    return table
