"""Which metric of the probe decides: after the fine-tune, or before it where that did damage.

The fine-tune is a short stand-in for Stage-2. If it makes the greedy rollouts of a candidate worse,
it no longer shows what that checkpoint is worth: then the rollouts before it decide, for every
candidate alike.
"""

from __future__ import annotations

from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.findings import Assertion, Statement
from coordexp.analysis.recommendation.statements import equals
from coordexp.config.schema import RuleConfig
from coordexp.metrics import PROBE_METRICS

ROLLOUTS = "f1_agnostic"  # by which the rollouts before and after the fine-tune are compared


def deciding_signal(probe: StudyProbe, rule: RuleConfig) -> tuple[str, list[Statement]]:
    """The probe's metric by which the candidates are judged, and why it is not the rule's.

    The rule's metric decides, unless it is a rollout metric after the fine-tune and the fine-tune
    worsened the rollouts of a candidate: the interval of after minus before, over its seeds and
    images, lies below 0. Then the same metric before the fine-tune decides, and where the rollouts
    were handed over, so that there was none.

    Returns:
        The metric, and the reason in a sentence; none where the rule's own metric decides.
    """
    signal = rule.probe.signal
    before = signal.removesuffix("_after")
    if before == signal or before not in PROBE_METRICS:
        return signal, []
    if probe.handed_over is not None:
        return before, []  # nothing was fine-tuned; `handed_over_caveats` says so
    worsened: list[str] = []
    assertions: list[Assertion] = []
    for effect in probe.fine_tune_effects:
        settled = not effect.change.too_few_images
        if effect.metric == ROLLOUTS and effect.change.high < 0 and settled:
            low, high = effect.change.low, effect.change.high
            worsened.append(
                f"{effect.variant} {effect.change.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
            key = (effect.variant, None, ROLLOUTS)
            assertions += [
                equals("fine-tune change", effect.change.difference, *key),
                equals("fine-tune change low", low, *key),
                equals("fine-tune change high", high, *key),
                Assertion("fine-tune change high", *key, "<", 0.0),
            ]
    if not worsened:
        return signal, []
    text = (
        f"the probe is judged by {PROBE_METRICS[before].label}, before its fine-tune, because the "
        f"fine-tune worsened rollouts ({PROBE_METRICS[ROLLOUTS].label}, end minus start): "
        f"{', '.join(worsened)}"
    )
    return before, [Statement("caveats", text, assertions)]
