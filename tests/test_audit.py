"""The audit on logs whose truth is known: each fault, and sound runs, in hundreds of draws."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import eval_row, run_config, write_run
from synthetic import GAS, N_DRAWS, TERMS, draws, sound, times

from coordexp.analysis.audit.audit import audit
from coordexp.analysis.audit.findings import (
    Check,
    RatioPair,
    RunAudit,
    read_audit,
    write_audit,
)
from coordexp.analysis.audit.ratios import family_ratios
from coordexp.storage.logs.log import Log
from coordexp.storage.manifest import read_manifest
from coordexp.study.inputs import RunData


@pytest.fixture(autouse=True)
def here(in_tmp):
    return in_tmp


def verdict(run: RunData) -> RunAudit:
    return audit([run]).runs[0]


def most(entries: list[RunAudit], expected: str, share: float) -> None:
    counts = Counter(entry.verdict for entry in entries)
    odd = [entry.why for entry in entries if entry.verdict != expected]
    assert counts[expected] >= share * len(entries), (counts, odd[:3])


# --- the scale ---


@pytest.mark.parametrize("subset", [False, True])
def test_sound_runs_are_not_accused(subset):
    found = draws(lambda rng: verdict(sound(rng, subset=subset)), 400)
    most(found, "consistent", 0.99)
    assert all(entry.passed for entry in found if entry.verdict == "consistent"), (
        "no other check accuses them"
    )


@pytest.mark.parametrize(
    ("label", "factor"), [("≈ 1/GAS", lambda _, gas: 1 / gas), ("≈ GAS", lambda _, gas: gas)]
)
def test_a_gas_factor_is_named_with_the_families_that_show_it(label, factor):
    found = draws(lambda rng: verdict(sound(rng, scale=times(factor))))
    most(found, label, 0.99)
    assert not any(entry.passed for entry in found)
    assert all(
        "every loss family" in entry.why for entry in found if entry.grad_accumulation_steps > 2
    )
    in_text = draws(lambda rng: verdict(sound(rng, "mixed", scale=times(factor, "text"))), 100)
    most(in_text, label, 0.99)
    assert all(
        {"base_ce/loss", "text_ce/loss"} <= named(entry) <= {"loss", "base_ce/loss", "text_ce/loss"}
        for entry in in_text
    )
    in_gate = draws(lambda rng: verdict(sound(rng, "mixed", scale=times(factor, "gate"))), 100)
    most(in_gate, label, 0.99)
    assert sum("coord_softce_w1/gate" in named(entry) for entry in in_gate) >= 99


def named(entry: RunAudit) -> set[str]:
    return set(entry.why.partition(":")[0].split(", "))


def test_another_factor_is_inconsistent():
    found = draws(
        lambda rng: verdict(sound(rng, gas=8, scale=times(lambda *_: 1.45 ** rng.choice([-1, 1]))))
    )
    most(found, "inconsistent", 0.95)


@pytest.mark.parametrize("subset", [False, True])
def test_a_slow_drift_is_named(subset):
    """By a factor of 1.6 to 3 over the run, up or down."""

    def drifting(rng: np.random.Generator) -> RunAudit:
        factor = rng.uniform(1.6, 3) ** rng.choice([-1, 1])
        return verdict(sound(rng, subset=subset, scale=times(lambda progress, _: factor**progress)))

    found = draws(drifting)
    most(found, "drift", 0.95)
    assert not any(entry.passed for entry in found)


def test_a_small_term_may_drift_and_a_large_one_may_not():
    """A hundredth of the loss overfits before the rest does; a fault of it would be a factor."""

    def wandering(rng, term):
        return verdict(sound(rng, "mixed", scale=times(lambda progress, _: 0.4**progress, term)))

    most(draws(lambda rng: wandering(rng, "gate"), 40), "consistent", 0.97)
    most(draws(lambda rng: wandering(rng, "soft_ce"), 40), "drift", 0.9)


def test_a_rehearsal_of_three_evaluations_is_not_accused():
    """So few pairs say nothing of their noise."""
    most(draws(lambda rng: verdict(sound(rng, n_evals=3)), 400), "consistent", 0.99)


def test_without_accumulation_nothing_is_identifiable():
    entry = verdict(sound(np.random.default_rng(1), gas=1))
    assert (entry.verdict, entry.passed) == ("not identifiable", True)
    run = sound(np.random.default_rng(1))
    for row in run.log.train.values():
        del row["accum/grad_steps"]
    assert "GAS unknown" in verdict(run).why


def test_gas_comes_from_the_configuration_if_the_log_lacks_it():
    run = sound(np.random.default_rng(1))
    for row in run.log.train.values():
        del row["accum/grad_steps"]
    config = run_config(f"variant={run.variant}", "train.images_per_step=16", "train.micro_batch=4")
    assert verdict(replace(run, config=config)).grad_accumulation_steps == 4
    two = replace(
        run,
        config=config,
        manifest=read_manifest(write_run(run.variant, eval_row(1, 1, 1, 1, 1, 1), processes=2)),
    )
    assert verdict(two).grad_accumulation_steps == 2


def test_pairs_are_those_of_the_nearest_train_row_before():
    rng = np.random.default_rng(0)
    log = Log(Path("logging.jsonl"))
    log.train = {
        int(step): {"loss": rng.uniform(1, 2)}
        for step in rng.choice(np.arange(1, 300), 40, replace=False)
    }
    log.evals = {
        int(step): {"loss": rng.uniform(1, 2)}
        for step in rng.choice(np.arange(1, 300), 20, replace=False)
    }
    expected = []
    for step in sorted(log.evals):
        earlier = [other for other in log.train if other <= step]
        if earlier:
            nearest = min(earlier, key=lambda other: step - other)
            ratio = log.train[nearest]["loss"] / log.evals[step]["loss"]
            expected.append(RatioPair(step, nearest, ratio, None))
    found = family_ratios(log, "loss")
    assert found.pairs == expected
    counted = [pair.ratio for pair in expected if pair.step >= found.from_step]
    assert (found.n, found.min, found.max) == (len(counted), min(counted), max(counted))
    assert found.median == pytest.approx(float(np.median(counted)))


def test_train_rows_that_lag_behind_a_falling_loss_do_not_count():
    """Train rows are means over the 40 steps before; the loss falls tenfold in 200 of 1200."""
    log = Log(Path("logging.jsonl"), max_steps=1200)
    loss = lambda step: 1 + 9 * np.exp(-step / 50)  # noqa: E731
    for step in range(40, 1201, 40):
        log.train[step] = {
            "loss": float(np.mean(loss(np.arange(step - 39, step + 1)))),
            "accum/grad_steps": 2.0,
        }
        log.evals[step] = {"loss": float(loss(step))}
    entry = verdict(RunData("any", 0, log))
    family = entry.families["loss"]
    assert family.pairs[0].ratio > 1.2
    assert 160 <= family.from_step <= 400
    assert family.max < 1.05
    assert entry.verdict == "consistent"


def test_a_loss_that_never_settles_is_judged_on_its_second_half():
    log = Log(Path("logging.jsonl"), max_steps=400)
    for step in range(40, 401, 40):
        log.train[step] = {"loss": 1.2 * 0.5 ** (step / 40) / 8, "accum/grad_steps": 8.0}
        log.evals[step] = {"loss": 0.5 ** (step / 40)}
    entry = verdict(RunData("any", 0, log))
    assert (entry.families["loss"].from_step, entry.families["loss"].n) == (240, 5)
    assert entry.verdict == "≈ 1/GAS"


# --- overfitting ---


def test_an_overfit_run_passes_if_train_images_are_evaluated():
    found = draws(lambda rng: verdict(sound(rng, overfit=rng.uniform(0.5, 2), subset=True)))
    most(found, "consistent", 0.99)
    off = [entry for entry in found if not 0.8 < entry.families["loss"].median < 1.25]
    assert len(off) > 0.7 * N_DRAWS
    assert all(
        "overfits" in entry.why and f"{entry.overfit_ratio:.2f} x" in entry.why for entry in off
    )
    assert all(1.2 < entry.overfit_ratio < 3.8 for entry in found)


def test_easy_train_images_do_not_make_overfitting_a_fault():
    """A fault of the scale moves both ratios to one side; here they lie far apart around 1."""
    run = sound(np.random.default_rng(11), "mixed", overfit=1.5, subset=True)
    for row in run.log.evals.values():
        row |= {key: 0.5 * value for key, value in row.items() if key.startswith("train_subset/")}
    entry = verdict(run)
    assert entry.verdict == "consistent"
    assert "overfits" in entry.why


@pytest.mark.parametrize("gas", GAS)
def test_both_ratios_off_is_a_fault_even_when_overfit(gas):
    scale = times(lambda _, gas: 1 / gas)
    most(
        draws(
            lambda rng: verdict(
                sound(rng, overfit=rng.uniform(0.5, 2), subset=True, gas=gas, scale=scale)
            ),
            40,
        ),
        "≈ 1/GAS",
        0.97,
    )


def test_an_overfit_run_at_gas_2_is_never_called_one_over_gas():
    """Eval ends at twice the train loss: the fault's ratio, but not from the first step on."""
    found = draws(lambda rng: verdict(sound(rng, overfit=1.0, gas=2)))
    assert {entry.verdict for entry in found} <= {"consistent", "drift"}
    assert all("overfit" in entry.why for entry in found if entry.families["loss"].median < 0.7)


# --- rows ---


def test_missing_evaluations_are_named():
    def with_gaps(rng: np.random.Generator) -> bool:
        run = sound(rng, "pure_ce")
        steps = sorted(run.log.evals)
        gone = sorted(rng.choice(steps, int(rng.integers(1, 4)), replace=False).tolist())
        for step in gone:
            del run.log.evals[step]
        entry = verdict(run)
        return (entry.verdict, entry.why) == (
            "missing",
            f"no eval row at step {', '.join(map(str, gone))}",
        )

    assert sum(draws(with_gaps)) >= 0.97 * N_DRAWS


def test_an_unfinished_log_owes_no_evaluation_at_its_last_step():
    run = sound(np.random.default_rng(3), "pure_ce")
    last = max(run.log.evals)
    del run.log.evals[last]
    assert verdict(run).verdict == "missing"
    run.log.max_steps = 2 * last
    entry = verdict(run)
    assert entry.verdict == "consistent"
    assert Check("complete", None, f"the log ends at step {last} of {2 * last}") in entry.checks


@pytest.mark.parametrize(
    ("evals", "train", "max_steps", "missing"),
    [
        ([40, 80, 120, 130], [130], 130, []),  # the last evaluation, off the grid
        ([1040, 1080, 1120], [1010], None, []),  # a resumed run's second log
        ([0, 40, 80, 160], [10], 160, [120]),
        ([44, 89, 133, 222], [10], 222, [177]),  # every half epoch
        ([44, 89, 133, 178], [10, 270], 270, [223, 268]),
        ([80, 120, 160], [10], 160, [40]),
        ([40, 80], [10], 160, []),  # no cadence
        ([40, 80, 90], [90], 90, []),
        ([40, 80, 100, *range(120, 721, 40)], [10], 720, []),  # one more, at a restart
        ([40, 80, 100, *range(160, 721, 40)], [10], 720, [120]),
    ],
)
def test_which_evaluations_a_log_owes(evals, train, max_steps, missing):
    log = Log(Path("logging.jsonl"), max_steps=max_steps)
    log.train = {step: {"loss": 1.0} for step in train}
    log.evals = {step: {"loss": 1.0} for step in evals}
    entry = verdict(RunData("any", 0, log))
    named_steps = (
        [int(step) for step in entry.why.partition("at step ")[2].split(", ")]
        if entry.verdict == "missing"
        else []
    )
    assert named_steps == pytest.approx(missing, abs=1)


@pytest.mark.parametrize("family", ["base_ce/loss", "coord_softce_w1/loss"])
def test_a_family_without_its_rows_is_missing(family):
    run = sound(np.random.default_rng(4), "softce_w1_gate")
    some = sorted(run.log.evals)[2:4]
    for step in some:
        del run.log.evals[step][family]
    entry = verdict(run)
    assert (entry.verdict, entry.why) == (
        "missing",
        f"no eval_{family} at step {some[0]}, {some[1]}",
    )
    for row in run.log.train.values():
        del row[family]
    entry = verdict(run)
    assert entry.verdict == "missing"
    assert family in entry.why
    assert not entry.passed


def test_coordinate_terms_on_but_not_logged_are_missing():
    run = sound(np.random.default_rng(4), "softce_w1_gate")
    for row in [*run.log.train.values(), *run.log.evals.values()]:
        for key in [key for key in row if key.startswith("coord_softce_w1")]:
            del row[key]
    entry = verdict(run)
    assert entry.verdict == "missing"
    assert entry.why.startswith("coord_softce_w1/loss")


def test_a_fault_of_the_scale_hides_no_missing_rows():
    run = sound(np.random.default_rng(12), "pure_ce", scale=times(lambda _, gas: 1 / gas))
    step = sorted(run.log.evals)[3]
    del run.log.evals[step]
    entry = verdict(run)
    assert entry.verdict == "≈ 1/GAS"
    assert entry.why.endswith(f"no eval row at step {step}")


def test_one_value_that_is_not_finite_is_named():
    def poisoned(rng: np.random.Generator) -> bool:
        run = sound(rng)
        prefix, rows_ = [("", run.log.train), ("eval_", run.log.evals)][rng.integers(2)]
        step = int(rng.choice([*rows_]))
        key = str(rng.choice([*rows_[step]]))
        rows_[step][key] = float(rng.choice([math.nan, math.inf, -math.inf]))
        entry = verdict(run)
        return (entry.verdict, entry.why, entry.passed) == (
            "not finite",
            f"{prefix}{key} at step {step} is not finite",
            False,
        )

    assert all(draws(poisoned))


def test_swapped_logs_are_named():
    """Two of the three logs exchanged between their names."""

    def exchanged(rng: np.random.Generator) -> bool:
        runs = {variant: sound(rng, variant) for variant in TERMS}
        first, second = rng.permutation([*TERMS])[:2].tolist()
        runs[first], runs[second] = (
            replace(runs[second], variant=first),
            replace(runs[first], variant=second),
        )
        found = {entry.variant: entry.verdict for entry in audit([*runs.values()]).runs}
        return {variant for variant, said in found.items() if said == "swapped"} == {first, second}

    assert all(draws(exchanged, 100))


def test_an_unknown_variant_name_is_not_checked_and_no_fault():
    entry = verdict(replace(sound(np.random.default_rng(5), "mixed"), variant="baseline"))
    assert entry.verdict == "consistent"
    assert any("baseline has no file in conf/variant" in line for line in entry.not_checked)


def test_bare_losses_are_told_apart_by_their_sum():
    """Without sub-terms and without `coord_diag/enabled`: whether the loss is the base CE."""
    names = (
        ("pure_ce", "mixed", "swapped"),
        ("mixed", "pure_ce", "swapped"),
        ("mixed", "softce_w1_gate", "consistent"),
    )
    for variant, as_name, expected in names:
        run = sound(np.random.default_rng(6), variant)
        for row in [*run.log.train.values(), *run.log.evals.values()]:
            for key in [
                key
                for key in row
                if key not in ("loss", "base_ce/loss", "coord_softce_w1/loss", "accum/grad_steps")
            ]:
                del row[key]
        assert verdict(replace(run, variant=as_name)).verdict == expected


@pytest.mark.parametrize("decimals", [4, 6])
@pytest.mark.parametrize("variant", TERMS)
def test_a_row_that_does_not_add_up_is_named(variant, decimals):
    run = sound(np.random.default_rng(7), variant)
    for row in [*run.log.train.values(), *run.log.evals.values()]:
        row |= {key: round(value, decimals) for key, value in row.items()}
    assert verdict(run).passed
    step = sorted(run.log.evals)[3]
    run.log.evals[step]["loss"] *= 1.003
    (failed,) = [c for c in verdict(run).checks if c.passed is False]
    assert failed.name == "loss adds up"
    assert failed.detail.startswith(f"eval_loss at step {step} is ")


def test_rounding_is_no_breach_however_small_the_loss():
    run = sound(np.random.default_rng(7), "mixed")
    for row in [*run.log.train.values(), *run.log.evals.values()]:
        row |= {
            key: round(0.002 * value, 4)
            for key, value in row.items()
            if "loss" in key or "softce" in key
        }
    assert all(c.passed for c in verdict(run).checks if "add" in c.name)


def test_a_coordinate_term_that_does_not_add_up_is_named():
    run = sound(np.random.default_rng(7), "mixed")
    step = sorted(run.log.train)[-1]
    run.log.train[step]["coord_softce_w1/ce"] *= 1.01
    (failed,) = [c for c in verdict(run).checks if c.passed is False]
    assert failed.name == "coordinate terms add up"
    assert failed.detail.startswith(f"coord_softce_w1/loss at step {step} is ")


def test_another_sum_is_excused_only_without_a_manifest():
    rng = np.random.default_rng(8)
    window, one_side, other_terms = (sound(rng, "mixed") for _ in range(3))
    for row in window.log.train.values():  # the total averages a window, its parts are of one step
        row["loss"] *= rng.normal(1, 0.03)
    for row in one_side.log.train.values():
        row["loss"] *= 0.97
    # Logged without its weight.
    for row in [
        *other_terms.log.train.values(),
        *other_terms.log.evals.values(),
    ]:
        row["coord_softce_w1/soft_ce"] /= 2
    excused = [
        c
        for run in (window, other_terms)
        for c in verdict(run).checks
        if "accounts for them otherwise" in c.detail
    ]
    assert [(c.name, c.passed) for c in excused] == [
        ("loss adds up", None),
        ("coordinate terms add up", None),
    ]
    manifest = read_manifest(write_run("mixed", eval_row(1, 1, 1, 1, 1, 1)))
    for run in (
        one_side,
        replace(window, manifest=manifest),
        replace(other_terms, manifest=manifest),
    ):
        assert any(c.passed is False and " add" in c.name for c in verdict(run).checks)


# --- what is written ---


def test_the_audit_is_written_as_json_and_as_a_table(tmp_path):
    found = audit(
        [sound(np.random.default_rng(10), variant, subset=variant == "mixed") for variant in TERMS]
    )
    write_audit(tmp_path, found)
    assert read_audit(tmp_path) == found
    table = pd.read_csv(tmp_path / "audit.csv")
    assert len(table) == sum(len(entry.families) for entry in found.runs)
    assert {
        "variant",
        "seed",
        "family",
        "verdict",
        "passed",
        "from_step",
        "n",
        "median",
        "min",
        "max",
    } <= set(table)
