"""The statistics against brute force, scipy and simulation; and docs/calibration.md, in small."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from coordexp.analysis.comparison.bootstrap import bootstrap_draws, bootstrap_estimate
from coordexp.analysis.comparison.findings import Stability, WindowSummary
from coordexp.analysis.comparison.power import flip_seed_sd, seeds_needed
from coordexp.analysis.comparison.stability import rank_stability, window_summary
from coordexp.analysis.comparison.statistics import (
    Estimate,
    crossed_estimate,
    holm,
    influence_estimate,
    margin_verdict,
    satterthwaite,
    variance_parts,
)
from coordexp.metrics import REGISTRY
from coordexp.resampling import image_weights
from coordexp.storage.token_tables import TokenColumns

ROOT = Path(__file__).parents[1]
MAE, P90 = REGISTRY["expected_bin_mae"], REGISTRY["expected_bin_abs_err_p90"]
random_seeds = st.integers(0, 2**32 - 1)


# ---- bootstrap over images ----


def tokens_of(counts: list[int], seed: int, ties: bool) -> TokenColumns:
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(counts)), counts)
    errors = (
        rng.integers(0, 6, len(index)).astype(float) if ties else rng.lognormal(3, 1, len(index))
    )
    return TokenColumns(np.arange(len(counts)), index, {MAE.name: errors, P90.name: errors})


def written_out(tokens: TokenColumns, weights: np.ndarray) -> list[np.ndarray]:
    """The tokens of each resample, one by one."""
    return [np.repeat(tokens.values[MAE.name], row[tokens.image_index]) for row in weights]


@given(st.lists(st.integers(1, 60), min_size=2, max_size=25), random_seeds, st.booleans())
def test_draws_are_exact_over_the_tokens_of_each_resample(counts, seed, ties):
    tokens, weights = tokens_of(counts, seed, ties), image_weights(len(counts), 40)
    resamples = written_out(tokens, weights)
    assert bootstrap_draws(tokens, MAE, weights) == pytest.approx(
        [r.mean() for r in resamples], rel=1e-12
    )
    assert bootstrap_draws(tokens, P90, weights) == pytest.approx(
        [np.quantile(r, 0.9) for r in resamples], rel=1e-12
    )
    for q in (0.0, 0.01, 0.5, 1.0):
        found = bootstrap_draws(tokens, replace(P90, quantile=q), weights)
        assert found == pytest.approx([np.quantile(r, q) for r in resamples], rel=1e-12)


def test_a_resample_with_a_far_off_quantile_is_exact_too():
    tokens = tokens_of([2, *[4000] * 8, 2], 0, ties=False)
    tokens.values[P90.name][:2], tokens.values[P90.name][-2:] = (0.1, 0.2), (5000.0, 6000.0)
    easiest, hardest = (np.eye(10, dtype=np.uint16)[[i]] * 10 for i in (0, 9))
    assert bootstrap_draws(tokens, P90, easiest) == pytest.approx([0.2])
    assert bootstrap_draws(tokens, P90, hardest) == pytest.approx([6000.0])
    weights = np.vstack([hardest, image_weights(10, 5), easiest])
    assert bootstrap_draws(tokens, P90, weights) == pytest.approx(
        [np.quantile(r, 0.9) for r in written_out(tokens, weights)]
    )


def test_weights_resample_all_images_alike_for_every_table():
    weights = image_weights(50)
    assert weights.shape == (2000, 50)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, image_weights.__wrapped__(50))
    assert weights.mean(0) == pytest.approx(np.ones(50), abs=0.12)
    assert weights.var() == pytest.approx(49 / 50, rel=0.02)  # multinomial
    assert len(np.unique(weights, axis=0)) == 2000
    with pytest.raises(ValueError, match="read-only"):
        weights[0, 0] = 3


def test_bootstrap_averages_seeds_and_pairs_resamples():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (2, 500)), rng.normal(0.5, 1, (2, 500))
    found = bootstrap_estimate(first, second, 0.4)
    draws = (second[0] + second[1] - first[0] - first[1]) / 2
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert (found.difference, found.share_above_0) == (0.4, np.mean(draws > 0))
    assert found.se == pytest.approx(draws.std(ddof=1))
    # Over seeds nothing is known, so nothing is claimed.
    assert found.p_value is found.seed_var is found.df is None
    alone = bootstrap_estimate(first[0], first[0], 0.0)
    assert (alone.low, alone.high, alone.share_above_0) == (0.0, 0.0, 0.5)


@given(random_seeds, st.integers(1, 2))
def test_swapping_the_sides_turns_the_bootstrap_round(seed, n_seeds):
    first, second = np.random.default_rng(seed).normal(size=(2, n_seeds, 100))
    found, turned = bootstrap_estimate(first, second, 1.5), bootstrap_estimate(second, first, -1.5)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert turned.share_above_0 == pytest.approx(1 - found.share_above_0)


def test_without_resampling_nearly_the_same():
    rng = np.random.default_rng(3)
    influence = rng.normal(0, 0.1, (2, 400))
    influence -= influence.mean(1, keepdims=True)
    found = influence_estimate(np.array([1.0, 2.0]), influence)
    draws = 1.5 + (image_weights(400) - 1.0) @ influence.mean(0)
    expected = bootstrap_estimate(np.zeros(2000), draws, 1.5)
    assert (found.difference, found.p_value, found.seed_var, found.df) == (1.5, None, None, 399)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.2)
    one = influence_estimate(np.array([1.5]), influence.mean(0, keepdims=True))
    assert (one.low, one.high) == pytest.approx((found.low, found.high))


# ---- crossed seeds and images ----


def two_way(rng, n_studies, n_seeds, n_images, seed_sd, image_sd, both_sd):
    """Differences [R, S] and influences [R, S, I] of a two-way random model, equal counts."""
    apart = (
        seed_sd * rng.normal(size=(n_studies, n_seeds, 1))
        + image_sd * rng.normal(size=(n_studies, 1, n_images))
        + both_sd * rng.normal(size=(n_studies, n_seeds, n_images))
    )
    differences = apart.mean(-1)
    return differences, (apart - differences[..., None]) / n_images


def estimate_of(differences, influence) -> Estimate:
    return crossed_estimate(np.asarray(differences, float), np.asarray(influence, float))


@given(random_seeds, st.integers(3, 12))
def test_without_image_variance_it_is_the_paired_t_test(seed, n_seeds):
    first, second = np.random.default_rng(seed).normal(24, 1, (2, n_seeds))
    found = estimate_of(second - first, np.zeros((n_seeds, 40)))
    expected = stats.ttest_rel(second, first)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(
        tuple(expected.confidence_interval(0.95)), rel=1e-9
    )
    assert found.df == pytest.approx(n_seeds - 1)
    assert found.share_above_0 == pytest.approx(stats.t.cdf(expected.statistic, n_seeds - 1))


@given(random_seeds, st.integers(3, 6), st.integers(4, 50))
def test_without_seed_variance_it_is_the_t_test_over_images(seed, n_seeds, n_images):
    apart = np.random.default_rng(seed).normal(0.5, 1, n_images)
    found = estimate_of(
        [apart.mean()] * n_seeds, np.tile((apart - apart.mean()) / n_images, (n_seeds, 1))
    )
    expected = stats.ttest_1samp(apart, 0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx(
        tuple(expected.confidence_interval(0.95)), rel=1e-6
    )
    assert found.df == pytest.approx(n_images - 1)


@pytest.mark.parametrize(
    ("seed_sd", "image_sd", "both_sd"), [(1.0, 6.0, 4.0), (0.3, 2.0, 9.0), (0.0, 6.0, 4.0)]
)
def test_variance_parts_estimate_what_they_say(seed_sd, image_sd, both_sd):
    differences, influence = two_way(
        np.random.default_rng(5), 6000, 4, 30, seed_sd, image_sd, both_sd
    )
    v_s, v_i, v_si = variance_parts(differences, influence)
    shared = both_sd**2 / (4 * 30)
    assert np.mean(v_s) == pytest.approx(seed_sd**2 / 4 + shared, rel=0.04)
    assert np.mean(v_i) == pytest.approx(image_sd**2 / 30 + shared, rel=0.04)
    assert np.mean(v_si) == pytest.approx(shared, rel=0.04)
    assert differences.mean(-1).var() == pytest.approx(np.mean(v_s + v_i - v_si), rel=0.06)


@pytest.mark.parametrize(
    ("sds", "least", "most"), [((1.0, 6.0, 4.0), 0.96, 1.06), ((0.0, 0.0, 4.0), 1.0, 1.4)]
)
def test_the_variance_is_that_of_the_mean_difference(sds, least, most):
    """The interaction is counted once; where there is nothing else, the cut at 0 costs a little."""
    differences, influence = two_way(np.random.default_rng(7), 6000, 10, 40, *sds)
    variance, _ = satterthwaite(10, 40, *variance_parts(differences, influence))
    assert least < np.mean(variance) / differences.mean(-1).var() < most


def test_degrees_of_freedom_by_hand():
    # Chi-squared with 2 degrees of freedom has the median 2 ln 2.
    median_unbiased = 2 / (2 * math.log(2))
    variance, df = satterthwaite(3, 20, 1.0, 2.0, 0.5)
    assert variance == 1.0 + 2.0 - 0.5
    expected = (median_unbiased + 2.0 - 0.5) ** 2 / (
        median_unbiased**2 / 2 + 2.0**2 / 19 + 0.5**2 / (2 * 19)
    )
    assert df == pytest.approx(expected)


def test_a_study_is_summed_up_as_among_many():
    differences, influence = two_way(np.random.default_rng(6), 5, 3, 20, 0.5, 5, 5)
    parts = np.stack(variance_parts(differences, influence))
    variance, df = satterthwaite(3, 20, *parts)
    for i in range(5):
        found = estimate_of(differences[i], influence[i])
        assert (found.seed_var, found.image_var, found.interaction_var) == pytest.approx(
            tuple(parts[:, i] * [3, 1, 3])
        )
        assert (found.se**2, found.df) == pytest.approx((variance[i], df[i]))
        half = stats.t.ppf(0.975, df[i]) * math.sqrt(variance[i])
        assert (found.low, found.high) == pytest.approx(
            (differences[i].mean() - half, differences[i].mean() + half)
        )
        assert found.p_value == pytest.approx(2 * min(found.share_above_0, 1 - found.share_above_0))


def numbers(estimate: Estimate) -> dict[str, float]:
    return {k: value for k, value in asdict(estimate).items() if k not in ("method", "n_seeds")}


models = st.tuples(
    random_seeds,
    st.integers(3, 8),
    st.integers(3, 30),
    *[st.sampled_from([0.0, 0.1, 1.0, 10.0])] * 3,
)


@given(models)
def test_never_surer_than_seeds_alone_or_images_alone(model):
    seed, n_seeds, n_images, *sds = model
    differences, influence = two_way(np.random.default_rng(seed), 20, n_seeds, n_images, *sds)
    parts = variance_parts(differences, influence)
    variance, df = satterthwaite(n_seeds, n_images, *parts)
    assert (variance >= np.maximum(parts[0], parts[1]) * (1 - 1e-12)).all()
    assert (df >= min(n_seeds, n_images) - 1 - 1e-9).all()


@given(models)
def test_order_and_unit_do_not_matter_and_a_swap_negates(model):
    seed, n_seeds, n_images, *sds = model
    assume(any(sds))
    rng = np.random.default_rng(seed)
    (differences,), (influence,) = two_way(rng, 1, n_seeds, n_images, *sds)
    found = numbers(estimate_of(differences, influence))
    seeds, images = rng.permutation(n_seeds), rng.permutation(n_images)
    assert numbers(estimate_of(differences[seeds], influence[seeds][:, images])) == pytest.approx(
        found, rel=1e-6, abs=1e-9
    )
    turned = estimate_of(-differences, -influence)
    assert (turned.difference, turned.low, turned.high) == pytest.approx(
        (-found["difference"], -found["high"], -found["low"])
    )
    assert turned.share_above_0 == pytest.approx(1 - found["share_above_0"])
    scaled = estimate_of(7 * differences, 7 * influence)
    assert (scaled.low, scaled.df, scaled.p_value) == pytest.approx(
        (7 * found["low"], found["df"], found["p_value"]), rel=1e-6
    )


def test_equal_runs_differ_by_nothing():
    found = estimate_of([0.0] * 3, np.zeros((3, 10)))
    assert (found.difference, found.low, found.high, found.share_above_0, found.p_value) == (
        0,
        0,
        0,
        0.5,
        1,
    )
    assert estimate_of([0.25] * 3, np.zeros((3, 10))).p_value == 0


def test_a_diverged_seed_or_two_seeds_give_no_estimate():
    for differences, influence in (
        ([1.0, 2.0], np.ones((2, 9))),
        ([1.0, 2.0, math.nan], np.ones((3, 9))),
    ):
        with pytest.raises(ValueError, match="three seeds or more"):
            estimate_of(differences, influence)
    with pytest.raises(ValueError, match="every one of them finite"):
        estimate_of([1.0, 2.0, 3.0], np.full((3, 9), math.inf))


# ---- families, margins, what it takes ----


def closed_test(p_values: list[float]) -> list[float]:
    """Holm as a closed test: the largest Bonferroni p-value of any set that holds this one."""
    names = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(names, size)]
    return [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in names
    ]


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_the_closed_bonferroni_test(p_values):
    assert holm(p_values) == pytest.approx(closed_test(p_values), abs=1e-15)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.6, 0.9, "superior"),
        (0.5, 0.9, "better"),
        (0.1, 0.9, "better"),
        (0.1, 0.5, "better, but negligible"),
        (0.0, 0.5, "equivalent"),
        (-0.5, 0.5, "equivalent"),
        (0.0, 0.0, "equivalent"),
        (0.0, 0.6, "inconclusive"),
        (-0.6, 0.4, "inconclusive"),
        (-0.9, 0.9, "inconclusive"),
        (-0.5, -0.1, "worse, but negligible"),
        (-0.9, -0.1, "worse"),
        (-0.9, -0.5, "worse"),
        (-0.9, -0.6, "inferior"),
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_verdicts(low, high, verdict):
    assert margin_verdict(low, high, 0.5) == verdict


@given(st.floats(-3, 3), st.floats(0, 3), st.floats(0.01, 2))
def test_verdicts_are_mirrored(low, width, margin):
    mirror = {
        "superior": "inferior",
        "better": "worse",
        "better, but negligible": "worse, but negligible",
    }
    verdict = margin_verdict(low, low + width, margin)
    assert margin_verdict(-low - width, -low, margin) == (
        mirror | {b: a for a, b in mirror.items()}
    ).get(verdict, verdict)


def test_float_noise_at_a_bound_decides_nothing():
    for margin, other in ((0.1 + 0.2, 0.3), (0.3, 0.1 + 0.2)):
        assert margin_verdict(other, 0.9, margin) == "better"
        assert margin_verdict(0.1, other, margin) == "better, but negligible"
        assert margin_verdict(-other, other, margin) == "equivalent"
        assert margin_verdict(-0.9, -other, margin) == "worse"
    assert margin_verdict(1e-17, 0.9, 0.5) == "inconclusive"
    assert margin_verdict(0.5 * (1 + 1e-6), 0.9, 0.5) == "superior"


def crossed(
    seed_var: float, image_var: float, interaction_var: float, n_images: int | None = 256
) -> Estimate:
    return Estimate(
        1.0,
        0.0,
        2.0,
        0.5,
        5.0,
        0.9,
        0.1,
        "crossed seeds x images",
        seed_var,
        image_var,
        interaction_var,
        n_images,
    )


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0, 5.0])
def test_seeds_needed_without_images_is_the_t_test_sample_size(margin):
    enough = [n for n in range(3, 1001) if stats.t.ppf(0.975, n - 1) * 0.7 / math.sqrt(n) <= margin]
    assert seeds_needed(crossed(0.49, 0.0, 0.0), 3, margin) == enough[0]


@pytest.mark.parametrize("n_seeds", [4, 9])
def test_seeds_needed_reproduces_the_width_it_was_measured_at(n_seeds):
    (differences,), (influence,) = two_way(np.random.default_rng(8), 1, n_seeds, 100, 2.0, 6.0, 4.0)
    found = estimate_of(differences, influence)
    assert found.seed_var > found.interaction_var
    half = (found.high - found.low) / 2
    assert seeds_needed(found, n_seeds, half * (1 + 1e-9)) == n_seeds
    assert seeds_needed(found, n_seeds, half * (1 - 1e-9)) == n_seeds + 1


def test_seeds_cannot_make_up_for_images():
    found = crossed(0.25, 0.3, 0.1)
    floor = 1.969 * math.sqrt(0.3 - 0.1 / 5)  # t of 255 degrees of freedom
    assert seeds_needed(found, 5, 0.98 * floor) is None
    assert seeds_needed(found, 5, 1.1 * floor) is not None
    assert seeds_needed(crossed(1e6, 0.0, 0.0), 3, 0.1) is None  # more than 1000
    one_seed = bootstrap_estimate(np.zeros(50), np.random.default_rng(0).normal(0, 0.1, 50), 0.3)
    with pytest.raises(ValueError, match="variance over seeds"):
        seeds_needed(one_seed, 1, 0.5)
    # An assumed one: 2.571 · √(.25/6 + .01) = .58.
    assert seeds_needed(replace(one_seed, seed_var=0.25), 1, 0.6) == 6


@given(st.floats(0.01, 10), st.floats(0, 1))
def test_one_repeat_in_six_flips(lead, part):
    image_se = part * lead
    sd = flip_seed_sd(lead, image_se)
    assert stats.norm.cdf(-lead / math.sqrt(2 * sd**2 + image_se**2)) == pytest.approx(
        stats.norm.cdf(-1)
    )
    assert flip_seed_sd(-lead, image_se) == sd
    assert flip_seed_sd(part, lead + part) == 0


# ---- curves ----

A, B = (
    {10 * s: v for s, v in enumerate(values, 1)}
    for values in ([5, 4, 3, 3, 3, 2, 2, 1], [6, 3, 3, 4, 4, 3, 3, 2])
)


def winners(found: Stability) -> list[tuple[int, str | None]]:
    return [(at.step, at.winner) for at in found.winners]


def test_rank_stability_by_hand():
    found = rank_stability({"a": A, "b": B}, list(A), lower_is_better=True)
    assert winners(found) == [
        (10, "a"),
        (20, "b"),
        (30, None),
        *((step, "a") for step in (40, 50, 60, 70, 80)),
    ]
    assert (found.last_winner, found.settled_from, found.share) == ("a", 40, 6 / 8)
    assert found.leave_one_block_out == ["a"] * 4
    higher = rank_stability({"a": A, "b": B}, list(A), lower_is_better=False)
    assert (higher.last_winner, higher.settled_from, higher.share) == ("b", 40, 6 / 8)


def test_a_lead_that_hangs_on_one_block_is_shown():
    a, b = dict.fromkeys(range(8), 3.0), dict.fromkeys(range(8), 3.1) | {0: 2.0, 1: 2.0}
    assert rank_stability({"a": a, "b": b}, range(8), True).leave_one_block_out == [
        "a",
        "b",
        "b",
        "b",
    ]
    assert rank_stability({"a": a, "b": b}, range(8), True, n_blocks=2).leave_one_block_out == [
        "a",
        "b",
    ]
    assert rank_stability({"a": a, "b": b}, [5], True).leave_one_block_out == []
    assert rank_stability({"a": a, "b": b}, [4, 5], True).leave_one_block_out == ["a", "a"]


def test_only_exact_common_finite_steps_count():
    gappy = {s: v for s, v in B.items() if s != 20} | {40: math.nan, 55: 0.0}
    found = rank_stability({"a": A, "b": gappy}, [20, 30, 40, 50, 55, 60], lower_is_better=True)
    assert winners(found) == [(30, None), (50, "a"), (60, "a")]
    assert rank_stability({"a": A, "b": {}}, list(A), True).last_winner is None
    assert rank_stability({}, [1], True).settled_from is None


def test_a_tie_at_the_end_has_no_winner():
    found = rank_stability({"a": {1: 1.0, 2: 2.0}, "b": {1: 2.0, 2: 2.0}}, [1, 2], True)
    assert (found.last_winner, found.settled_from, found.share) == (None, None, 0.0)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12), st.booleans())
def test_rank_stability_against_brute_force(values, lower):
    curves = {
        name: {s: float(row[i]) for s, row in enumerate(values)} for i, name in enumerate("abc")
    }
    found = rank_stability(curves, range(len(values)), lower)
    for step, winner in winners(found):
        beats = [n for n in curves if all(m == n or ((curves[n][step] < curves[m][step]) == lower
                 and curves[n][step] != curves[m][step]) for m in curves)]  # fmt: skip
        assert [winner] == (beats or [None])
    names = [winner for _, winner in winners(found)]
    assert found.last_winner == names[-1]
    settled = [s for s in range(len(names)) if names[-1] and set(names[s:]) == {names[-1]}]
    assert found.settled_from == (settled[0] if settled else None)
    assert found.share == (names.count(names[-1]) / len(names) if names[-1] else 0)


def test_window_summary():
    found = window_summary(A, B, list(A))
    assert found == WindowSummary(8, 1.0, -1, 1, 6.5 / 8)  # one tie
    assert window_summary(A, {20: 5.0, 30: math.nan, 31: 9.0}, [20, 30, 31]).n == 1
    assert window_summary(A, B, [999]) == WindowSummary(0, None, None, None, None)


# ---- calibration, as docs/calibration.md claims it: fewer studies, the same seeds each time ----


@pytest.fixture(scope="module")
def calibration():
    spec = importlib.util.spec_from_file_location(
        "calibration", ROOT / "benchmarks" / "calibration.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


def within(calibration, coverage: float) -> bool:
    low, high = calibration.BAND
    return low <= coverage <= high


def test_crossed_intervals_cover_and_narrow_with_more_seeds(calibration):
    for truth in (0.0, 0.5, 1.5):
        found = [calibration.crossed_world(truth, n_seeds, 1500) for n_seeds in calibration.SEEDS]
        assert all(within(calibration, f["coverage"]) for f in found)
        assert truth > 0.5 or all(f["superior"] <= 0.05 for f in found)
        assert truth == 0 or [f["better"] for f in found] == sorted(f["better"] for f in found)
        assert [f["half_width"] for f in found] == sorted(
            (f["half_width"] for f in found), reverse=True
        )


@pytest.mark.parametrize("seed_sd", [0.0, 2.0, 4.0])
def test_three_seeds_suffice_however_much_seeds_matter(calibration, seed_sd):
    assert within(calibration, calibration.crossed_world(0.0, 3, 3000, seed_sd)["coverage"])


def test_p90_intervals_hold_the_truth(calibration):
    for found in calibration.token_world(6, 800).values():
        assert within(calibration, found["coverage"])
    assert found["superior"] <= 0.05


def test_crossing_curves_are_flagged(calibration):
    crossing, parallel = (calibration.curve_world(3, 1000, crossing) for crossing in (True, False))
    assert crossing["flagged"] > 0.95
    assert parallel["flagged"] < 0.1
    assert within(calibration, crossing["coverage"])


def test_a_variant_with_a_diverged_seed_is_never_recommended(calibration):
    found = calibration.diverged_world(6, 300)
    assert (found["recommended"], found["claimed"]) == (0, 0)
    assert found["if_dropped"] > 0.3  # what dropping it would have claimed


def test_one_seed_covers_its_checkpoints_and_not_its_variants(calibration):
    for interval in calibration.one_seed_world(400, 300).values():
        coverage = [calibration.one_seed_coverage(interval, sd) for sd in (0.0, 1.0, 2.0, 4.0)]
        assert within(calibration, coverage[0])
        assert coverage == sorted(coverage, reverse=True)
        assert coverage[-1] < 0.75


def test_the_page_shows_every_table_and_no_broken_claim(calibration):
    page = calibration.PAGE.read_text()
    for name in calibration.TABLES:
        shown = page.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert shown.count("\n| ") >= 4, name
    assert calibration.BROKEN not in page
