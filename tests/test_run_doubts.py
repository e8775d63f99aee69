"""Doubts about runs: which of them fail the audit, limit the grade, or are notes on the card."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_files import write_events
from random_studies import audited
from studies import eval_row, write_run
from synthetic import sound
from test_confidence import facts, grade
from test_doubts import again, training

from coordexp.analysis.audit.audit import audit
from coordexp.analysis.audit.findings import Audit, RunAudit
from coordexp.analysis.recommendation.doubts import doubt_caveat
from coordexp.cli.main import main
from coordexp.storage.files import read_json, write_json
from coordexp.storage.logs.log import Doubt
from coordexp.storage.manifest import read_manifest
from coordexp.study.inputs import RunData

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "logs"


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def write_rows(path: Path | str, rows: list[dict[str, Any]]) -> Path:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def compared(*arguments: str) -> tuple[dict[str, Any], str]:
    """recommendation.json and the card of a comparison."""
    main(["compare", *arguments, "--out", "out"])
    return read_json(Path("out/recommendation.json")), Path("out/recommendation.md").read_text()


def verdict(run: RunData) -> RunAudit:
    return audit([run]).runs[0]


def run_with(key: str, value: float, n: int = 1, in_evals: bool = False) -> RunData:
    """A sound run of 20 evaluations, of which n train or eval rows have this value."""
    run = sound(np.random.default_rng(3), "mixed", n_evals=20)
    rows = list((run.log.evals if in_evals else run.log.train).values())
    for row in rows[3 : 3 + n]:
        row[key] = value
    return run


# --- values that are not finite ---


@pytest.mark.parametrize(("value", "kind"), [(math.inf, "infinite"), (math.nan, "not finite")])
def test_a_skipped_half_precision_step_is_a_note(value, kind):
    run = run_with("grad_norm", value)
    entry = verdict(run)
    assert entry.passed
    text = f"grad_norm is {kind} in 1 of {len(run.log.train)} train rows: a skipped half-precision"
    assert entry.doubts == [Doubt(f"{text} step", "note")]


def test_many_skipped_steps_cap_the_grade():
    run = run_with("grad_norm", math.inf)
    n = len(run.log.train) // 10 + 1
    (doubt,) = verdict(run_with("grad_norm", math.inf, n)).doubts
    assert doubt.consequence == "caps"
    assert doubt.text.startswith(f"grad_norm is infinite in {n} of {len(run.log.train)} train rows")
    (doubt,) = verdict(run_with("grad_norm", math.inf, n - 1)).doubts
    assert doubt.consequence == "note"


@pytest.mark.parametrize(
    ("key", "in_evals"),
    [("map_person", True), ("coord_diag/expected_bin_mae", False), ("reward_std", False)],
)
def test_value_on_which_nothing_rests_is_a_note(key, in_evals):
    entry = verdict(run_with(key, math.nan, 3, in_evals))
    assert entry.passed
    (doubt,) = entry.doubts
    assert doubt.consequence == "note"
    assert f"{key} at step" in doubt.text
    assert "is not finite, nor are 2 other values" in doubt.text


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("key", "in_evals"),
    [
        ("loss", False),
        ("loss", True),
        ("coord_softce_w1/gate", False),
        ("geometry/loss", False),
        ("coord_diag/expected_bin_mae", True),
        ("coord_diag_fitted_t/crps", True),
        ("coord_diag/coord_mass_mean", True),
        ("coord_token_acc", True),
    ],
)
def test_losses_and_compared_metrics_must_be_finite(key, in_evals, value):
    entry = verdict(run_with(key, value, 1, in_evals))
    assert (entry.verdict, entry.passed) == ("not finite", False)


def test_a_run_of_our_own_that_diverged_still_fails():
    final = eval_row(20.0, 50.0, 0.2, 0.1, 30.0, 4.0)
    diverged = write_run(
        "mixed", final, status="diverged", reason="diverged at step 7 (grad_norm inf)", step=7
    )
    run = run_with("grad_norm", math.inf)
    assert not verdict(replace(run, manifest=read_manifest(diverged))).passed


# --- one training given twice ---


def test_one_log_as_two_seeds_is_refused():
    write_rows("log", training())
    write_rows("copy", training())
    write_rows("other", training(seed=1))
    for again_ in ("log", "copy"):
        with pytest.raises(SystemExit, match=f"a: log and {again_} are one log, and one training"):
            compared("a=log", "b=other", f"a={again_}")
    assert not Path("out").exists()


@pytest.mark.parametrize("form", ["sorted keys", "events", "an extra key"])
def test_equal_values_as_two_seeds_cap_the_grade(form):
    rows = training()
    write_rows("log", rows)
    write_rows("other", training(seed=1))
    if form == "events":
        write_events(Path("copy"), [{k: v for k, v in row.items() if k[0] != "m"} for row in rows])
    else:
        changed = rows if form == "sorted keys" else [row | {"host": 1.0} for row in rows]
        write_rows("copy", [dict(sorted(row.items())) for row in changed])
    found, card = compared("a=log", "b=other", "a=copy")
    text = "the log holds the values of a s0: they are one training, not two seeds"
    assert f"- a s1: {text} (the grade is at most descriptive)" in card
    assert found["confidence"]["stage1_ranking"]["grade"] == "descriptive"
    assert read_json(Path("out/audit.json"))["runs"][2]["doubts"] == [
        {"text": text, "consequence": "caps"}
    ]


def test_one_log_under_two_names_is_a_note():
    write_rows("log", training())
    _, card = compared("a=log", "b=log")
    assert "- b s0: the log holds the values of a s0, as one training under two names\n" in card


@pytest.mark.parametrize("form", ["ends earlier", "rounded"])
def test_part_or_rounded_copy_of_a_log_is_no_second_seed(form):
    """Such as two checkpoints of one training, or a table that was exported with few digits."""
    rows = training()
    write_rows("log", rows)
    write_rows("other", training(seed=1))
    held = "holds the values of a s0"
    if form == "ends earlier":
        rows, held = rows[:10], "agrees with that of a s0 in the 5 evaluations that both hold"
    else:
        rows = [{k: round(v, 4) if k[0] != "g" else v for k, v in row.items()} for row in rows]
    write_rows("copy", rows)
    found, card = compared("a=log", "b=other", "a=copy")
    assert f"a s1: the log {held}: they are one training, not two seeds (the grade" in card
    assert found["confidence"]["stage1_ranking"]["grade"] == "descriptive"


def test_equal_beginnings_of_two_trainings_are_no_copies():
    """A training that goes on from another one's checkpoint keeps its rows."""
    rows = training()
    write_rows("log", rows)
    write_rows("fork", [*rows[:8], *training(seed=1)[8:]])
    _, card = compared("a=log", "a=fork", "b=log")
    assert "a s1: the log" not in card


def test_runs_of_other_seeds_are_no_copies():
    for i in range(3):
        write_rows(f"log{i}", training(seed=i))
    _, card = compared("a=log0", "a=log1", "b=log2")
    assert "holds the values" not in card


# --- another evaluation set ---


def with_samples(rows: list[dict[str, Any]], **n_at: int) -> list[dict[str, Any]]:
    """The rows with a speed, as Hugging Face rounds it: of 200 samples, or as given for a step."""
    found = []
    for row in rows:
        step = row["global_step/max_steps"].partition("/")[0]
        if seconds := row.get("eval_runtime"):
            n = n_at.get(f"at_{step}", 200)
            row = row | {"eval_samples_per_second": round(n / seconds, 3)}
        found.append(row)
    return found


def test_evaluation_of_another_number_of_samples_caps_the_grade():
    """A test set at the end, at a step that has no other evaluation, under the same keys."""
    write_rows("log", with_samples(training(), at_360=1000))
    write_rows("other", with_samples(training(seed=1)))
    found, card = compared("a=log", "b=other")
    text = "the evaluation at step 360 is of 1,000 samples, most are of 200"
    assert f"- a s0: {text} (the grade is at most descriptive)" in card
    assert found["confidence"]["stage1_ranking"]["grade"] == "descriptive"


def test_rounded_speeds_are_of_one_number_of_samples():
    for i in range(2):
        write_rows(f"log{i}", with_samples(training(n_evals=30, seed=i)))
    _, card = compared("a=log0", "b=log1")
    assert "samples" not in card


# --- where a log ends ---


def test_other_planned_steps_are_a_difference_of_the_runs():
    """As where one trainer counts micro-batches: the same step is an earlier part of its plan."""
    write_rows("log", training())
    write_rows("micro", training(seed=1, last=2880))
    _, card = compared("a=log", "b=micro")
    assert "- runs differ outside the variant: planned steps: a s0 360, b s0 2880\n" in card


def test_log_that_ends_early_is_named_with_what_is_left_out():
    write_rows("short", training(n_evals=6, last=360))
    write_rows("whole", training(seed=1))
    _, card = compared("a=short", "b=whole")
    assert "- a s0: the log ends at step 240 of the planned 360\n" in card
    left_out = "later evaluations of b s0 (to 360) are left out"
    assert f"- compared at step 240, where a s0 ends: {left_out}\n" in card


def test_named_decision_step_leaves_nothing_out_by_accident():
    write_rows("short", training(n_evals=6))
    write_rows("whole", training(seed=1))
    Path("rule.yaml").write_text('decision_step: "240"\n')
    _, card = compared("a=short", "b=whole", "--rule", "rule.yaml")
    assert "compared at step" not in card


def test_evaluation_that_is_not_used_is_not_missing():
    rows = training()
    write_rows("log", [*rows[:-1], again(rows[5], 360)])
    write_rows("other", training(seed=1))
    found, card = compared("a=log", "b=other")
    assert found["ineligible"] == []
    assert found["decision_step"] == 320
    assert "- a s0: an evaluation at step 360 repeats that of step 120 digit for digit" in card
    assert "compared at step 320, where a s0 ends: later evaluations of b s0 (to 360)" in card


# --- the grade, and the card's lines ---


def doubted(name: str, *doubts: Doubt) -> RunAudit:
    variant, _, seed = name.partition(" s")
    entry = audited(sound(np.random.default_rng(0), variant="mixed"), [])
    return replace(entry, variant=variant, seed=int(seed), doubts=list(doubts))


@pytest.mark.parametrize("n_seeds", [1, 6])
def test_doubt_that_caps_makes_the_grade_descriptive(n_seeds):
    found = facts({"a": 5.0, "b": 6.0}, n_seeds)
    earned = grade(found)[0]
    for consequence, expected in (("note", earned), ("not used", earned), ("caps", "descriptive")):
        entries = [doubted("a s0", Doubt("it is odd", consequence))]
        name, reason = grade(replace(found, audit=Audit(entries, [], [])))
        assert name == expected
        if consequence == "caps":
            assert reason == f"a s0: it is odd; without that: {earned}"


def test_doubt_about_a_variant_that_may_hold_no_role_limits_nothing():
    found = facts({"a": 5.0, "b": 6.0}, 6)
    entries = [doubted("refused s0", Doubt("it is odd", "caps"))]
    assert grade(replace(found, audit=Audit(entries, [], [])))[0] == "conclusive"


def test_gravest_doubts_stand_on_the_card_and_the_rest_is_counted():
    doubts = [Doubt(f"note {i}", "note") for i in range(4)]
    doubts = [Doubt("two runs", "caps"), Doubt("a line", "not used"), *doubts]
    line = doubt_caveat(["a s0", "a s1"], doubts, limiting=True).text
    told = "two runs (the grade is at most descriptive); a line; note 0"
    assert line == f"a s0 and a s1: {told}; 3 more in the audit's part of the report"
    line = doubt_caveat(["refused s0"], doubts[:1], limiting=False).text
    assert line == "refused s0: two runs"


# --- text accuracy of tokens that are not known ---


def with_text_accuracy(rows: list[dict[str, Any]], value: float) -> list[dict[str, Any]]:
    return [row | {"eval_text_token_acc": value} if "eval_loss" in row else row for row in rows]


def test_text_accuracy_that_may_count_coordinates_refuses_nobody():
    write_rows("a", with_text_accuracy(training(), 0.82))
    write_rows("b", with_text_accuracy(training(seed=1), 0.95))
    found, card = compared("a=a", "b=b")
    assert found["ineligible"] == []
    assert "- a: its text accuracy 0.820 is below the bar 0.9, but the log does not say" in card


def test_text_accuracy_of_our_own_log_is_a_bar():
    own = {"eval_coord_diag_fitted_t/temperature": 1.1}
    rows = with_text_accuracy(training(), 0.82)
    write_rows("a", [row | own if "eval_loss" in row else row for row in rows])
    write_rows("b", with_text_accuracy(training(seed=1), 0.95))
    found, _ = compared("a=a", "b=b")
    assert found["ineligible"] == [
        {"variant": "a", "reasons": ["text acc 0.820 is below the bar 0.9"]}
    ]


def test_bar_that_is_not_checked_is_named():
    write_rows("log", training())
    masses = [
        row | {"eval_coord_diag/coord_mass_mean": 0.99} if "eval_loss" in row else row
        for row in training(seed=1)
    ]
    write_rows("with_mass", masses)
    _, card = compared("a=log", "b=with_mass")
    assert "- the bar 0.95 on coord mass is not checked: no such values of a\n" in card


def test_coordinate_mass_of_another_log_is_a_bar():
    other = {"eval_coord_diag/coord_mass_mean": 0.3}
    write_rows("a", [row | other if "eval_loss" in row else row for row in training()])
    write_rows("b", training(seed=1))
    found, _ = compared("a=a", "b=b")
    reason = "coord mass 0.300 is below the bar 0.95"
    assert found["ineligible"] == [{"variant": "a", "reasons": [reason]}]


# --- published aggregates ---


def aggregated(step: int, mae: float, p_gt: float, last: int) -> list[dict[str, Any]]:
    """A log made of published figures: losses are unknown, and the last row repeats the first."""
    rows = []
    for at in dict.fromkeys((step, last)):
        head = {"global_step/max_steps": f"{at}/{last}"}
        rows.append(head | {"loss": 1.0})
        metrics = {"eval_coord_diag/expected_bin_mae": mae, "eval_coord_diag/p_gt_mean": p_gt}
        rows.append(head | {"eval_loss": 1.0} | metrics)
    return rows


def test_tied_metrics_name_no_primary_against_published_rollouts():
    write_rows("ce", aggregated(900, 20.91, 0.12, last=1300))
    write_rows("soft", aggregated(900, 20.88, 0.07, last=1200))
    write_rows("mixed", aggregated(900, 21.35, 0.09, last=900))
    figures = {"ce": 0.56, "soft": 0.55, "mixed": 0.65}
    published = {"source": "a page", "images": 200}
    published["variants"] = {name: {"f1_50": value} for name, value in figures.items()}  # type: ignore[assignment]
    write_json(Path("rollouts.json"), published)
    runs = [f"{name}={name}" for name in figures]
    found, card = compared(*runs, "--evidence", "rollouts.json")
    assert found["primary"] is None
    assert found["decision_step"] == 900
    assert "the rollouts of a page put mixed first" in found["withheld"]
    assert "mixed" in [entry["variant"] for entry in found["tied"]]
    assert found["would_take"][0].startswith("rollouts of ")
    assert "- ce s0: the evaluations at steps 900 and 1300 are equal (the run stands" in card


# --- the small inputs of public reports ---

needs_cases = pytest.mark.skipif(not CASES.exists(), reason="shared/cases is not here")


@needs_cases
def test_case_of_a_reloaded_checkpoint_decides_as_without_it():
    plain, _ = compared(f"a={CASES}/flip_a.jsonl", f"b={CASES}/flip_b.jsonl")
    main(["compare", f"a={CASES}/flip_a_reloaded.jsonl", f"b={CASES}/flip_b.jsonl", "--out", "re"])
    reloaded = read_json(Path("re/recommendation.json"))
    for key in ("primary", "secondary", "optional", "decision", "evidence", "confidence"):
        assert reloaded[key] == plain[key]
    assert set(reloaded["caveats"]) - set(plain["caveats"]) == {
        "a s0: an evaluation at step 720 repeats that of step 120 digit for digit, as where the "
        "best checkpoint is loaded at the end: it is not used"
    }


@needs_cases
def test_case_of_one_infinite_gradient_stays_eligible():
    runs = (f"a={CASES}/flip_a.jsonl", f"b={CASES}/mixed_inf_gradnorm.jsonl")
    found, card = compared(*runs)
    assert found["ineligible"] == []
    assert "b s0: grad_norm is infinite in 1 of 17 train rows: a skipped half-precision" in card


@needs_cases
def test_case_of_the_aggregates_of_february():
    names = ("pure_ce", "softce_w1_gate", "mixed")
    runs = [f"{name}={CASES}/feb_{name}.jsonl" for name in names]
    evidence = f"{CASES}/rollouts_val200_temp0.json"
    found, _ = compared(*runs, "--evidence", evidence)
    assert found["primary"] is None
    assert "put mixed first (F1@.5 mixed 0.648" in found["withheld"]
    assert [entry["variant"] for entry in found["tied"]] == ["pure_ce", "mixed"]
    assert found["would_take"][0].startswith("rollouts of pure_ce and mixed on the same images")
