"""What the card says of rollouts that were handed over: which they are, and what is not known."""

from __future__ import annotations

from coordexp.analysis.comparison.probe_findings import HandedOver, HandedOverFile, StudyProbe
from coordexp.analysis.recommendation.findings import Statement
from coordexp.analysis.recommendation.statements import equals, listed, names_key
from coordexp.config.schema import RuleConfig
from coordexp.metrics import PROBE_METRICS

CHECKPOINTS_NOT_KNOWN = "whether the checkpoints are those of the logs is not known"


def evaluation(probe: StudyProbe) -> str:
    """What the rollouts of a study are called in a sentence."""
    return "the probe" if probe.handed_over is None else "the evaluation handed over"


def step_confounds(probe: StudyProbe, step: int | None) -> list[str]:
    """Rollouts that may not be of the checkpoints that are compared, as confounds."""
    if probe.handed_over is None:
        return []
    unknown = [file.run for file in probe.handed_over.files if file.step is None]
    other = [file for file in probe.handed_over.files if file.step not in (None, step)]
    found = []
    if unknown:
        found.append(f"the step of the rollouts of {listed(unknown)} is not known")
    if other:
        shown = ", ".join(f"{file.run} {file.step}" for file in other)
        found.append(f"rollouts of other steps than the decision step {step}: {shown}")
    return found


def handed_over_caveats(
    probe: StudyProbe, rule: RuleConfig, step: int | None, signal: str
) -> list[Statement]:
    """The caveats of rollouts that were handed over; none where there are none.

    Args:
        rule: the rule as it was registered.
        step: the decision step.
        signal: the metric by which the rollouts are compared.
    """
    given = probe.handed_over
    if given is None:
        return []
    decides = any(signal in values for values in probe.means.values())
    found = [compared_images(given, signal, decides), not_known(given, rule)]
    found += other_checkpoints(probe, given, step)
    found += [line for file in given.files for line in odd(file)]
    if given.unused_probes:
        key, unused = names_key(given.unused_probes), listed(given.unused_probes)
        text = f"not used, because rollouts were handed over: the probes of {unused}"
        found.append(Statement("caveats", text, [equals("unused probes", key)]))
    return found


def other_checkpoints(probe: StudyProbe, given: HandedOver, step: int | None) -> list[Statement]:
    """Rollouts that may be of other checkpoints than the decision is about."""
    confounds = step_confounds(probe, step)
    if not confounds:
        return []
    other = [file for file in given.files if file.step not in (None, step)]
    assertions = [
        equals(
            "rollouts without a step", names_key([f.run for f in given.files if f.step is None])
        ),
        equals("rollouts of another step", names_key([file.run for file in other])),
    ]
    assertions += [
        equals("step of rollouts", float(f.step), f.run) for f in other if f.step is not None
    ]
    if other and step is not None:
        assertions.append(equals("decision step", float(step)))
    text = f"checkpoints of the rollouts: {'; '.join(confounds)}"
    return [Statement("caveats", text, assertions)]


def compared_images(given: HandedOver, signal: str, decides: bool) -> Statement:
    """On which images the rollouts are compared, and by what.

    `decides` is False where the rule judges rollouts by what only a probe measures.
    """
    runs = [file.run for file in given.files]
    text = (
        f"the rollouts of {listed(runs)} were handed over; they are compared by "
        f"{PROBE_METRICS[signal].label} on the {given.images} images that "
        f"{'all files have' if len(runs) > 1 else 'the file has'}, without a fine-tune"
    )
    if not decides:
        text = (
            f"the rollouts of {listed(runs)} were handed over, {given.images} images; they decide "
            f"nothing: the rule judges by {PROBE_METRICS[signal].label}, "
            "which only a probe measures"
        )
    assertions = [
        equals("handed over", names_key(runs)),
        equals("shared images", float(given.images)),
    ]
    partial = [file for file in given.files if file.left_out]
    if partial:
        text += f"; left out: {', '.join(f'{f.run} {f.left_out} images' for f in partial)}"
        assertions += [equals("left out images", float(f.left_out), f.run) for f in partial]
    return Statement("caveats", text, assertions)


def not_known(given: HandedOver, rule: RuleConfig) -> Statement:
    """Which settings of the evaluation, and which bars, could not be checked."""
    text = (
        "not known of the rollouts handed over: sampling temperature, token budget, prompt, and "
        "whether the checkpoints are those of the logs"
    )
    unparsed = list(dict.fromkeys(f.variant for f in given.files if not f.knows_parsing))
    if unparsed:
        text += (
            f"; parse rate of {listed(unparsed)}: the bar "
            f"{rule.eligible.min_parse_rate:g} on it is not checked"
        )
    assertions = [
        equals("parse rate unknown", names_key(unparsed)),
        equals("bar of the parse rate", rule.eligible.min_parse_rate),
    ]
    return Statement("caveats", text, assertions)


def odd(file: HandedOverFile) -> list[Statement]:
    """Objects of a file that could not be taken, and what else is odd about it."""
    found = []
    if file.dropped:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(file.dropped.items()))
        n = sum(file.dropped.values())
        text = f"rollouts of {file.run}: {n} objects could not be taken ({reasons})"
        assertions = [equals("objects not taken", float(n), file.run)]
        for reason, count in sorted(file.dropped.items()):
            assertions.append(equals("objects not taken", float(count), file.run, metric=reason))
        found.append(Statement("caveats", text, assertions))
    for doubt in file.doubts:
        key = equals("doubt of rollouts", doubt, file.run)
        found.append(Statement("caveats", f"rollouts of {file.run}: {doubt}", [key]))
    return found
