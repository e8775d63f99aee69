"""Whether the candidates look at their pictures at all: the absolute side of a comparison.

A variant *sees* if the right picture lowers its error (the 95 % interval of the visual contribution
lies above 0) and its rollouts find boxes (class-agnostic F1@.5 reaches `eligible.min_f1`). A figure
that was not measured does not count against it. A bar of 0 asks nothing: the study is a rehearsal.
"""

from __future__ import annotations

from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.findings import Assertion, Statement
from coordexp.analysis.recommendation.statements import equals, names_key
from coordexp.config.schema import RuleConfig

F1 = "f1_50_agnostic"
# A model whose MAE is at least this share of a guess's without a picture looks at it hardly.
HARDLY = 0.9
WORDS = ("worse", "no better", "hardly better")  # of `against_guess`, the worst first
WHAT_TO_DO = (
    "train longer or on more pictures, and check that pictures and boxes belong together, before "
    "Stage-2"
)


def nobody_sees(probe: StudyProbe, rule: RuleConfig) -> Statement | None:
    """A sentence for the headline if no probed candidate sees; None if one does.

    Also None where nothing was probed, or where the rule has no bar.
    """
    blind = [variant for variant in probe.means if not_seeing(variant, probe, rule)]
    if not blind or len(blind) < len(probe.means):
        return None
    parts, assertions = [], [equals("candidates that see", 0.0)]
    f1 = {v: values[F1] for v, values in probe.means.items() if F1 in values}
    if f1:
        best = max(f1, key=lambda variant: f1[variant])
        parts.append(f"best class-agnostic F1@.5 {f1[best]:.2f} ({best}; bar {bar(rule)})")
        assertions.append(equals("probe value", f1[best], best, metric=F1))
        assertions.append(equals("best probe value", f1[best], metric=F1))
        assertions.append(equals("bar of F1", rule.eligible.min_f1))
    gains = {v: estimate.difference for v, estimate in probe.contributions.items()}
    if gains:
        most = max(gains, key=lambda variant: gains[variant])
        parts.append(f"largest visual contribution {contribution(most, probe)} ({most})")
        assertions += of_contribution(most, probe)
    who = "candidates"
    if unprobed(probe):
        who = "probed candidates" if probe.handed_over is None else "candidates with rollouts"
    text = f"None of the {who} detects: {'; '.join(parts)}: {WHAT_TO_DO}"
    return Statement("decision", text, assertions)


def unprobed(probe: StudyProbe) -> list[str]:
    """Variants of which no run was probed, where others were."""
    if not probe.means:
        return []
    variants = dict.fromkeys(name.rpartition(" s")[0] for name in probe.not_probed)
    return [variant for variant in variants if variant not in probe.means]


def blind_variants(probe: StudyProbe, rule: RuleConfig) -> dict[str, str]:
    """Variants that do not see where another one does, with the reason: they hold no role."""
    reasons = {variant: not_seeing(variant, probe, rule) for variant in probe.means}
    if all(reasons.values()):
        return {}
    return {
        variant: f"hardly looks at the picture: {'; '.join(found)}"
        for variant, found in reasons.items()
        if found
    }


def sight_caveats(probe: StudyProbe, rule: RuleConfig) -> list[Statement]:
    """Lines about single variants: not probed, near a guess without a picture or worse, and
    parse rates that the fine-tune lowers.

    Variants of `blind_variants` are left out of the first kind: their reasons stand elsewhere.
    """
    lines = []
    if left_out := unprobed(probe):
        lines.append(without_rollouts(left_out, probe))
    refused = blind_variants(probe, rule)
    for variant in probe.means:
        told, assertions = hardly_better_than_blind(variant, probe)
        if bar_is_set(rule) and told and variant not in refused:
            lines.append(Statement("caveats", f"{variant} is {told}", assertions))
    fallen, assertions = [], []
    for variant, values in probe.means.items():
        start, end = values.get("parse_rate"), values.get("parse_rate_after")
        if start is not None and end is not None and end < start:
            fallen.append(f"{variant} {start:.3f} to {end:.3f}")
            assertions += [
                equals("probe value", start, variant, metric="parse_rate"),
                equals("probe value", end, variant, metric="parse_rate_after"),
                Assertion("probe value", variant, None, "parse_rate_after", "<", start),
            ]
    if fallen:
        text = f"the probe's fine-tune lowers the parse rate: {', '.join(fallen)}"
        lines.append(Statement("caveats", text, assertions))
    return lines


def without_rollouts(left_out: list[str], probe: StudyProbe) -> Statement:
    """That these variants have no rollouts to compare, and why."""
    assertions = [equals("not probed", names_key(left_out))]
    probed = {run.rpartition(" s")[0] for run in probe.probed_otherwise}
    otherwise = [variant for variant in left_out if variant in probed]
    rest = [variant for variant in left_out if variant not in probed]
    parts = []
    if rest:
        why = "not probed, so without rollouts"
        if probe.handed_over is not None:
            why = "no rollouts were handed over of"
        parts.append(f"{why}: {', '.join(rest)}")
    if otherwise:
        parts.append(
            f"probed with other settings, so not compared on rollouts: {', '.join(otherwise)}"
        )
        assertions.append(equals("probed otherwise", names_key(otherwise)))
    return Statement("caveats", "; ".join(parts), assertions)


def hardly_better_than_blind(variant: str, probe: StudyProbe) -> tuple[str, list[Assertion]]:
    """The figures on which a variant is hardly better, or worse, than a guess without a picture.

    Each stands behind its word: `worse than a guess: ...; hardly better than a guess: ...`.
    """
    values, blind = probe.means[variant], probe.blind
    if blind is None:
        return "", []
    parts: dict[str, list[str]] = {}
    assertions: list[Assertion] = []
    mae, f1 = values.get("mae_right"), values.get("f1_50_right")
    if mae is not None and mae >= HARDLY * blind.mae_given_box:
        # As printed: a word must not contradict the two figures behind it.
        word = against_guess(round(mae, 1), round(blind.mae_given_box, 1))
        parts.setdefault(word, []).append(
            f"MAE {mae:.1f} bins with the right picture, {blind.mae_given_box:.1f} guessed from "
            "the coordinates written before, without any picture"
        )
        least = blind.mae_given_box if word == "worse" else HARDLY * blind.mae_given_box
        assertions += [
            equals("probe value", mae, variant, metric="mae_right"),
            equals("blind MAE given the box", blind.mae_given_box),
            Assertion("probe value", variant, None, "mae_right", ">=", least),
        ]
    if f1 is not None and blind.f1_50 is not None and f1 <= blind.f1_50:
        word = against_guess(round(blind.f1_50, 2), round(f1, 2))
        parts.setdefault(word, []).append(
            f"class-agnostic F1@.5 {f1:.2f}, {blind.f1_50:.2f} of the most typical boxes, without "
            "any picture"
        )
        assertions += [
            equals("probe value", f1, variant, metric="f1_50_right"),
            equals("blind F1", blind.f1_50),
            Assertion("probe value", variant, None, "f1_50_right", "<=", blind.f1_50),
        ]
    told = [f"{word} than a guess: {'; '.join(parts[word])}" for word in WORDS if word in parts]
    return "; ".join(told), assertions


def against_guess(error: float, of_guess: float) -> str:
    """How an error compares with a guess's, where it is not clearly lower."""
    if error > of_guess:
        return "worse"
    return "no better" if error == of_guess else "hardly better"


def not_seeing(variant: str, probe: StudyProbe, rule: RuleConfig) -> list[str]:
    """What shows that a probed variant does not see; empty if it does, or if nothing is asked."""
    if not bar_is_set(rule):
        return []
    found = []
    estimate = probe.contributions.get(variant)
    if estimate is not None and estimate.low <= 0:
        found.append(f"visual contribution {contribution(variant, probe)}")
    f1 = probe.means[variant].get(F1)
    if f1 is not None and f1 < rule.eligible.min_f1:
        found.append(f"class-agnostic F1@.5 {f1:.2f} is below the bar {bar(rule)}")
    return found


def contribution(variant: str, probe: StudyProbe) -> str:
    """`+7.1 bins [-0.3, +14.2] (MAE 102.3 with the right picture, 109.4 with another one)`"""
    estimate, values = probe.contributions[variant], probe.means[variant]
    maes = ""
    if "mae_right" in values and "mae_swapped" in values:
        maes = (
            f" (MAE {values['mae_right']:.1f} with the right picture, "
            f"{values['mae_swapped']:.1f} with another one)"
        )
    seen = (estimate.difference, estimate.low, estimate.high)
    gain, low, high = (round(number, 1) + 0.0 for number in seen)  # no -0.0
    return f"{gain:+.1f} bins [{low:+.1f}, {high:+.1f}]{maes}"


def of_contribution(variant: str, probe: StudyProbe) -> list[Assertion]:
    """What `contribution` asserts."""
    estimate, values = probe.contributions[variant], probe.means[variant]
    found = [
        equals("contribution", estimate.difference, variant),
        equals("contribution low", estimate.low, variant),
        equals("contribution high", estimate.high, variant),
    ]
    if "mae_right" in values and "mae_swapped" in values:
        found.append(equals("probe value", values["mae_right"], variant, metric="mae_right"))
        found.append(equals("probe value", values["mae_swapped"], variant, metric="mae_swapped"))
    return found


def sight_text(rule: RuleConfig) -> str:
    """The condition in the words of the rule."""
    if not bar_is_set(rule):
        return "whether they see is not asked"
    return (
        f"class-agnostic F1@.5 ≥ {bar(rule)} and a visual contribution above 0 if another variant "
        "has both"
    )


def bar_is_set(rule: RuleConfig) -> bool:
    return rule.eligible.min_f1 > 0


def bar(rule: RuleConfig) -> str:
    return f"{rule.eligible.min_f1:g}"
