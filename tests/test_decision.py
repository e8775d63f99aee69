"""From logs to the card: audit, comparison and the decision rule, on synthetic runs whose truth is
known.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jsonschema
import pytest
from conftest import composed
from studies import eval_row, write_run, write_study

from coordexp.analysis.recommendation.findings import GRADES
from coordexp.cli.main import main
from coordexp.cli.schemas import schema_path

# The note's snapshot at step 640 (MAE, p90, acc, p_gt); W1 and entropy are made up, in the order
# that smoothness implies.
NOTE_640 = {
    "softce_w1_gate": eval_row(24.1203, 55.4792, 0.1714, 0.0858, 40.0, 5.0),
    "pure_ce": eval_row(23.6342, 55.0611, 0.2177, 0.1665, 39.0, 3.0),
    "mixed": eval_row(24.2648, 56.4770, 0.2000, 0.1036, 41.0, 4.0),
}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decide(study):
    for verb in ("audit", "compare", "collect-probes", "recommend"):
        main(["step", verb, str(study)])
    found = json.loads((study / "recommendation.json").read_text())
    jsonschema.validate(found, json.loads(schema_path("recommendation").read_text()))
    return found


def roles(found):
    names = {
        role: found[role]["variant"] if found[role] else None for role in ("primary", "secondary")
    }
    return names | {"optional": sorted(e["variant"] for e in found["optional"])}


def test_the_notes_table_gives_the_notes_answer_in_any_order():
    expected = {"primary": "pure_ce", "secondary": "softce_w1_gate", "optional": ["mixed"]}
    for order in itertools.permutations(NOTE_640):
        study = write_study([write_run(variant, NOTE_640[variant]) for variant in order])
        assert roles(decide(study)) == expected


def test_reasons_are_true_of_the_numbers():
    found = decide(write_study([write_run(variant, row) for variant, row in NOTE_640.items()]))
    assert found["primary"]["reasons"][0] == (
        "ahead of mixed on MAE by 0.63 bins, beyond the margin 0.5; ahead of softce_w1_gate on "
        "coord acc by 0.046, beyond the margin 0.02"
    )
    assert found["primary"]["reasons"][1].startswith(
        "pure_ce is ahead on 5 of 5 decided metrics: MAE 23.6"
    )
    assert "entropy 5.00 against 3.00" in found["secondary"]["reasons"][0]
    assert "coord acc -0.018 (worse)" in found["optional"][0]["reasons"][0]
    assert (
        "of 5 metrics: between the others on 2 (coord acc, p(GT)), last on 3"
        in found["optional"][0]["reasons"][1]
    )


def test_first_metric_beyond_its_margin_decides():
    a, b = eval_row(20, 50, 0.1, 0.1, 30, 4.0), eval_row(21, 47, 0.1, 0.1, 30, 4.0)
    found = decide(write_study([write_run("pure_ce", a), write_run("mixed", b)]))
    assert found["primary"]["variant"] == "pure_ce"
    assert found["decision"]["eliminated"][0]["metric"] == "expected_bin_mae"
    (disagrees,) = found["decision"]["contradictions"]
    assert (disagrees["by"], disagrees["metric"]) == ("mixed", "expected_bin_abs_err_p90")
    assert found["caveats"][-1] == (
        "the evidence disagrees: mixed, which dropped out on MAE, is ahead of pure_ce on p90 by "
        "3.00 bins (margin 1.5)"
    )
    found = decide(
        write_study(
            [write_run("pure_ce", a), write_run("mixed", b)],
            {"metrics": ["expected_bin_abs_err_p90", "expected_bin_mae"]},
        )
    )
    assert found["primary"]["variant"] == "mixed"


def test_equal_variants_are_indistinguishable_and_cost_decides():
    a = eval_row(20, 50, 0.1, 0.1, 30, 4.0)
    for seconds, chosen, why in (
        (None, "pure_ce", "the first in the study's list"),
        (95.0, "pure_ce", "the first in the study's list; none of them is over 10 % cheaper"),
        (80.0, "mixed", "the cheapest to train (CPU time: pure_ce 100 s, mixed 80 s)"),
    ):
        first = write_run("pure_ce", a, train_cpu_s=100.0)
        runs = [first, write_run("mixed", a, train_cpu_s=seconds)]
        found = decide(write_study(runs))
        assert found["primary"]["variant"] == chosen
        assert sorted(found["decision"]["left"]) == ["mixed", "pure_ce"]
        assert found["decision"]["preference"].startswith(why)
        assert found["primary"]["reasons"][0].startswith("a preference, not a finding: ")
        assert found["secondary"] is None


def test_secondary_only_if_smoother():
    sharp = {v: row | {k: 1.0 for k in row if "entropy" in k} for v, row in NOTE_640.items()}
    sharp["pure_ce"] = NOTE_640["pure_ce"]
    found = decide(write_study([write_run(variant, row) for variant, row in sharp.items()]))
    assert roles(found) == {
        "primary": "pure_ce",
        "secondary": None,
        "optional": ["mixed", "softce_w1_gate"],
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coord_diag/coord_mass_mean": 0.5}, "coord mass 0.500 is below the bar"),
        ({"text_token_acc": 0.5}, "text acc 0.500 is below the bar"),
    ],
)
def test_bars(change, says):
    rows = NOTE_640 | {"pure_ce": NOTE_640["pure_ce"] | change}
    found = decide(write_study([write_run(variant, row) for variant, row in rows.items()]))
    assert found["primary"]["variant"] != "pure_ce"
    (entry,) = found["ineligible"]
    assert entry["variant"] == "pure_ce"
    assert any(says in reason for reason in entry["reasons"])


def test_variant_far_behind_has_no_role_to_offer_and_stays_a_rival():
    rows = NOTE_640 | {"pure_ce": NOTE_640["pure_ce"] | {"coord_diag/expected_bin_mae": 60.0}}
    found = decide(write_study([write_run(variant, row) for variant, row in rows.items()]))
    assert found["ineligible"] == []
    assert found["primary"]["variant"] != "pure_ce"
    (entry,) = [entry for entry in found["optional"] if entry["variant"] == "pure_ce"]
    assert entry["reasons"][0].startswith("not competitive: MAE 60.0 bins is over 1.15 x the best")
    assert any("leads pure_ce by" in line for line in found["evidence"])


def test_a_diverged_run_is_a_failure_of_its_variant_and_explained():
    runs = [write_run(v, row) for v, row in NOTE_640.items() if v != "pure_ce"]
    runs.append(
        write_run(
            "pure_ce",
            NOTE_640["pure_ce"],
            status="diverged",
            reason="diverged at step 7 (loss nan)",
        )
    )
    found = decide(write_study(runs))
    assert found["primary"]["variant"] == "mixed"  # accuracy: ahead by more than its margin
    assert "seed 0 diverged at step 7 (loss nan)" in found["ineligible"][0]["reasons"]


def test_one_diverged_seed_of_three_fails_its_variant():
    """The two seeds that finished are better than every other run; that must not help."""
    runs = [
        write_run("mixed", eval_row(24.0, 55, 0.2, 0.2, 39, 3.0), seed=seed, tables=True)
        for seed in range(3)
    ]
    good = eval_row(10.0, 20, 0.9, 0.9, 10, 1.0)
    runs += [write_run("pure_ce", good, seed=seed, tables=True) for seed in range(2)]
    runs.append(
        write_run(
            "pure_ce", good, seed=2, status="diverged", reason="diverged at step 7 (loss nan)"
        )
    )
    found = decide(write_study(runs, seeds=3))
    assert found["primary"]["variant"] == "mixed"
    assert found["ineligible"] == [
        {"variant": "pure_ce", "reasons": ["seed 2 diverged at step 7 (loss nan)"]}
    ]
    assert found["confidence"]["stage1_ranking"]["grade"] == "descriptive"


def test_no_run_passes_gives_null_roles_and_says_why(capsys):
    found = decide(
        write_study(
            [
                write_run(v, row, status="diverged", reason="diverged at step 3")
                for v, row in NOTE_640.items()
            ]
        )
    )
    assert found["primary"] is found["secondary"] is found["decision_step"] is None
    assert len(found["ineligible"]) == 3
    main(["show", "results/stage1_ablation/" + found["study"]["hash8"]])
    assert "No recommendation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, "consistent"), (1 / 8, "≈ 1/GAS"), (8.0, "≈ GAS"), (1.4, "inconsistent")],
)
def test_the_audit_names_the_scaling_fault(ratio, verdict):
    runs = [write_run(v, row, ratio=ratio if v == "mixed" else 1.0) for v, row in NOTE_640.items()]
    found = decide(write_study(runs))
    assert found["audit"]["verdicts"]["mixed s0"] == verdict
    assert ("mixed s0" in found["audit"]["passed"]) == (verdict == "consistent")


def test_without_accumulation_a_scaling_fault_cannot_show():
    found = decide(write_study([write_run(v, row, gas=1.0) for v, row in NOTE_640.items()]))
    assert set(found["audit"]["verdicts"].values()) == {"not identifiable"}
    assert found["primary"]["variant"] == "pure_ce"


def test_pure_ce_has_no_coordinate_family_and_that_is_no_fault():
    study = write_study([write_run(v, row) for v, row in NOTE_640.items()])
    decide(study)
    families = {
        e["variant"]: set(e["families"])
        for e in json.loads((study / "audit.json").read_text())["runs"]
    }
    assert families["pure_ce"] == {"loss", "base_ce/loss"}
    assert families["mixed"] == {"loss", "base_ce/loss", "coord_softce_w1/loss"}


@pytest.mark.parametrize("what", ["inputs_sha256", "modules_sha256", "versions"])
def test_a_run_from_other_inputs_fails_the_audit(what):
    other = {
        "inputs_sha256": {"data": "x" * 64, "base": "b" * 64},
        "modules_sha256": {},
        "versions": {"torch": "1"},
    }
    runs = [write_run(v, row) for v, row in NOTE_640.items() if v != "pure_ce"]
    found = decide(
        write_study([*runs, write_run("pure_ce", NOTE_640["pure_ce"], **{what: other[what]})])
    )
    assert found["primary"]["variant"] != "pure_ce"


def test_a_difference_outside_the_variant_is_a_caveat():
    runs = [
        write_run(v, row, overrides=("optim.lr=5e-4",) if v == "mixed" else ())
        for v, row in NOTE_640.items()
    ]
    found = decide(write_study(runs))
    assert any("optim.lr" in c and "mixed s0 0.0005" in c for c in found["caveats"])


def test_grades_follow_the_evidence():
    logs_only = decide(write_study([write_run(v, row) for v, row in NOTE_640.items()]))
    assert logs_only["confidence"]["stage1_ranking"]["grade"] == "descriptive"
    with_tables = decide(
        write_study([write_run(v, row, tables=True) for v, row in NOTE_640.items()])
    )
    assert with_tables["confidence"]["stage1_ranking"]["grade"] == "provisional"
    assert "one seed" in with_tables["confidence"]["stage1_ranking"]["reason"]
    assert any("95 % interval" in line for line in with_tables["evidence"])
    assert with_tables["confidence"]["stage2_fitness"]["grade"] == "descriptive"


def test_a_winner_that_changes_with_temperature_is_said():
    rows = dict(NOTE_640)
    rows["mixed"] = rows["mixed"] | {
        key: 0.99 if "p_gt" in key else 1.0
        for key in rows["mixed"]
        if key.startswith("coord_diag_own_t")
    }
    found = decide(write_study([write_run(v, row, tables=True) for v, row in rows.items()]))
    assert "temperature_sensitive" in found["confidence"]["stage1_ranking"]["reason"]
    assert any(
        "own temperature: mixed would be ahead on MAE" in line for line in found["would_overturn"]
    )


def test_the_checkpoint_is_that_of_the_median_seed():
    maes = {0: 25.0, 1: 23.0, 2: 24.0}
    runs = [
        write_run("pure_ce", eval_row(mae, 50, 0.3, 0.3, 30, 3.0), seed=seed)
        for seed, mae in maes.items()
    ]
    runs += [write_run("mixed", eval_row(26, 60, 0.1, 0.1, 40, 4.0), seed=seed) for seed in maes]
    found = decide(write_study(runs, seeds=3))
    assert found["primary"]["seed"] == 2
    assert found["primary"]["metrics"]["expected_bin_mae"] == pytest.approx(24.0, abs=0.1)


def test_a_nan_in_a_log_fails_its_run_and_stops_nothing():
    runs = [write_run(v, row) for v, row in NOTE_640.items()]
    poisoned = next(r for r in runs if "pure_ce" in str(r.path))
    lines = [json.loads(line) for line in poisoned.log.read_text().splitlines()]
    lines[-1]["eval_coord_diag/expected_bin_mae"] = float("nan")
    lines[-2]["loss"] = float("nan")
    poisoned.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = decide(write_study(runs))
    assert found["primary"]["variant"] != "pure_ce"
    assert "is not finite" in found["ineligible"][0]["reasons"][0]


def test_larger_lead_never_lowers_the_grade():
    """Six seeds; the rival falls behind by one bin, by five, and beyond the bar for a role."""
    grades = []
    for behind in (1.0, 5.0, 15.0):
        runs = []
        for seed in range(6):
            noise = 0.01 * seed
            for variant, mae in (("pure_ce", 20.0), ("mixed", 20.0 + behind)):
                row = eval_row(mae + noise, 50.0, 0.2, 0.15, 30, 4.0)
                runs.append(write_run(variant, row, seed=seed, tables=True))
        found = decide(write_study(runs, seeds=6))
        assert found["primary"]["variant"] == "pure_ce"
        grades.append(GRADES.index(found["confidence"]["stage1_ranking"]["grade"]))
    assert grades == sorted(grades)
    assert grades[-1] >= GRADES.index("supported")


def test_card_and_evidence_judge_accuracy_on_the_same_images():
    """At the fitted temperature, half of the images; the log has the accuracy over all of them."""
    rows = {"pure_ce": 0.2, "mixed": 0.25}
    runs = [
        write_run(v, eval_row(24.0, 50.0, acc, 0.15, 30, 4.0), tables=True)
        for v, acc in rows.items()
    ]
    found = decide(write_study(runs, rule=composed().study.rule))
    accuracy = {
        entry["variant"]: entry["metrics"]["coord_token_acc"]
        for entry in [found["primary"], *found["optional"], *found["tied"]]
    }
    comparison = json.loads(next(Path("results").glob("*/*/comparison.json")).read_text())
    (difference,) = [d for d in comparison["differences"] if d["metric"] == "coord_token_acc"]
    gap = accuracy[difference["second"]] - accuracy[difference["first"]]
    assert difference["difference"] == pytest.approx(gap, abs=1e-12)
