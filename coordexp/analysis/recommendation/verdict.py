"""What the Stage-2 probe says of the Stage-1 ranking: confirmed, overturned or unresolved, and whether a role changes.

Both rankings are always shown. A role changes only where Stage-1 cannot tell two variants apart (or only by less than
the margin) and the probe's paired per-image interval can; aggregates without per-image data never change one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.pairs import CROSSED_FROM
from coordexp.analysis.comparison.probes import signal_differences
from coordexp.analysis.recommendation.rule import Values
from coordexp.config.schema import RuleConfig
from coordexp.metrics import METRICS, SIGNALS

# Stage-1 verdicts that leave the order open: within the margin, or not told apart.
UNTOLD = ("equivalent", "inconclusive", "better, but negligible", "worse, but negligible")
AGGREGATES_ONLY = "aggregates without per-image data: no interval"


def probe_leads(probe: Mapping[str, Any], variant: str, name: str) -> dict[str, Lead]:
    """The lead of a variant over each other probed one on a signal, by rival."""
    found = leads(signal_differences(probe), variant)
    return {lead.second: lead for lead in found if lead.metric == name}


def of_rival(lead: Lead, decimals: int) -> str:
    """The rival's side of a lead with its interval: `+0.123 [+0.045, +0.201]`."""
    assert lead.estimate
    value, low, high = -lead.value, -lead.estimate.high, -lead.estimate.low
    return f"{value:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def parse_failures(probe: Mapping[str, Any], bar: float) -> dict[str, str]:
    """Candidates whose rollouts parse too rarely, or whose probe diverged, with the reason."""
    found = {}
    for variant, values in probe["means"].items():
        if values["parse_rate"] < bar:
            found[variant] = (
                f"parse rate {values['parse_rate']:.2f} of its rollouts is below the bar {bar:g}"
            )
    return found


def reconsider(
    primary: str | None,
    rows: Values,
    family: Sequence[Mapping[str, Any]],
    probe: Mapping[str, Any],
    rule: RuleConfig,
) -> tuple[str, str] | None:
    """Another primary, and why; None where the probe changes nothing.

    `family` are the Stage-1 verdicts of the primary against each rival; a rival without one counts as inconclusive.
    """
    if primary is None or not rule.probe.may_change_roles:
        return None
    name = rule.probe.signal
    stage1 = {c["variant"]: c["verdict"] for c in family}
    behind = {
        rival: lead
        for rival, lead in probe_leads(probe, primary, name).items()
        if rival in rows and lead.behind and stage1.get(rival, "inconclusive") in UNTOLD
    }
    if not behind:
        return None
    best = min(behind, key=lambda rival: behind[rival].value)
    gap, verdict = of_rival(behind[best], 3), stage1.get(best, "inconclusive")
    return (
        best,
        f"put before {primary} by the probe: {SIGNALS[name].label} {gap} over images, where Stage-1 is {verdict}",
    )


def fitness_verdict(
    primary: str | None,
    secondary: str | None,
    rows: Values,
    probe: Mapping[str, Any],
    rule: RuleConfig,
) -> dict[str, Any] | None:
    """The verdict on the Stage-1 ranking (`primary` is its choice) and on the smoothness hypothesis; None without a probe."""
    if probe["aggregates"]:
        return aggregate_verdict(primary, rows, probe["aggregates"], rule)
    name = rule.probe.signal
    ranked = sorted(
        (v for v in probe["means"] if name in probe["means"][v]),
        key=lambda v: signed(name, probe["means"][v][name]),
    )
    if primary is None or not ranked:
        return None
    over = {
        rival: lead for rival, lead in probe_leads(probe, primary, name).items() if rival in rows
    }
    verdict, why = ranking_verdict(primary, over, rule)
    return {
        "verdict": verdict,
        "sentence": f"the probe {WORDS[verdict]} the Stage-1 ranking: {why}",
        "smoothness": smoothness_verdict(primary, secondary, probe),
        "stage1_ranking": stage1_ranking(primary, rows, rule),
        "probe_ranking": ranked,
        "signal": name,
        "confounds": [],
    }


WORDS = {"confirmed": "confirms", "overturned": "overturns", "unresolved": "leaves open"}


def signed(name: str, value: float) -> float:
    return value if SIGNALS[name].lower_is_better else -value


def ranking_verdict(primary: str, leads: Mapping[str, Lead], rule: RuleConfig) -> tuple[str, str]:
    label, margin = SIGNALS[rule.probe.signal].label, rule.probe.margin
    if not leads:
        return "unresolved", f"no rival of {primary} was probed on the same images"
    shown = ", ".join(
        f"{lead.value:+.3f} over {rival} ({replace(lead, margin=margin).verdict})"
        for rival, lead in leads.items()
    )
    if any(lead.behind for lead in leads.values()):
        return "overturned", f"{label} of {primary} {shown}"
    if all(lead.ahead for lead in leads.values()):
        return "confirmed", f"{label} of {primary} {shown}"
    return "unresolved", f"{label} of {primary} {shown}"


def smoothness_verdict(primary: str, secondary: str | None, probe: Mapping[str, Any]) -> str | None:
    """Whether the smoother secondary takes better to continuous losses: the geometric loss at the end."""
    if secondary is None:
        return None
    lead = probe_leads(probe, secondary, "geo_loss_after").get(primary)
    if lead is None:
        return None
    word = "confirmed" if lead.ahead else "overturned" if lead.behind else "unresolved"
    start, end = (probe["means"][v].get("geo_loss_before") for v in (primary, secondary))
    ends = f"after the fine-tune the geometric loss of {secondary} minus that of {primary} is {of_rival(lead, 4)}"
    return f"smoothness hypothesis {word}: {ends} (at the start {end:.4f} against {start:.4f})"


def stage1_ranking(primary: str, rows: Values, rule: RuleConfig) -> list[str]:
    """The primary, then the others by the rule's first metric."""
    first = METRICS[rule.metrics[0]]
    others = [v for v in rows if v != primary]
    return [
        primary,
        *sorted(
            others,
            key=lambda v: rows[v].get(first.name, 0.0) * (1 if first.lower_is_better else -1),
        ),
    ]


def aggregate_verdict(
    primary: str | None, rows: Values, aggregates: Mapping[str, Any], rule: RuleConfig
) -> dict[str, Any] | None:
    """Published aggregates as evidence: always unresolved, with what confounds them."""
    variants = aggregates["variants"]
    name = next((n for n in ("f1_50", "ap") if all(n in v for v in variants.values())), None)
    if primary is None or name is None:
        return None
    ranked = sorted(variants, key=lambda v: -variants[v][name])
    return {
        "verdict": "unresolved",
        "sentence": f"{aggregates['source']} leaves open the Stage-1 ranking: {SIGNALS[name].label} "
        + ", ".join(f"{v} {variants[v][name]:.3f}" for v in ranked)
        + f"; {AGGREGATES_ONLY}",
        "smoothness": None,
        "stage1_ranking": stage1_ranking(primary, rows, rule),
        "probe_ranking": ranked,
        "signal": name,
        "confounds": confounds(aggregates),
    }


def confounds(aggregates: Mapping[str, Any]) -> list[str]:
    """What keeps published aggregates from being evidence of the objective alone."""
    found = [AGGREGATES_ONLY]
    steps = {
        v: entry["final_step"]
        for v, entry in aggregates["variants"].items()
        if "final_step" in entry
    }
    if len(set(steps.values())) > 1:
        found.append(
            "different final steps: " + ", ".join(f"{v} {step}" for v, step in steps.items())
        )
    if "images" in aggregates:
        found.append(f"{aggregates['images']} images, resampling error unknown")
    return [*found, *aggregates.get("notes", [])]


def fitness_grade(verdict: Mapping[str, Any] | None, probe: Mapping[str, Any]) -> dict[str, str]:
    """The grade of Stage-2 fitness and its one reason."""
    if verdict is None and probe["candidates"]:
        ended = any(candidate["status"] == "complete" for candidate in probe["candidates"])
        reason = (
            "no variant is primary: the probe has no ranking to confirm"
            if ended
            else "no probe came to its end"
        )
        return {"grade": "descriptive", "reason": reason}
    if verdict is None:
        return {
            "grade": "descriptive",
            "reason": "no Stage-2 probe has been run: rollouts may rank the variants otherwise",
        }
    if verdict["confounds"]:
        return {
            "grade": "descriptive",
            "reason": f"{verdict['verdict']}: {'; '.join(verdict['confounds'])}",
        }
    n_seeds = min(
        sum(c["variant"] == v for c in probe["candidates"])
        for v in {c["variant"] for c in probe["candidates"]}
    )
    if n_seeds < CROSSED_FROM or verdict["verdict"] == "unresolved":
        return {
            "grade": "provisional",
            "reason": f"{verdict['sentence']}; {n_seeds} seed{'s' * (n_seeds > 1)}",
        }
    return {"grade": "supported", "reason": f"{verdict['sentence']}; {n_seeds} seeds x images"}
