"""The comparison: exact common steps, snapshots, plateaus and paired differences.

Only metrics that may be compared between variants enter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coordexp.analysis.comparison.blind import blind_of_tables
from coordexp.analysis.comparison.curves import (
    curve_rows,
    mean_curves,
    snapshot,
    temperature_rows,
    winners,
)
from coordexp.analysis.comparison.effects import Curve, bands, differences, read_tables
from coordexp.analysis.comparison.findings import (
    Comparison,
    LoggedTemperature,
    Snapshot,
    Stability,
    Window,
)
from coordexp.analysis.comparison.judged import judged_images
from coordexp.analysis.comparison.plateau import drifts, plateaus
from coordexp.analysis.comparison.resolution_limit import resolution_limit, vision_facts
from coordexp.analysis.comparison.slices import slices
from coordexp.analysis.comparison.stability import rank_stability
from coordexp.config.schema import RuleConfig
from coordexp.errors import UserError
from coordexp.metrics import METRICS, TEMPERATURE_PREFIX, metric_values
from coordexp.study.inputs import RunData, by_variant, candidates
from coordexp.study.study import Vision


def compare(runs: Sequence[RunData], rule: RuleConfig, vision: Vision | None = None) -> Comparison:
    """The comparison of a study under its rule.

    Args:
        vision: of the validation images, used where no manifest has them.

    Raises:
        UserError: the runs that finished share no eval step, or the rule's decision step is not
            one of the shared ones.
    """
    finished = [run for run in runs if not run.diverged and run.log.evals]
    groups = by_variant(finished)
    controls = list(dict.fromkeys(run.variant for run in runs if run.control))
    temperature, names = rule.temperature, rule.metrics

    # Controls have no say in the steps that are compared, nor in what is best at them.
    steps = common_steps(candidates(finished))
    decision_step = decide_step(steps, rule.decision_step)
    window = window_steps(steps, decision_step, rule.window)

    # Curves at every temperature. Token tables are read at the rule's temperature only; there they
    # supply the metrics that a log lacks.
    tables = read_tables(finished, temperature)
    curves = {t: curve_rows(groups, t, {}) for t in TEMPERATURE_PREFIX if t != temperature}
    curves[temperature] = of_rule = curve_rows(groups, temperature, tables)
    decision = {t: snapshot(curves[t], decision_step) for t in TEMPERATURE_PREFIX}
    later = sorted({row.step for row in of_rule if steps and row.step > steps[-1]})
    snapshots: list[Snapshot] = []
    if decision_step:
        snapshots = [decision[temperature], *(snapshot(of_rule, step) for step in later)]

    means = {name: mean_curves(of_rule, name) for name in names}
    levels = plateaus(finished, temperature)
    level_drifts = drifts([level for level in levels if level.variant not in controls])
    sides_px, cell_px = vision_facts(candidates(finished), vision)
    ranked = {t: without(at, controls) for t, at in decision.items()}
    blind = blind_of_tables(groups, decision_step, temperature)
    return Comparison(
        temperature=temperature,
        common_steps=steps,
        decision_step=decision_step,
        window=Window(rule.window, window),
        snapshots=snapshots,
        temperatures={t: temperature_rows(groups, at, t) for t, at in decision.items()},
        winners={t: winners(at, names) for t, at in ranked.items()},
        curves=of_rule,
        bands=bands(groups, tables),
        stability=stability(means, steps, window, controls),
        plateau=levels,
        drift=level_drifts,
        differences=differences(groups, means, tables, decision_step, window, rule),
        slices=slices(groups, decision_step, temperature),
        resolution_limit=resolution_limit(
            ranked[temperature].rows if snapshots else [], level_drifts, sides_px, cell_px, blind
        ),
        blind=blind,
        controls=controls,
        logged_temperatures={
            run.name: LoggedTemperature(run.log.temperature, run.log.temperature_by)
            for run in finished
        },
        images=judged_images(groups, decision_step, temperature),
    )


def without(snapshot: Snapshot, controls: Sequence[str]) -> Snapshot:
    """The snapshot of the candidates alone."""
    return replace(snapshot, rows=[r for r in snapshot.rows if r.variant not in controls])


def common_steps(runs: Sequence[RunData]) -> list[int]:
    """The eval steps that all runs share exactly; nothing is interpolated.

    Raises:
        UserError: there are runs, and no such step.
    """
    if not runs:
        return []
    shared = set.intersection(*map(evaluated_steps, runs))
    if not shared:
        raise UserError(
            "the runs share no eval step: give them the same train.eval_steps "
            "(or --step, to `coordexp evaluate`)"
        )
    return sorted(shared)


def evaluated_steps(run: RunData) -> set[int]:
    """The eval steps of a run that have a metric, in the log or in a token table.

    All of them if none has: logs of other trainers have rows of rollouts between their evaluations.
    """
    tables = set(run.run.table_steps()) if run.run else set()
    with_metrics = {
        step
        for step, row in run.log.evals.items()
        if step in tables or any(metric_values(row, t) for t in TEMPERATURE_PREFIX)
    }
    return with_metrics or set(run.log.evals)


def decide_step(steps: Sequence[int], setting: str) -> int | None:
    """The decision step among the common steps; None where there are none.

    Raises:
        UserError: the setting is neither last_common nor one of the steps.
    """
    if not steps:
        return None
    if setting == "last_common":
        return steps[-1]
    if not setting.isdigit() or int(setting) not in steps:
        raise UserError(
            f"study.rule.decision_step={setting}: must be last_common or one of the common eval "
            f"steps {steps}"
        )
    return int(setting)


def window_steps(steps: Sequence[int], decision_step: int | None, share: float) -> list[int]:
    """The common steps in the last `share` of the way to the decision step."""
    if decision_step is None:
        return []
    start = (1 - share) * decision_step
    return [step for step in steps if start < step <= decision_step]


def stability(
    means: Mapping[str, Mapping[str, Curve]],
    steps: Sequence[int],
    window: Sequence[int],
    controls: Sequence[str] = (),
) -> dict[str, Stability]:
    """Rank stability of each metric: winners over all common steps, the rest within the window.

    A metric that some candidate lacks at a common step is left out.

    Args:
        means: the variants' mean curves, by metric and variant.
        controls: variants that are not ranked.
    """
    found = {}
    for name, of_all in means.items():
        curves = {variant: curve for variant, curve in of_all.items() if variant not in controls}
        complete = all(step in curve for curve in curves.values() for step in steps)
        if len(curves) < 2 or not window or not complete:
            continue
        lower = bool(METRICS[name].lower_is_better)
        overall = rank_stability(curves, steps, lower)
        inside = rank_stability(curves, window, lower)
        found[name] = replace(inside, winners=overall.winners, settled_from=overall.settled_from)
    return found
