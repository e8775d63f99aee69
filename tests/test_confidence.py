"""Grades, the confirmatory family and what would overturn them, from estimates whose truth the test
chooses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from studies import NOTE_RULE, registration, run_manifest

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.bootstrap import bootstrap_estimate
from coordexp.analysis.comparison.findings import (
    Comparison,
    Difference,
    JudgedImages,
    Plateau,
    Stability,
    StepWinner,
    TemperatureRow,
    Window,
)
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.comparison.statistics import crossed_estimate
from coordexp.analysis.recommendation.caveats import alerts, caveats
from coordexp.analysis.recommendation.confidence import Facts, confirmatory, ranking_confidence
from coordexp.analysis.recommendation.findings import Decision
from coordexp.analysis.recommendation.reasons import evidence, resolved
from coordexp.analysis.recommendation.rehearsal import NO_REASON, rehearsal
from coordexp.analysis.recommendation.sensitivity import would_overturn
from coordexp.analysis.recommendation.statements import texts
from coordexp.analysis.recommendation.surer import would_take
from coordexp.config.digests import plain
from coordexp.metrics import METRICS
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData
from coordexp.study.preregistration import EarlierStudy, RegisteredRun

RULE = NOTE_RULE  # MAE first, margin 0.5 bins
N_IMAGES = 200


def estimate(difference: float, n_seeds: int, seed_sd: float = 0.05, image_se: float = 0.02):
    """An estimate of exactly this difference, second minus first."""
    rng = np.random.default_rng(7)
    images = rng.normal(size=N_IMAGES)
    images = (images - images.mean()) / np.sqrt((images**2).sum()) * image_se
    if n_seeds < 3:
        draws = rng.normal(difference, image_se, (1, 2000))
        return bootstrap_estimate(
            np.zeros((1, 2000)), draws - draws.mean() + difference, difference
        )
    seeds = rng.normal(size=n_seeds)
    seeds = (seeds - seeds.mean()) / seeds.std(ddof=1) * seed_sd
    return crossed_estimate(difference + seeds, np.tile(images, (n_seeds, 1)))


def facts(
    leads: dict[str, float],
    n_seeds: int,
    study: dict[str, Any] | None = None,
    margins=None,
    **more: Any,
) -> Facts:
    """A study in which `best` leads each rival by so many bins of MAE."""
    rule = replace(RULE, metrics=["expected_bin_mae"], margins=margins or RULE.margins)
    margin = rule.margins["expected_bin_mae"]
    rows = {"best": {"expected_bin_mae": 20.0}} | {
        v: {"expected_bin_mae": 20.0 + lead} for v, lead in leads.items()
    }
    differences = []
    for v, lead in leads.items():
        interval = None
        if n_seeds:
            interval = estimate(lead, n_seeds, **more.get("spread", {}))
            interval = replace(interval, n_images=N_IMAGES)
        differences.append(
            Difference("best", v, "expected_bin_mae", margin, lead, interval, window=None)
        )
    runs = [
        RunData(v, seed, Log(None), None, more.get("manifest"))
        for v in rows
        for seed in range(max(n_seeds, 1))
    ]  # type: ignore[arg-type]
    table = [TemperatureRow(v, [0], row, [1.0]) for v, row in rows.items()]
    comparison = Comparison(
        temperature="1",
        common_steps=[40, 80, 120],
        decision_step=120,
        window=Window(0.5, [40, 80, 120]),
        snapshots=[],
        temperatures={"1": table, "own": more.get("own", table)},
        winners={},
        curves=[],
        bands=[],
        stability=more.get("stability", {}),
        plateau=more.get("plateau", []),
        drift=[],
        differences=differences,
        slices={},
        resolution_limit=None,
    )
    plan = registration(**({"rule": plain(rule)} | (study or {})))
    audit = Audit([], more.get("confounds", []), [])
    return Facts(plan, rule, runs, audit, comparison, rows, "best")


NOT_PROBED = StudyProbe(None, None, [], [], {}, [])


def overturning(f: Facts) -> list[str]:
    """What would overturn the choice of a study that was not probed."""
    decision = Decision([], [], None, [])
    return texts(would_overturn(f, decision, f.primary, None, NOT_PROBED))


def grade(f: Facts) -> tuple[str, str]:
    found = ranking_confidence(f, confirmatory(f))
    return found.grade, found.reason


@pytest.mark.parametrize(
    ("leads", "n_seeds", "expected", "why"),
    [
        ({"a": 5.0, "b": 6.0}, 0, "descriptive", "logs only"),
        ({}, 6, "descriptive", "only one variant is eligible"),
        (
            {"a": 5.0, "b": 6.0},
            1,
            "provisional",
            "one seed: what another seed would change is unseen",
        ),
        ({"a": 5.0, "b": 6.0}, 2, "provisional", "2 seeds: too few"),
        ({"a": 5.0, "b": 6.0}, 3, "supported", "beyond the margin, but 3 seeds are fewer than 6"),
        ({"a": 0.3, "b": 6.0}, 3, "supported", "not beyond the margin"),
        ({"a": 5.0, "b": 6.0}, 6, "conclusive", "over every rival is beyond the margin"),
        ({"a": 0.3, "b": 6.0}, 6, "supported", "not beyond the margin"),
        ({"a": 0.01, "b": 6.0}, 6, "provisional", "not resolved over a (equivalent)"),
        ({"a": -0.3, "b": 6.0}, 6, "provisional", "not resolved over a (worse, but negligible)"),
    ],
)
def test_the_grade_follows_seeds_and_intervals(leads, n_seeds, expected, why):
    found, reason = grade(facts(leads, n_seeds))
    assert found == expected
    assert why in reason


@pytest.mark.parametrize(
    ("leads", "n_seeds", "clause"),
    [
        ({"a": 5.0, "b": 6.0}, 1, "; resolved over every rival"),
        ({"a": 0.01, "b": 6.0}, 1, "; resolved over a on none, over b on 1"),
        ({"a": 0.01, "b": 0.02}, 3, "; resolved over a on none, over b on none"),
        ({"a": 5.0, "b": 6.0}, 0, ""),
    ],
)
def test_headline_says_over_whom_its_leads_are_resolved(leads, n_seeds, clause):
    assert resolved(facts(leads, n_seeds), ["expected_bin_mae"])[0] == clause


def test_holm_counts_every_rival():
    """A lead whose own p is just under .05 is not resolved where a second one is as weak."""
    spread = {"spread": {"seed_sd": 0.1, "image_se": 0.0}}
    weak = next(
        x / 1000
        for x in range(1, 1000)
        if estimate(x / 1000, 6, seed_sd=0.1, image_se=0.0).p_value < 0.045
    )
    assert grade(facts({"a": weak}, 6, **spread))[0] == "supported"
    assert grade(facts({"a": weak, "b": weak}, 6, **spread))[0] == "provisional"
    family = confirmatory(facts({"a": weak, "b": weak}, 6, **spread))
    assert all(
        c.p_holm == pytest.approx(2 * estimate(weak, 6, seed_sd=0.1, image_se=0.0).p_value)
        for c in family
    )


CAPS = {
    "temperature": (
        {
            "own": [
                TemperatureRow("best", [0], {"expected_bin_mae": 22.0}, []),
                TemperatureRow("a", [0], {"expected_bin_mae": 21.0}, []),
            ]
        },
        "temperature_sensitive",
    ),
    "confound": ({"confounds": ["optim.lr: best 1, a 2"]}, "differ outside the variant"),
    "post hoc": (
        {"study": {"runs": [{"variant": "a", "seed": 0, "existing": True, "registered": False}]}},
        "post hoc",
    ),
    "changed rule": (
        {
            "study": {
                "runs": [{"variant": "a", "seed": 0, "existing": True, "registered": True}],
                "earlier_studies": [
                    {
                        "study": "stage1_ablation",
                        "hash8": "1" * 8,
                        "written_at": "2026-01-01",
                        "seeds": 6,
                        "rule_sha256": "x",
                        "changed": ["margins 1 (now 2)"],
                    }
                ],
            }
        },
        "changed after results",
    ),
}


@pytest.mark.parametrize("cap", CAPS)
def test_what_keeps_a_conclusive_lead_at_provisional(cap):
    more, why = CAPS[cap]
    found, reason = grade(facts({"a": 5.0}, 6, **more))
    assert found == "provisional"
    assert why in reason
    assert reason.endswith("without that: conclusive")


def test_more_seeds_under_the_same_rule_are_recorded_and_cap_nothing():
    f = facts({"a": 5.0}, 6)
    earlier = EarlierStudy(
        study="stage1_ablation",
        hash8="1" * 8,
        written_at="2026-01-01",
        seeds=1,
        rule_sha256=f.study.rule_sha256,
        changed=["1 seeds a variant (now 6)"],
    )
    run = RegisteredRun(variant="a", seed=0, existing=True, registered=True)
    f = replace(f, study=replace(f.study, earlier_studies=[earlier], runs=[run]))
    assert grade(f)[0] == "conclusive"
    assert alerts(f) == [
        "CHANGED AFTER RESULTS: study 11111111 (2026-01-01) registered these runs with 1 seeds a "
        "variant (now 6)"
    ]


def test_an_edited_registration_is_loud():
    f = facts({"a": 5.0}, 6, study={"rule_sha256": "0" * 64})
    assert "THE RULE WAS EDITED" in alerts(f)[0]
    assert alerts(facts({"a": 5.0}, 6)) == []


def test_positive_lead_means_the_primary_is_better():
    for name in METRICS:
        f = facts({"a": 1.0}, 6)
        f = replace(f, rule=replace(f.rule, metrics=[name]))
        (difference,) = f.comparison.differences
        f.comparison.differences[0] = replace(difference, metric=name, margin=0.5)
        (found,) = confirmatory(f)
        sign = 1 if METRICS[name].lower_is_better else -1  # `a` minus `best` is +1
        assert found.lead == sign
        assert found.low < found.lead < found.high
        assert (found.share_better > 0.99) == (sign > 0)


def test_a_lead_too_small_for_two_decimals_is_not_told_as_none():
    (line,) = [
        line for line in overturning(facts({"a": 0.0031}, 1)) if line.startswith("other seeds")
    ]
    assert line.startswith(
        "other seeds: the MAE lead over a is 0.003 bins; if it is the true one, at a seed SD of "
        "0.002 bins"
    )


def test_one_seed_names_the_flipping_seed_sd_and_the_seeds_needed():
    manifest = run_manifest(train_wall_s=3000.0, eval_wall_s=600.0)
    f = facts({"a": 0.4}, 1, manifest=manifest, spread={"image_se": 0.05})
    (line,) = [line for line in overturning(f) if line.startswith("other seeds")]
    assert line.startswith(
        "other seeds: the MAE lead over a is 0.40 bins; if it is the true one, at a seed SD of "
        "0.28 bins"
    )
    assert line.endswith("; the margin is 0.50 bins")
    (line,) = texts(would_take(f))
    seeds = int(line.split()[0])
    assert 3 < seeds < 20
    assert f"{2 * (seeds - 1)} more runs, about {2 * (seeds - 1)}.0 h" in line
    assert "if one seed's SD is 0.28 bins (unmeasured)" in line


def test_where_images_are_the_limit_it_says_how_many():
    f = facts({"a": 0.4}, 1, spread={"image_se": 0.5})
    (line,) = texts(would_take(f))
    images = int(line.split()[0].replace(",", ""))
    assert images == pytest.approx(N_IMAGES * (1.96 * 0.5 / 0.5) ** 2, rel=0.05)
    assert f"validation images or more (now {N_IMAGES}) for a MAE interval" in line
    fitted = replace(f, comparison=replace(f.comparison, temperature="fitted"))
    (line,) = texts(would_take(fitted))
    assert f" judged validation images or more (now {N_IMAGES}, about half of the set)" in line
    none_to_fit = replace(fitted.comparison, images=JudgedImages(N_IMAGES, 0))
    (line,) = texts(would_take(replace(fitted, comparison=none_to_fit)))
    assert f" validation images or more (now {N_IMAGES}) for" in line
    assert "half" not in line


def test_equal_values_lead_nobody_and_have_no_negative_zero():
    f = facts({"a": 0.4}, 1)
    (difference,) = f.comparison.differences
    nothing = replace(difference.interval, difference=0.0, low=0.0, high=0.0)
    level = replace(difference, difference=0.0, interval=nothing)
    f = replace(f, comparison=replace(f.comparison, differences=[level]))
    (line,) = texts(evidence(f))
    assert line.startswith("MAE: best is level with a, 95 % interval of the lead [+0, +0] (")
    (line,) = texts(evidence(facts({"a": 0.4}, 1)))
    assert line.startswith("MAE: best leads a by 0.4 bins")


def test_several_seeds_give_an_interval_and_a_measured_need():
    f = facts({"a": 0.4}, 3, spread={"seed_sd": 0.6})
    (line,) = [line for line in overturning(f) if line.startswith("other seeds and images")]
    assert "the MAE lead over a is 0.40 bins, 95 % interval [" in line
    (line,) = texts(would_take(f))
    assert "unmeasured" not in line


def test_another_stopping_point_is_named():
    winners = [StepWinner(40, "a"), StepWinner(80, "best"), StepWinner(120, "best")]
    stability = {"expected_bin_mae": Stability(winners, "best", 80, [], 0.67)}
    lines = overturning(facts({"a": 1.0}, 1, stability=stability))
    assert (
        "another stopping point: at 1 of the 3 common evaluations from step 40 to 120 a led on MAE"
        in lines
    )


def test_deficit_of_the_primary_is_not_what_would_overturn_it():
    """If such a difference turns, it helps the primary."""
    assert not [line for line in overturning(facts({"a": -0.3}, 1)) if "other seeds" in line]
    (line,) = [
        line
        for line in overturning(facts({"a": -0.3, "b": 0.8}, 1))
        if line.startswith("other seeds")
    ]
    assert "lead over b is 0.80 bins" in line


def test_drawn_pictures_make_a_rehearsal():
    manifest = run_manifest(val_images=15, val_images_rendered=12)
    f = facts({"a": 1.0}, 1, manifest=manifest)
    line = "12 of 15 validation pictures are shapes drawn from the annotations"
    assert rehearsal(f.rule, f.runs, NOT_PROBED) == f"{line}. {NO_REASON}"
    f = facts({"a": 1.0}, 1, manifest=replace(manifest, val_images_rendered=0))
    assert rehearsal(f.rule, f.runs, NOT_PROBED) is None


def test_the_card_says_that_pictures_are_tiles():
    tiles = run_manifest(val_images=256, val_images_tiles=256)
    texts = [line.text for line in caveats(facts({"a": 1.0}, 1, manifest=tiles))]
    (line,) = [text for text in texts if "tiles" in text]
    assert line.startswith("256 validation pictures are tiles")
    whole = caveats(facts({"a": 1.0}, 1, manifest=run_manifest(val_images=256)))
    assert not [line for line in whole if "tiles" in line.text]


def test_bar_of_zero_or_rollouts_that_never_parse_make_a_rehearsal():
    bars = replace(RULE.eligible, min_coord_mass=0.0, min_parse_rate=0.0)
    line = "the rule has no bar for coordinate mass, parse rate"
    assert rehearsal(replace(RULE, eligible=bars), [], NOT_PROBED) == f"{line}. {NO_REASON}"
    probe = replace(NOT_PROBED, means={"a": {"parse_rate": 0.0}, "b": {"parse_rate": 0.0}})
    line = "no rollout of any candidate parses"
    assert rehearsal(RULE, [], probe) == f"{line}. {NO_REASON}"
    probe = replace(NOT_PROBED, means={"a": {"parse_rate": 0.5}, "b": {"parse_rate": 0.0}})
    assert rehearsal(RULE, [], probe) is None


def test_caveats_group_slopes_by_variant():
    plateaus = [
        Plateau(f"a s{seed}", "a", seed, "expected_bin_mae", 40, 80, 20.0, 1.0, slope, flat=False)
        for seed, slope in enumerate((-3.0, -5.0))
    ]
    f = facts({"a": 1.0}, 3, plateau=plateaus)
    assert caveats(f)[-1].text.endswith("(% per 100 steps: a -5.0 to -3.0)")
