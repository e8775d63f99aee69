"""All figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coordexp.analysis.comparison.leads import Lead
from coordexp.report.course import course
from coordexp.report.curves import lead_curves, metric_curves
from coordexp.report.effects import effects
from coordexp.report.losses import losses
from coordexp.report.plot import Figure
from coordexp.report.probe_curves import probe_curves
from coordexp.report.ranks import ranks
from coordexp.report.ratios import ratios
from coordexp.report.sight import sight
from coordexp.report.slices import slices
from coordexp.report.study_files import StudyFiles
from coordexp.report.style import Look
from coordexp.report.titles import titles
from coordexp.study.inputs import RunData

# The figures that stand in front, of which five are shown: the closest to the verdict come first.
IN_FRONT = ("effects", "sight", "gallery", "course", "slices", "ratios", "ranks", "leads")
N_IN_FRONT = 5


def in_front(figures: Mapping[str, Figure]) -> list[str]:
    """The names of the figures that the page shows before everything else."""
    return [name for name in IN_FRONT if name in figures][:N_IN_FRONT]


def draw(
    study: StudyFiles, runs: Sequence[RunData], leads: Sequence[Lead], looks: Mapping[str, Look]
) -> dict[str, Figure]:
    """Every figure for which there are numbers, by name.

    `runs` are used only for the figure of the losses. A figure without numbers (logs without token
    tables, no finished run) is left out.
    """
    comparison, candidates = study.comparison, study.probe.candidates
    holm = {}
    for claim in study.recommendation.confirmatory:
        if claim.p_holm is not None:
            holm[claim.metric, claim.variant] = claim.p_holm
    votes = study.preregistration.decision_rule.metrics
    drawn = [
        course(comparison, votes, looks),
        sight(study.probe, looks),
        effects(comparison, leads, holm, looks, study.n_seeds),
        metric_curves(comparison, looks),
        ranks(comparison, looks),
        lead_curves(comparison, study.primary, looks),
        ratios(study.audit.runs, looks),
        slices(comparison, looks),
        losses(runs, comparison.decision_step, looks),
    ]
    if candidates and study.probe.handed_over is None:
        # Imported only here, because it imports slow modules that read images and match boxes.
        from coordexp.report.gallery import gallery

        drawn += [probe_curves(candidates, looks), gallery(candidates, looks)]
    titled = titles(study, leads)
    found = {}
    for figure in drawn:
        if figure:
            found[figure.name] = replace(figure, title=figure.title or titled[figure.name])
    return found
