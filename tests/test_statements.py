"""Every sentence of a recommendation is true of its study: random studies, an independent checker,
and sentences that were untrue once.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import random_studies
from random_studies import random_study
from statement_checker import Checker

from coordexp.analysis.audit import doubts as audit_doubts
from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.recommendation import (
    caveats,
    confidence,
    elimination,
    handed_over,
    probe_finding,
    reasons,
    recommend,
    roles,
    rule,
    sensitivity,
    surer,
)
from coordexp.analysis.recommendation.findings import Statement
from coordexp.analysis.recommendation.statements import of_lead
from coordexp.resampling import image_weights
from coordexp.storage.logs import doubts as log_doubts

N_STUDIES = 2000
N_PARTS = 8
N_MUTATED = 400  # studies in which an untrue sentence must come up


@pytest.mark.parametrize("part", range(N_PARTS))
def test_no_sentence_of_random_studies_is_untrue(part):
    for seed in range(part, N_STUDIES, N_PARTS):
        assert Checker(random_study(seed)).errors() == [], f"study {seed}"


def test_nothing_is_resolved_on_fewer_than_ten_images(monkeypatch):
    monkeypatch.setattr(random_studies, "N_IMAGES", 6)
    weights = image_weights(6)[:200]
    monkeypatch.setattr(random_studies, "WEIGHTS", weights)
    monkeypatch.setattr(random_studies, "SHARES", weights / weights.sum(1, keepdims=True))
    told = 0
    for seed in range(60):
        found = random_study(seed)
        assert Checker(found).errors() == [], f"study {seed}"
        claims = found.recommendation["confirmatory"]
        assert {claim["verdict"] for claim in claims} <= {"inconclusive"}
        grades = found.recommendation["confidence"]
        assert grades["stage1_ranking"]["grade"] in ("descriptive", "provisional")
        if claims:
            caveats = found.recommendation["caveats"]
            told += any(line.startswith("6 judged images: too few") for line in caveats)
    assert told > 10


# --- Sentences that were untrue once: the old code put back, one piece at a time. ---


def winner_within_its_margin(patch):
    """A variant drops out by any lead that is resolved, however small."""
    found = elimination.beyond_margin
    patch.setattr(
        elimination, "beyond_margin", lambda c, pairs: found(replace(c, margin=0.0), pairs)
    )


def winner_by_votes(patch):
    """The variant that is ahead on most metrics, whatever the intervals say."""

    def by_votes(left, *_):
        return sorted(left)[-1], "ahead on most metrics"

    patch.setattr(recommend, "preferred", by_votes)


def resolved_over_everybody(patch):
    """The headline claims a best that the table calls inconclusive."""

    def every_lead(facts, names):
        clause, counted = found(facts, names)
        claimed = [replace(a, value=float(len(names))) for a in counted]
        return ("; resolved over every rival" if clause else ""), claimed

    found = reasons.resolved
    patch.setattr(reasons, "resolved", every_lead)


def primary_that_would_overturn_itself(patch):
    """Another temperature is listed although it puts the primary itself first."""

    def turned(facts):
        return {
            temperature: replace(e, by=e.variant, variant=e.by)
            for temperature, e in found(facts).items()
        }

    found = sensitivity.dropped_by_temperature
    patch.setattr(sensitivity, "dropped_by_temperature", turned)


def deficit_whose_flip_would_help(patch):
    """The smallest difference on the first metric, also where the primary is behind."""

    def smallest(facts):
        metric = surer.METRICS[facts.rule.metrics[0]]
        leads = surer.leads_of_primary(facts, metric.name)
        size = min((abs(lead.value) for lead in leads), default=None)
        return metric, [lead for lead in leads if abs(lead.value) == size]

    patch.setattr(surer, "closest", smallest)
    patch.setattr(sensitivity, "closest", smallest)


def logs_only_where_seeds_are_disjoint(patch):
    patch.setattr(confidence, "why_no_interval", lambda *_: "logs only: no interval")


def too_few_seeds_of_pairs_that_share_more(patch):
    """The fewest seeds that the primary shares with anybody are said of all pairs."""

    def fewest_for_all(facts):
        seeds = found(facts)
        return dict.fromkeys(seeds, min(seeds.values(), default=0))

    found = confidence.seeds_shared_with
    patch.setattr(confidence, "seeds_shared_with", fewest_for_all)


def one_seed_formula_for_means_of_several(patch):
    """The SD of one seed from a mean of two, without the root of two."""
    patch.setattr(sensitivity, "seeds_shared_with", lambda facts: dict.fromkeys(facts.rows, 1))


def two_leads_for_one_pair(patch):
    """With unequal seeds: the gap of the table's means beside the lead over shared seeds."""

    def gap_of_means(variant, name, facts):
        if any(name not in facts.rows.get(v, {}) for v in (variant, facts.primary)):
            return None
        metric = reasons.METRICS[name]
        gap = facts.rows[variant][name] - facts.rows[facts.primary][name]
        return Lead(variant, facts.primary, name, -gap if metric.lower_is_better else gap)

    patch.setattr(reasons, "lead_over_primary", gap_of_means)


def steps_of_another_window(patch):
    """`another stopping point` counts evaluations that are not in the window it names."""

    def all_steps(facts):
        window = replace(facts.comparison.window, steps=facts.comparison.common_steps)
        return found(replace(facts, comparison=replace(facts.comparison, window=window)))

    found = sensitivity.other_stopping_points
    patch.setattr(sensitivity, "other_stopping_points", all_steps)


def metrics_over_rivals_that_rollouts_put_out(patch):
    """Other seeds or temperatures would overturn it, though rollouts decided about that rival."""
    patch.setattr(sensitivity, "replace", lambda facts, **_: facts)


def no_rival_was_probed(patch):
    """Said of the Stage-1 choice although rivals were probed."""
    found = probe_finding.ranking_outcome
    patch.setattr(
        probe_finding,
        "ranking_outcome",
        lambda stage1, _, *more: found(stage1, {}, *more),
    )


def smoothness_without_margin(patch):
    """`overturned`, however small the difference of the geometric losses."""

    def without_margin(primary, secondary, probe, rule):
        return found(
            primary, secondary, probe, replace(rule, probe=replace(rule.probe, geo_margin=0.0))
        )

    found = recommend.smoothness_outcome
    patch.setattr(recommend, "smoothness_outcome", without_margin)


def probe_outcome_without_seed_sd(patch):
    """`overturned` by an interval over images alone, at one seed."""
    found = probe_finding.ranking_outcome
    patch.setattr(
        probe_finding,
        "ranking_outcome",
        lambda stage1, over, rows, probe, rule: found(
            stage1, over, rows, probe, replace(rule, probe=replace(rule.probe, seed_sd=0.0))
        ),
    )


def overturned_before_holm(patch):
    """`overturned` by the interval of a single pair, while the choice stays the primary."""

    def by_pairs(criterion, left):
        pairs = [(leader, rival) for leader in left for rival in left if leader != rival]
        return [e for pair in pairs for e in probe_finding.beyond_margin(criterion, [pair])]

    patch.setattr(probe_finding, "beaten", by_pairs)


def names_line_where_coordinates_decide(patch):
    """`names, not coordinates` although the lead holds without names too."""

    def always(probe, signal):
        leads = probe_finding.leads(probe.differences, None)
        wide = [lead for lead in leads if lead.metric == signal and lead.ahead]
        return [
            Statement("caveats", "names decide", [*of_lead(lead), turned(lead)]) for lead in wide
        ]

    def turned(lead):
        return replace(of_lead(lead)[-2], quantity="lead low", comparison="<=", value=0.0)

    patch.setattr(recommend, "names_decide", always)


def tied_with_a_variant_that_lost(patch):
    """All eligible variants are called tied, those that dropped out as well."""

    def all_tied(facts, decision):
        of_study = found(facts, decision)
        tied = [roles.role(facts, v, []) for v in facts.rows]
        return replace(of_study, tied=tied)

    found = recommend.roles_of
    patch.setattr(recommend, "roles_of", all_tied)


def secondary_that_is_hardly_smoother(patch):
    found = roles.choose_secondary
    patch.setattr(
        roles,
        "choose_secondary",
        lambda primary, rows, rule: found(primary, rows, replace(rule, margins={})),
    )


def repeat_taken_for_a_restart(patch):
    """The evaluation of an earlier checkpoint replaces that of the last step."""
    patch.setattr(log_doubts, "tells", lambda *_: False)


def copy_that_counts_as_a_seed(patch):
    """One training under two seeds is not noticed."""
    patch.setattr(audit_doubts, "same_evaluations", lambda *_: 0)


def part_of_a_log_that_counts_as_a_seed(patch):
    patch.setattr(audit_doubts, "ENOUGH_SHARED", 99)


def second_evaluation_taken_for_a_restart(patch):
    """A test set's figures replace those of the step."""
    patch.setattr(log_doubts, "evaluated_again", lambda *_: False)


def evaluation_of_another_set_that_decides(patch):
    patch.setattr(audit_doubts, "other_samples", lambda _: [])


def bar_that_is_silently_not_checked(patch):
    patch.setattr(caveats, "unchecked_bar", lambda *_: [])


def skipped_steps_that_are_always_a_note(patch):
    patch.setattr(audit_doubts, "MANY_SKIPPED", 1.0)


def doubts_that_are_not_on_the_card(patch):
    patch.setattr(caveats, "doubt_caveats", lambda *_: [])


def grade_of_a_run_in_doubt(patch):
    """Provisional or better, although a run holds two runs."""
    patch.setattr(confidence, "limits", lambda *_: [])


def text_of_unknown_tokens_that_refuses(patch):
    """A variant is refused on a text accuracy that may count coordinate tokens."""
    patch.setattr(rule, "own_definitions", lambda _: True)


def evaluations_that_are_silently_left_out(patch):
    patch.setattr(caveats, "later_evaluations", lambda *_: [])


def every_image_of_the_first_file(patch):
    """Rollouts that were handed over are said to be compared on images that only one file has."""

    def of_first(given, *more):
        return found(replace(given, images=given.files[0].images), *more)

    found = handed_over.compared_images
    patch.setattr(handed_over, "compared_images", of_first)


def step_confound_left_out(patch):
    """Rollouts of another step are said to be of an unknown one, or of none."""

    def without_steps(probe, given, step):
        return found(probe, replace(given, files=given.files[:1]), step)

    found = handed_over.other_checkpoints
    patch.setattr(handed_over, "other_checkpoints", without_steps)


def prompt_of_nobody(patch):
    """The caveat names this project's prompt, whatever a checkpoint was asked with."""

    def own_prompt(facts):
        return [
            replace(
                s,
                assertions=[
                    replace(
                        a,
                        value="the chat template of this project, no system "
                        "prompt and the user prompt of this project",
                    )
                    for a in s.assertions
                ],
            )
            for s in found(facts)
        ]

    found = caveats.prompts
    patch.setattr(caveats, "prompts", own_prompt)


MUTATIONS = [value for value in list(globals().values()) if getattr(value, "__code__", None)]
MUTATIONS = [f for f in MUTATIONS if f.__code__.co_varnames[:1] == ("patch",)]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_checker_finds_the_untrue_sentence_of(mutation, monkeypatch):
    mutation(monkeypatch)
    for seed in range(N_MUTATED):
        if Checker(random_study(seed)).errors():
            return
    pytest.fail(f"none of {N_MUTATED} studies shows it")
