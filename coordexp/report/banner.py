"""The banner over a card that recommends nothing one could start from."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.report.study_files import StudyFiles


@dataclass(frozen=True)
class Banner:
    """What is wrong with the verdict as a whole.

    state: "stop" (there is no detector) or "none" (there is no recommendation).
    """

    state: str
    title: str
    words: str


def banner_of(study: StudyFiles) -> Banner | None:
    """None where the card recommends a checkpoint that is not known to be useless."""
    found = study.recommendation
    if found.blind:
        return Banner("stop", "None detects", "Do not start Stage-2 from these checkpoints.")
    rates = {v: m["parse_rate"] for v, m in study.probe.means.items() if "parse_rate" in m}
    mute = [variant for variant, rate in rates.items() if rate == 0]
    if rates and len(mute) == len(rates):
        return Banner(
            "stop",
            "Nothing parses",
            "Parse rate 0: no rollout of any probed candidate parses.",
        )
    if found.primary is None:
        title = "No primary" if found.withheld else "No recommendation"
        return Banner("none", title, "There is no checkpoint here to start Stage-2 from.")
    if found.primary.variant in mute:
        words = f"Parse rate 0: no rollout of {found.primary.variant} parses."
        return Banner("stop", "The primary writes nothing that parses", words)
    return None
