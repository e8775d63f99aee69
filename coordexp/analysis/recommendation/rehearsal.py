"""Whether a study was a rehearsal of the workflow: its card recommends nothing then."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.config.schema import RuleConfig
from coordexp.study.inputs import RunData

NO_REASON = "Nothing below is a reason to start Stage-2"


def rehearsal(rule: RuleConfig, runs: Sequence[RunData], probe: StudyProbe) -> str | None:
    """Why the study was a rehearsal; None if it was none."""
    bars = {
        "coordinate mass": rule.eligible.min_coord_mass,
        "text accuracy": rule.eligible.min_text_token_acc,
        "parse rate": rule.eligible.min_parse_rate,
        "F1": rule.eligible.min_f1,
    }
    reasons = []
    if absent := [name for name, bar in bars.items() if bar == 0]:
        reasons.append(f"the rule has no bar for {', '.join(absent)}")
    rates = [v["parse_rate"] for v in probe.means.values() if "parse_rate" in v]
    if rates and not any(rates):
        reasons.append("no rollout of any candidate parses")
    manifests = [run.manifest for run in runs if run.manifest]
    if drawn := [(m.val_images_rendered, m.val_images) for m in manifests if m.val_images_rendered]:
        n_drawn, n_pictures = max(drawn)
        reasons.append(
            f"{n_drawn} of {n_pictures} validation pictures are shapes drawn from the annotations"
        )
    if not reasons:
        return None
    return f"{'; '.join(reasons)}. {NO_REASON}"
