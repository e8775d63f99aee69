"""The titles of the figures: each says what is seen, as far as the numbers bear it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison, Slices
from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.metrics import METRICS
from coordexp.report.study_files import StudyFiles

MOST_NAMED = 3  # rivals that a title names


def titles(study: StudyFiles, leads: Sequence[Lead]) -> dict[str, str]:
    """The title of each figure by its name, also of figures that are not drawn."""
    comparison = study.comparison
    votes = study.preregistration.decision_rule.metrics
    return {
        "effects": effects_title(leads, study.primary, comparison),
        "sight": sight_title(study.probe),
        "course": course_title(comparison, votes),
        "slices": slices_title(comparison.slices),
        "ratios": ratios_title(study.audit),
        "curves": "All comparable metrics over the steps",
        "ranks": "Who is best at each evaluation",
        "leads": "The same leads at other steps",
        "losses": "Losses: each variant on its own axes, not comparable",
        "probe": "The geometric fine-tune",
    }


def effects_title(leads: Sequence[Lead], primary: str | None, comparison: Comparison) -> str:
    """How many leads over other variants are more than noise: their intervals do not hold 0."""
    controls = comparison.controls
    leads = [lead for lead in leads if not {lead.first, lead.second} & set(controls)]
    if not leads:
        return f"The metrics at step {comparison.decision_step}"
    if not any(lead.estimate for lead in leads):
        return without_intervals(leads, primary)
    if primary is None:
        resolved = sum(lead.ahead or lead.behind for lead in leads)
        return f"{resolved} of {len(leads)} differences between variants are more than noise"
    rivals: dict[str, list[Lead]] = {}
    for lead in leads:
        rivals.setdefault(lead.second, []).append(lead)
    told = {lead.second for lead in leads if lead.ahead or lead.behind}
    if len(told) == 1 and any(lead.ahead for lead in leads):
        return against_one(primary, rivals[told.pop()])
    if len(rivals) > MOST_NAMED:
        rivals = {"the others": list(leads)}
    leading = counted(rivals, [lead for lead in leads if lead.ahead])
    trailing = counted(rivals, [lead for lead in leads if lead.behind])
    if not leading and not trailing:
        return f"No lead of {primary} is more than noise"
    parts = [f"leads {leading}"] if leading else ["leads nobody beyond noise"]
    parts += [f"trails {trailing}"] if trailing else []
    return f"{primary} {', '.join(parts)}"


def against_one(primary: str, leads: Sequence[Lead]) -> str:
    """`A leads B on 4 of 5 metrics, trails it on 1`"""
    ahead, behind = sum(lead.ahead for lead in leads), sum(lead.behind for lead in leads)
    words = f"{primary} leads {leads[0].second} on {ahead} of {len(leads)} metrics"
    return f"{words}, trails it on {behind}" if behind else words


def counted(rivals: Mapping[str, Sequence[Lead]], chosen: Sequence[Lead]) -> str:
    """`mixed on 2 of 5 metrics and pure_ce on 3`, of those with any."""
    parts = []
    for rival, leads in rivals.items():
        n = sum(lead in chosen for lead in leads)
        if n:
            parts.append(f"{rival} on {n} of {len(leads)}")
    if not parts:
        return ""
    parts[0] += " comparisons" if "the others" in rivals else " metrics"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def without_intervals(leads: Sequence[Lead], primary: str | None) -> str:
    if primary is None:
        return f"{len(leads)} differences, none with an interval"
    n = sum(lead.value > 0 for lead in leads)
    return f"{primary} has the better value in {n} of {len(leads)} comparisons; no intervals"


def sight_title(probe: StudyProbe) -> str:
    """Of how many candidates the error grows with another picture: the interval lies above 0."""
    of = probe.contributions
    seeing = [variant for variant, estimate in of.items() if estimate.low > 0]
    if not of:
        return "With the right picture, and with another one"
    if few := min((e.n_images or 0 for e in of.values() if e.too_few_images), default=0):
        return f"{few} images are too few to show whether a candidate looks at the picture"
    if len(seeing) == len(of):
        who = f"All {len(of)} candidates look" if len(of) > 1 else f"{seeing[0]} looks"
        return f"{who} at the picture: with another one the error grows"
    if not seeing:
        return "No candidate is shown to look at the picture"
    return f"{len(seeing)} of {len(of)} candidates look at the picture: {', '.join(seeing)}"


def course_title(comparison: Comparison, votes: Sequence[str]) -> str:
    """Since when the best variant at the end has been the best, on the first deciding metric."""
    decided = [name for name in votes if name in comparison.stability]
    if not decided:
        return "How the metrics changed over the steps"
    stability, label = comparison.stability[decided[0]], METRICS[decided[0]].label
    last, since = stability.last_winner, stability.settled_from
    if last is None:
        return f"{label}: several variants are equal at the end"
    if since is None or since == stability.winners[-1].step:
        return f"{label}: {last} is best at the end only"
    if since == stability.winners[0].step:
        return f"{label}: {last} is best at every evaluation"
    return f"{label}: {last} is best from step {since} to the end"


def slices_title(slices: Mapping[str, Slices]) -> str:
    """The box size on which every variant errs most, if it is the same and there are several."""
    worst = set()
    for of in slices.values():
        if len(of.by_box_size) > 1:
            worst.add(max(of.by_box_size, key=of.by_box_size.__getitem__))
        else:
            worst.add("")
    if len(worst) != 1 or "" in worst:
        return "Where the errors are: by slot and by box size"
    if len(slices) == 1:
        return f"Errors are largest on {worst.pop()} boxes"
    return f"Every variant errs most on {worst.pop()} boxes"


def ratios_title(audit: Audit) -> str:
    passed = sum(run.passed for run in audit.runs)
    return f"The logs: {passed} of {len(audit.runs)} runs passed the audit"
