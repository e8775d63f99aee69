"""The elimination: properties that hold of any evidence, and rollouts as published in February."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from conftest import composed
from hypothesis import given
from hypothesis import strategies as st
from studies import registration
from test_confidence import facts

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import (
    Comparison,
    CurveRow,
    Difference,
    Snapshot,
    SnapshotRow,
    TemperatureRow,
)
from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.pairs import Measured, paired_estimates, variant_pairs
from coordexp.analysis.comparison.probe_findings import Candidate, StudyProbe
from coordexp.analysis.comparison.statistics import influence_estimate
from coordexp.analysis.recommendation.elimination import Criterion, beaten, eliminate
from coordexp.analysis.recommendation.recommend import recommend
from coordexp.config.digests import plain
from coordexp.metrics import lower_is_better
from coordexp.resampling import image_weights
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData, by_variant

F1, CRPS = "f1_agnostic_after", "crps"
N_IMAGES = 24
random_seeds = st.integers(0, 2**32 - 1)


def criterion(rng: np.random.Generator, names: list[str], metric: str, **more) -> Criterion:
    """One-seed evidence in which variants differ by up to some standard errors, some exactly."""
    images = rng.normal(size=(len(names), N_IMAGES)) + rng.normal(size=(len(names), 1))
    if rng.random() < 0.3:
        images[0] = images[-1]
    turn = -1 if lower_is_better(metric) else 1
    leads = {}
    for (i, first), (j, second) in permutations(enumerate(names), 2):
        apart = turn * (images[i] - images[j])
        influence = (apart - apart.mean()) / N_IMAGES
        estimate = influence_estimate(apart.mean(keepdims=True), influence[None])
        estimate = replace(estimate, n_seeds=1) if rng.random() < 0.9 else None
        value = float(apart.mean())
        leads[first, second] = Lead(first, second, metric, value, 0.1, estimate)
    values = dict(zip(names, images.mean(1).tolist(), strict=True))
    return Criterion("rollouts", metric, 0.1, values, leads, **more)


def evidence(seed: int) -> tuple[list[str], list[Criterion]]:
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(rng.integers(2, 6))]
    return names, [criterion(rng, names, F1, seed_sd=0.05), criterion(rng, names, CRPS)]


@given(random_seeds)
def test_elimination_leaves_somebody_and_the_best_of_the_first(seed):
    names, found = evidence(seed)
    dropped, left = eliminate(names, found)
    assert left
    assert sorted([*left, *(e.variant for e in dropped)]) == names
    assert max(found[0].values, key=found[0].values.get) not in {
        e.variant for e in dropped if e.metric == F1
    }
    assert all(e.lead > e.margin for e in dropped)


@given(random_seeds)
def test_leads_within_their_margins_eliminate_nobody(seed):
    names, found = evidence(seed)
    widest = [max(lead.value for lead in c.leads.values()) for c in found]
    wide = [replace(c, margin=value) for c, value in zip(found, widest, strict=True)]
    assert eliminate(names, wide) == ([], names)


def test_random_evidence_eliminates_some_and_leaves_some():
    """Otherwise the properties here would say nothing."""
    outcomes = [eliminate(*evidence(seed)) for seed in range(200)]
    assert sum(bool(dropped) for dropped, _ in outcomes) > 50
    assert sum(len(left) > 1 for _, left in outcomes) > 50
    assert {e.metric for dropped, _ in outcomes for e in dropped} == {F1, CRPS}


@given(random_seeds, st.randoms(use_true_random=False))
def test_order_of_the_variants_changes_nothing(seed, shuffler):
    names, found = evidence(seed)
    dropped, left = eliminate(names, found)
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    reordered = [
        replace(c, values={name: c.values[name] for name in shuffled if name in c.values})
        for c in found
    ]
    dropped_again, left_again = eliminate(shuffled, reordered)
    assert sorted(left_again) == sorted(left)
    assert {(e.variant, e.metric) for e in dropped_again} == {
        (e.variant, e.metric) for e in dropped
    }


@given(
    random_seeds, st.floats(0, 0.5).filter(lambda sd: sd == 0 or sd > 1e-6), st.floats(0.001, 0.5)
)
def test_larger_declared_seed_sd_eliminates_no_more(seed, sd, more):
    names, (rollouts, _) = evidence(seed)
    few, many = (
        {e.variant for e in beaten(replace(rollouts, seed_sd=s), names)} for s in (sd + more, sd)
    )
    assert few <= many


# ---- rollouts as published in February 2026, with a result per image ----

VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
STEP = 120
RULE = composed().study.rule


def measured(levels: dict[str, float], image_sds: dict[str, float], seed: int) -> Measured:
    """A run whose metrics have these means over 200 images, and this SD between images."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.normal(0, image_sds[name], 200) for name in levels}
    values = {name: levels[name] + noise[name] - noise[name].mean() for name in levels}  # [I]
    influence = {name: (x - x.mean()) / len(x) for name, x in values.items()}
    shares = image_weights(200) / 200
    draws = {name: shares @ x for name, x in values.items()}
    return Measured(np.arange(200), levels, lambda: influence, lambda: draws)


def differences(of_variant: dict[str, Measured], runs: list[RunData]) -> list[Difference]:
    found = []
    for pair in variant_pairs(by_variant(runs)):
        sides = [of_variant[pair.first]], [of_variant[pair.second]]
        for name, estimate in paired_estimates(*sides, sides[0][0].values).items():
            margin = RULE.margins.get(name)
            gap = estimate.difference
            found.append(Difference(pair.first, pair.second, name, margin, gap, estimate, None))
    return found


def nearly_tied(runs: list[RunData]) -> Comparison:
    """Token metrics of one seed that differ by less than images alone change them."""
    levels = dict(zip(VARIANTS, ((12.0, 20.88), (12.0, 20.90), (12.3, 21.37)), strict=True))
    rows = {v: {"crps": crps, "expected_bin_mae": mae} for v, (crps, mae) in levels.items()}
    sds = {"crps": 8.0, "expected_bin_mae": 10.0}
    of_variant = {v: measured(rows[v], sds, i) for i, v in enumerate(VARIANTS)}
    return replace(
        facts({}, 1).comparison,
        temperature="fitted",
        snapshots=[Snapshot(STEP, [SnapshotRow(v, [0], rows[v]) for v in VARIANTS])],
        temperatures={"fitted": [TemperatureRow(v, [0], rows[v], [1.0]) for v in VARIANTS]},
        curves=[CurveRow(v, 0, STEP, rows[v]) for v in VARIANTS],
        differences=differences(of_variant, runs),
    )


def decided(f1: dict[str, float]):
    """The recommendation for these F1s: 200 images, SD .3 of a difference, one seed."""
    runs = [RunData(v, 0, Log(None), None, None) for v in VARIANTS]
    of_variant = {
        v: measured({F1: f1[v]}, {F1: 0.3 / np.sqrt(2)}, 10 + i) for i, v in enumerate(VARIANTS)
    }
    means = {v: {F1: f1[v], "parse_rate": 1.0} for v in VARIANTS}
    candidates = [Candidate(v, 0, "complete", None, "", "", 200, {}, {}, {}, []) for v in VARIANTS]
    probe = StudyProbe(STEP, {}, candidates, [], means, differences(of_variant, runs))
    plan = registration(rule=plain(RULE))
    return recommend(plan, runs, Audit([], [], []), nearly_tied(runs), probe)


def test_rollouts_like_februarys_make_mixed_the_primary():
    found = decided({"mixed": 0.42, "pure_ce": 0.27, "softce_w1_gate": 0.24})
    assert found.primary.variant == "mixed"
    assert found.decision.left == ["mixed"]
    assert {(e.variant, e.by, e.tier) for e in found.decision.eliminated} == {
        ("pure_ce", "mixed", "rollouts"),
        ("softce_w1_gate", "mixed", "rollouts"),
    }
    assert all(e.p_holm < 0.05 for e in found.decision.eliminated)
    assert found.confidence.stage2_fitness.grade == "provisional"


@pytest.mark.parametrize("lead", [0.0, 0.05])
def test_small_rollout_leads_of_one_seed_leave_all(lead):
    found = decided({"mixed": 0.3 + lead, "pure_ce": 0.3, "softce_w1_gate": 0.3})
    assert sorted(found.decision.left) == sorted(VARIANTS)
    assert found.decision.preference
