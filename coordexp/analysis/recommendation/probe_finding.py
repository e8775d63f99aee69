"""What the Stage-2 probe says of the Stage-1 ranking, and what published rollouts do.

Both rankings are always shown. Rollouts with a result per image decide before the metrics (see
`elimination.py`). Aggregates without per-image data never decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.elimination import (
    beaten,
    beyond_margin,
    rollout_criterion,
    separation,
)
from coordexp.analysis.recommendation.findings import (
    Assertion,
    Grade,
    Outcome,
    ProbeFinding,
    Statement,
)
from coordexp.analysis.recommendation.handed_over import CHECKPOINTS_NOT_KNOWN, evaluation
from coordexp.analysis.recommendation.rule import Values
from coordexp.analysis.recommendation.statements import equals, label, of_lead
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, PROBE_METRICS

SAYS: dict[Outcome, str] = {
    "confirmed": "confirms",
    "overturned": "overturns",
    "unresolved": "leaves open",
}


def probe_leads(probe: StudyProbe, variant: str, name: str) -> dict[str, Lead]:
    """The lead of a variant over each other probed one on a metric of the probe, by rival."""
    found = leads(probe.differences, variant)
    return {lead.second: lead for lead in found if lead.metric == name}


def probed(variants: Iterable[str], probe: StudyProbe, rule: RuleConfig) -> list[str]:
    """Those of these variants whose rollouts have the figure that decides."""
    return [v for v in variants if rule.probe.signal in probe.means.get(v, {})]


def parse_failures(probe: StudyProbe, bar: float) -> dict[str, str]:
    """Variants whose rollouts parse too rarely, with the reason."""
    found = {}
    for variant, values in probe.means.items():
        rate = values.get("parse_rate")  # unknown of some rollouts that were handed over
        if rate is not None and rate < bar:
            found[variant] = f"parse rate {rate:.2f} of its rollouts is below the bar {bar:g}"
    return found


def probe_finding(
    stage1: str | None, rows: Values, probe: StudyProbe, rule: RuleConfig
) -> tuple[ProbeFinding, list[Statement]] | None:
    """What the probe says of the Stage-1 ranking, and its sentences with what they assert.

    `stage1` is the choice of the metrics alone. None where nothing was probed.
    """
    name = rule.probe.signal
    measured = {v: values[name] for v, values in probe.means.items() if name in values}
    if stage1 is None or not any(measured.values()):
        return None  # where every candidate has 0, nothing is ranked
    over = {}
    for rival, lead in probe_leads(probe, stage1, name).items():
        if rival in rows:
            over[rival] = lead
    outcome, statement = ranking_outcome(stage1, over, rows, probe, rule)
    finding = ProbeFinding(
        outcome=outcome,
        sentence=statement.text,
        smoothness=None,
        stage1_ranking=stage1_ranking(stage1, rows, rule),
        probe_ranking=best_first(measured, name),
        signal=name,
        confounds=[],
    )
    return finding, [statement]


def signed(value: float) -> str:
    """A difference of F1 to three decimals; never -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def names_decide(probe: StudyProbe, signal: str) -> list[Statement]:
    """A line about leads on a class-aware metric that vanish or turn once the names are ignored.

    Args:
        signal: the metric by which the rule compares candidates. If it is not class-agnostic,
            nothing is said.
    """
    with_names = signal.replace("_agnostic", "")
    if with_names == signal:
        return []
    of_pair: dict[tuple[str, str], dict[str, Lead]] = {}
    for lead in leads(probe.differences, None):
        of_pair.setdefault((lead.first, lead.second), {})[lead.metric] = lead
    parts: list[str] = []
    assertions: list[Assertion] = []
    for (first, second), found in of_pair.items():
        if with_names not in found or signal not in found:
            continue
        aware, agnostic = found[with_names], found[signal]
        if aware.ahead and not agnostic.ahead:
            pair, with_, without = f"{first} over {second}", aware.value, agnostic.value
        elif aware.behind and not agnostic.behind:
            pair, with_, without = f"{second} over {first}", -aware.value, -agnostic.value
        else:
            continue
        parts.append(f"{pair} {signed(with_)} ({signed(without)})")
        ahead, _, behind = pair.partition(" over ")
        assertions += [
            equals("lead", with_, ahead, behind, with_names),
            Assertion("lead low", ahead, behind, with_names, ">", 0.0),
            equals("lead", without, ahead, behind, signal),
            Assertion("lead low", ahead, behind, signal, "<=", 0.0),
        ]
    if not parts:
        return []
    text = (
        f"names, not coordinates: leads on {PROBE_METRICS[with_names].label} that are unresolved "
        f"or turned once names are ignored (in brackets): {'; '.join(parts)}"
    )
    return [Statement("caveats", text, assertions)]


def best_first(values: Mapping[str, float], name: str) -> list[str]:
    """Variants by a metric of the probe."""
    sign = 1 if PROBE_METRICS[name].lower_is_better else -1
    return sorted(values, key=lambda variant: sign * values[variant])


def ranking_outcome(
    stage1: str, over: Mapping[str, Lead], rows: Values, probe: StudyProbe, rule: RuleConfig
) -> tuple[Outcome, Statement]:
    """Whether the rollouts confirm the choice of Stage-1, and the numbers.

    Overturned: it drops out on them, as the decision has it. Confirmed: it is ahead of every
    eligible rival beyond the margin. Intervals include the declared SD between seeds, as in the
    decision.
    """
    start = evaluation(probe) + " {} the Stage-1 ranking: "
    if not over:
        text = f"no eligible rival of {stage1} was rolled out on the same images"
        if stage1 not in probe.means:
            text = f"{stage1}, the choice of the metrics, was not probed"
            if probe.handed_over is not None:
                text = f"no rollouts of {stage1}, the choice of the metrics, were handed over"
        return "unresolved", Statement(
            "probe",
            start.format(SAYS["unresolved"]) + text,
            [equals("rivals probed", 0.0, stage1)],
        )
    signal, margin = rule.probe.signal, rule.probe.margin
    rollouts = rollout_criterion(rule, rows, probe)
    shown, assertions = [], []
    for rival, lead in over.items():
        told = signed(lead.value)
        assertions += of_lead(lead)[:1]
        if lead.estimate:
            test = separation(lead, margin, rule.probe.seed_sd)
            told += f" [{signed(test.low)}, {signed(test.high)}]"
            key = (stage1, rival, signal)
            assertions += [
                equals("separation low", test.low, *key),
                equals("separation high", test.high, *key),
            ]
        shown.append(f"{told} over {rival}")
    text = f"{label(signal)} of {stage1} {', '.join(shown)}; margin {margin:g}"
    outcome: Outcome = "unresolved"
    if rollouts is None:
        pass  # every figure is 0
    elif stage1 in {elimination.variant for elimination in beaten(rollouts, list(rows))}:
        outcome = "overturned"
    elif any(beyond_margin(rollouts, [(rival, stage1)]) for rival in over):
        # The intervals shown are those of single pairs: one may lie beyond the margin.
        text += "; after Holm's correction the best of them is not ahead beyond it"
    elif len(beyond_margin(rollouts, [(stage1, rival) for rival in over])) == len(over):
        outcome = "confirmed"
    assertions += [
        equals("probe outcome", outcome, stage1),
        equals("margin", margin, metric=signal),
    ]
    return outcome, Statement("probe", start.format(SAYS[outcome]) + text, assertions)


def smoothness_outcome(
    primary: str | None, secondary: str | None, probe: StudyProbe, rule: RuleConfig
) -> Statement | None:
    """The outcome of the smoothness hypothesis; None if it cannot be judged.

    The hypothesis: the smoother secondary has a lower geometric loss after the fine-tune than the
    primary, beyond the margin.
    """
    if primary is None or secondary is None:
        return None
    name = "geo_loss_after"
    lead = probe_leads(probe, secondary, name).get(primary)
    if lead is None or lead.estimate is None:
        return None
    outcome: Outcome = "unresolved"
    if lead.estimate.too_few_images:
        pass
    elif lead.estimate.low > rule.probe.geo_margin:
        outcome = "confirmed"
    elif lead.estimate.high <= rule.probe.geo_margin:
        outcome = "overturned"  # the whole interval lies within the margin or below it
    text = (
        f"smoothness hypothesis {outcome}: after the fine-tune the geometric loss of {secondary} "
        f"minus that of {primary} is {of_rival(lead, 4)}; margin {rule.probe.geo_margin:g}"
    )
    assertions = [
        *of_lead(lead),
        equals("margin", rule.probe.geo_margin, metric=name),
        equals("smoothness", outcome, secondary, primary),
    ]
    start = "geo_loss_before"
    starts = [probe.means[variant].get(start) for variant in (secondary, primary)]
    if starts[0] is not None and starts[1] is not None:
        text += f" (at the start {starts[0]:.4f} against {starts[1]:.4f})"
        assertions.append(equals("probe value", starts[0], secondary, metric=start))
        assertions.append(equals("probe value", starts[1], primary, metric=start))
    return Statement("probe", text, assertions)


def of_rival(lead: Lead, decimals: int) -> str:
    """A lead seen from the rival (signs turned) with its interval: `+0.123 [+0.045, +0.201]`."""
    assert lead.estimate
    seen = (-lead.value, -lead.estimate.high, -lead.estimate.low)
    value, low, high = (round(number, decimals) + 0.0 for number in seen)  # no -0.0
    return f"{value:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def stage1_ranking(primary: str, rows: Values, rule: RuleConfig) -> list[str]:
    """The primary, then the others by the rule's first metric."""
    first = METRICS[rule.metrics[0]]
    sign = 1 if first.lower_is_better else -1
    others = [variant for variant in rows if variant != primary]
    return [primary, *sorted(others, key=lambda v: sign * rows[v].get(first.name, 0.0))]


def probe_grade(finding: ProbeFinding | None, probe: StudyProbe, name: str) -> Grade:
    """The grade of Stage-2 fitness and its one reason."""
    if finding is None:
        return Grade("descriptive", why_no_finding(probe, name))
    if finding.confounds:
        return Grade("descriptive", f"{finding.outcome}: {'; '.join(finding.confounds)}")
    stage1, *rivals = finding.stage1_ranking
    if stage1 not in probe.means:
        return Grade("descriptive", finding.sentence)
    # The seeds that leads are paired on, which may be fewer than each variant was probed with.
    seeds_of = Counter(candidate.variant for candidate in probe.candidates)
    over = probe_leads(probe, stage1, name)
    paired = [over[rival].estimate for rival in rivals if rival in over]
    shared = [estimate.n_seeds for estimate in paired if estimate and estimate.n_seeds]
    n_seeds = min([*shared, *seeds_of.values()])
    if n_seeds >= CROSSED_FROM and finding.outcome != "unresolved":
        reason = f"{finding.sentence}; {n_seeds} seeds x images"
        if probe.handed_over is not None:
            # No file says which weights wrote it: a swapped checkpoint would go unseen.
            return Grade("provisional", f"{reason}; {CHECKPOINTS_NOT_KNOWN}")
        return Grade("supported", reason)
    plural = "s" if n_seeds > 1 else ""
    return Grade("provisional", f"{finding.sentence}; {n_seeds} seed{plural}")


def why_no_finding(probe: StudyProbe, name: str) -> str:
    if not probe.candidates and probe.probed_otherwise:
        return (
            f"{', '.join(probe.probed_otherwise)} probed with settings that differ, so nothing is "
            "compared: probe all runs with one recipe"
        )
    if not probe.candidates:
        return "no Stage-2 probe has been run: rollouts may rank the variants otherwise"
    if any(candidate.status == "complete" for candidate in probe.candidates):
        if not any(values.get(name) for values in probe.means.values()):
            of_whom = "probed candidate" if probe.handed_over is None else "candidate with rollouts"
            return f"{PROBE_METRICS[name].label} is 0 for every {of_whom}: it ranks nothing"
        return f"no variant is primary: {evaluation(probe)} has no ranking to confirm"
    return "no probe came to its end"
