"""The data of the templates: the study's files, and the tables and sentences made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from coordexp.analysis.recommendation.card import role_holders
from coordexp.analysis.recommendation.findings import Role
from coordexp.analysis.recommendation.statements import AGAINST_PRIMARY
from coordexp.report import (
    commands,
    curve_tables,
    lead_tables,
    log_tables,
    picture_tables,
    probe_tables,
    result_tables,
    run_tables,
)
from coordexp.report.answers import answers, post_hoc
from coordexp.report.banner import Banner, banner_of
from coordexp.report.figures import in_front
from coordexp.report.lead_tables import Leads
from coordexp.report.log_tables import Statement
from coordexp.report.plot import Figure
from coordexp.report.study_files import StudyFiles
from coordexp.report.style import Look
from coordexp.report.table import Table

ON_CARD = ("primary", "secondary")  # the roles whose checkpoints the card names
# The folded parts of the page: the question that each answers.
QUESTIONS = {
    "evidence": "How large are the leads, and why these roles?",
    "snapshots": "What are the numbers?",
    "curves": "Is it only this step?",
    "audit": "Can the logs be believed?",
    "temperature": "Does the temperature decide?",
    "plateau": "Have the runs arrived?",
    "rollouts": "Does it hold in rollouts?",
    "rule": "Was the rule written before the results?",
    "runs": "Which runs are these?",
    "again": "How do I get the same again?",
    "terms": "What do the words mean?",
}


@dataclass(frozen=True)
class Tables:
    """Every table of the page; None where its numbers are not there."""

    roles: Table | None
    leads: Table | None
    window: Table | None
    eliminations: Table | None
    claims: Table | None
    snapshots: list[Table]
    beside: Table | None
    stability: Table | None
    audit: Table
    terms: Table | None
    checks: Table
    temperatures: Table | None
    plateau: Table | None
    drift: Table | None
    rankings: Table | None
    probe_metrics: Table | None
    handed_over: Table | None
    pictures: Table | None
    fine_tune: Table | None
    votes: Table
    earlier: Table | None
    trained: Table | None
    logs: Table | None

    @property
    def all(self) -> list[Table]:
        """Those that are there."""
        found: list[Table] = []
        for field in fields(self):
            value = getattr(self, field.name)
            found += value if isinstance(value, list) else [value] if value else []
        return found


@dataclass(frozen=True)
class Page:
    """The values of the templates.

    front: the names of the figures in front, in their order.
    questions, answers: of the folded parts, in their order.
    banner: None where the card recommends something to start from.
    headline, headline_reason: the headline of the card, in two parts.
    roles: the title of each role, with its holder.
    role_reasons: the same with its reasons, without those in the headline.
    has_preflights: the manifest of some run holds a pre-flight.
    has_gradients: each of these pre-flights compared gradients; earlier versions compared losses.
    temperatures: those at which the logs hold metrics.
    disagreements: metrics whose best variant depends on the temperature.
    decode_temperatures: at which the probe decoded the coordinates of each candidate.
    """

    study_dir: Path
    study: StudyFiles
    looks: Mapping[str, Look]
    figures: Mapping[str, Figure]
    front: list[str]
    questions: Mapping[str, str]
    answers: Mapping[str, str]
    banner: Banner | None
    tables: Tables
    headline: str
    headline_reason: str
    roles: list[tuple[str, Role]]
    role_reasons: list[tuple[str, Role, list[str]]]
    leads: Leads
    has_preflights: bool
    has_gradients: bool
    not_checked: list[Statement]
    post_hoc: list[str]
    temperatures: list[str]
    disagreements: list[str]
    decode_temperatures: list[str]
    versions: list[str]
    data_notes: list[str]
    study_command: str
    run_commands: list[str]
    compare_command: str


def page_of(
    study_dir: Path,
    study: StudyFiles,
    of_primary: Leads,
    figures: Mapping[str, Figure],
    looks: Mapping[str, Look],
) -> Page:
    """The page of a study; `of_primary` are the leads of its primary, or of every pair."""
    recommendation, comparison = study.recommendation, study.comparison
    headline, _, reason = study.headline.partition(": ")
    roles = role_holders(recommendation)
    preflights = [run.preflight for run in study.runs if run.preflight is not None]
    return Page(
        study_dir=study_dir,
        study=study,
        looks=looks,
        figures=figures,
        front=in_front(figures),
        questions=QUESTIONS,
        answers=answers(study),
        banner=banner_of(study),
        tables=tables_of(study, roles, of_primary, bool(preflights)),
        headline=headline,
        headline_reason=reason,
        roles=roles,
        role_reasons=reasons_beyond(study.headline, roles),
        leads=of_primary,
        has_preflights=bool(preflights),
        has_gradients=bool(preflights) and all(found.cut is not None for found in preflights),
        not_checked=log_tables.not_checked(study.audit),
        post_hoc=post_hoc(study.preregistration),
        temperatures=curve_tables.temperatures_read(comparison),
        disagreements=curve_tables.temperature_disagreements(comparison),
        decode_temperatures=probe_tables.temperatures(study.probe, comparison.none_to_fit),
        versions=run_tables.versions(study.runs),
        data_notes=run_tables.data_notes(study.runs),
        study_command=commands.study_command(study.preregistration),
        run_commands=commands.run_commands(study.preregistration),
        compare_command=commands.compare_command(study.preregistration, study_dir),
    )


def reasons_beyond(
    headline: str, roles: list[tuple[str, Role]]
) -> list[tuple[str, Role, list[str]]]:
    """The roles with those of their reasons that neither the headline nor the leads tell.

    A role without more is left out, unless its checkpoint is not on the card.
    """
    found = []
    for title, role in roles:
        reasons = []
        for reason in role.reasons:
            if reason not in headline and not reason.startswith(AGAINST_PRIMARY):
                reasons.append(reason)
        if reasons or (role.checkpoint and title not in ON_CARD):
            found.append((title, role, reasons))
    return found


def tables_of(
    study: StudyFiles, roles: list[tuple[str, Role]], of_primary: Leads, has_preflights: bool
) -> Tables:
    """Every table of the page."""
    recommendation, comparison, audit = study.recommendation, study.comparison, study.audit
    ineligible, n_seeds = recommendation.ineligible, study.n_seeds
    # The claims are of the Stage-1 choice: leads of their own where rollouts chose another variant.
    claims = recommendation.confirmatory
    of_another = study.primary is None or study.primary != study.stage1_primary
    return Tables(
        roles=result_tables.role_table(roles),
        leads=lead_tables.lead_table(of_primary, ineligible, () if of_another else claims),
        window=lead_tables.window_table(of_primary),
        eliminations=lead_tables.elimination_table(recommendation.decision.eliminated),
        claims=lead_tables.claim_table(claims) if of_another else None,
        snapshots=result_tables.snapshot_tables(
            comparison.snapshots, ineligible, n_seeds, comparison.controls
        ),
        beside=result_tables.beside_table(comparison),
        stability=curve_tables.stability_table(comparison),
        audit=log_tables.audit_table(audit),
        terms=log_tables.term_table(audit),
        checks=log_tables.check_table(audit, has_preflights),
        temperatures=curve_tables.temperature_table(comparison),
        plateau=curve_tables.plateau_table(comparison.plateau, n_seeds),
        drift=curve_tables.drift_table(comparison.drift),
        rankings=probe_tables.ranking_table(
            recommendation.probe, "rollouts" if study.probe.handed_over else "probe"
        ),
        handed_over=probe_tables.handed_over_table(study.probe),
        probe_metrics=probe_tables.metric_table(study.probe, study.stage1_primary),
        pictures=picture_tables.picture_table(study.probe, comparison.none_to_fit),
        fine_tune=probe_tables.fine_tune_table(study.probe),
        votes=run_tables.vote_table(study.preregistration),
        earlier=run_tables.earlier_table(study.preregistration),
        trained=run_tables.trained_table(study.runs),
        logs=run_tables.log_table(study.runs),
    )
