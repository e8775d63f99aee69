"""The same run in each trainer's dialect: the same log, and the same comparison."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from dialect_files import (
    IN_FLOAT32,
    WRITERS,
    as_lines,
    compared,
    llama_factory,
    ours,
    read,
    rows_of,
    trainer_state,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from note import VARIANTS
from studies import eval_row

from coordexp.cli.log_page import PAGE, page
from coordexp.storage.logs.dialects import DIALECTS, STEP_KEY
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.resembling import resembles
from coordexp.study.locate import locate
from coordexp.study.sources import parse_sources, read_source

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "logs"


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_run_reads_the_same_in_every_dialect(tmp_path, name):
    rows = rows_of(tmp_path, "mixed")
    expected = read(ours(tmp_path / "ours", rows))
    found = read(WRITERS[name](tmp_path / name, rows))
    tolerance = 1e-6 if name in IN_FLOAT32 else 0.0
    assert found.evals.keys() == expected.evals.keys()
    for step, row in expected.evals.items():
        assert found.evals[step] == pytest.approx(row, rel=tolerance, abs=0)
    for step, row in expected.train.items():
        assert {key: found.train[step][key] for key in row} == pytest.approx(row, rel=tolerance)
    assert found.temperature is None
    assert [w for w in found.warnings if "coordinate mass" not in w] == []


def close(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two JSON values are equal, but for rounding errors of numbers (also in texts)."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(lambda a, b: close(a, b, tolerance), one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=10 * tolerance)
    return bool(one == other)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(sorted(WRITERS)), min_size=3, max_size=3),
    st.permutations(VARIANTS),
)
def test_the_comparison_does_not_depend_on_the_dialects(tmp_path_factory, names, order):
    """Each variant's log in a dialect of its own, given in any order."""
    folder = tmp_path_factory.mktemp("study")
    rows = {variant: rows_of(folder, variant) for variant in VARIANTS}
    logs = {v: ours(folder / "ours" / v, rows[v]) for v in VARIANTS}
    expected = compared(folder / "a", logs)
    given_as = dict(zip(VARIANTS, names, strict=True))
    others = {v: WRITERS[given_as[v]](folder / "theirs" / v, rows[v]) for v in order}
    found = compared(folder / "b", others)
    for result in (expected, found):
        result["curves"].sort(key=lambda row: (row["variant"], row["step"]))
        result["optional"].sort(key=lambda row: row["variant"])
        for pair in result["differences"]:
            if pair["first"] > pair["second"]:
                pair["first"], pair["second"] = pair["second"], pair["first"]
                pair["difference"] = -pair["difference"]
            del pair["window"]
        result["differences"].sort(key=lambda p: (p["first"], p["second"], p["metric"]))
    assert found["primary"]["variant"] == expected["primary"]["variant"] == "pure_ce"
    tolerance = 2e-6 if IN_FLOAT32 & set(names) else 1e-12
    for key in ("common_steps", "winners", "curves", "differences", "ineligible"):
        assert close(found[key], expected[key], tolerance), key
    assert found["confidence"] == expected["confidence"]
    assert found["secondary"]["variant"] == expected["secondary"]["variant"]
    assert found["primary"]["metrics"] == pytest.approx(expected["primary"]["metrics"], rel=1e-6)


def test_llama_factory_has_losses_only_a_trainer_state_more(tmp_path):
    rows = rows_of(tmp_path, "pure_ce")
    llama_factory(tmp_path, rows)
    log = read(tmp_path / "out")
    ours_ = read(ours(tmp_path / "ours", rows))
    assert (log.dialect, log.max_steps, log.dropped) == ("LLaMA-Factory", 720, {"no values": 1})
    assert {step: row["loss"] for step, row in log.evals.items()} == {
        step: row["loss"] for step, row in ours_.evals.items()
    }
    assert set(log.train[40]) == {"loss", "lr"}
    trainer_state(tmp_path, rows)
    assert locate(tmp_path / "out").path.name == "trainer_state.json"
    assert locate(tmp_path / "out" / "trainer_log.jsonl").path.name == "trainer_state.json"


@pytest.mark.parametrize(
    ("rows", "dialect", "temperature"),
    [
        ([eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0)], "this project", 1.0),
        ([{"coord_diag/expected_bin_mae": 24.0}], "CoordExp", None),
        ([{"loss": 24.0}], "ms-swift", None),
    ],
)
def test_only_logs_of_this_project_are_at_temperature_1(tmp_path, rows, dialect, temperature):
    lines = [{STEP_KEY: "40/80", **{f"eval_{k}": v for k, v in row.items()}} for row in rows]
    for name in ("ours", "trainer_state"):
        log = read({"ours": ours, "trainer_state": trainer_state}[name](tmp_path / name, lines))
        assert log.temperature == temperature
        if name == "ours":
            assert log.dialect == dialect


# --- files and directories ---


def test_the_last_state_of_an_output_directory_counts(tmp_path):
    rows = rows_of(tmp_path, "pure_ce")
    out = trainer_state(tmp_path, rows)
    assert locate(out).path == out / "checkpoint-720" / "trainer_state.json"
    assert locate(tmp_path).path == out / "checkpoint-720" / "trainer_state.json"
    assert locate(out / "checkpoint-9").path == out / "checkpoint-9" / "trainer_state.json"
    own = out / "trainer_state.json"
    own.write_text(json.dumps({"global_step": 80, "log_history": []}))
    assert locate(out).path.parent.name == "checkpoint-720"
    own.write_text(json.dumps({"global_step": 720, "log_history": []}))
    assert locate(out).path == own


def test_a_trainer_state_is_told_from_lines_called_json(tmp_path):
    rows = rows_of(tmp_path, "pure_ce")
    state = trainer_state(tmp_path, rows) / "checkpoint-720" / "trainer_state.json"
    copy = tmp_path / "pure_ce.json"
    copy.write_bytes(state.read_bytes())
    assert locate(copy).kind == "trainer state"
    assert read(copy).evals == read(state).evals
    assert locate(as_lines(tmp_path / "lines.json", rows)).kind == "log"
    assert locate(as_lines(tmp_path / "line.json", rows[:1])).kind == "log"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("trainer_state.json", '{"log_history": [', ["trainer_state.json", "not valid JSON"]),
        ("trainer_state.json", "[]", ["no list log_history"]),
        ("trainer_state.json", '{"log_history": []}', ["holds no row"]),
        ("a.csv", "", ["no column of steps"]),
        ("a.csv", "loss,lr\n1,2\n", ["no column of steps"]),
        ("a.csv", "Step,train/loss\n", ["holds no row"]),
        ("a.csv", 'Step,train/loss\n1,"2\n', ["not readable as CSV"]),
        ("a.csv", "Step,\udcfftrain/loss\n1,2\n", ["not valid Unicode"]),
        ("a.csv", f"Step,train/loss\n1,{'9' * 200_000}\n", ["not readable as CSV"]),
        ("a.csv", "Step,a - eval/loss,b - eval/loss\n1,2,3\n", ["holds 2 runs, a and b"]),
    ],
)
def test_a_file_that_cannot_be_read_costs_one_line(tmp_path, refused, name, content, words):
    (tmp_path / name).write_text(content, errors="surrogateescape")
    (source,) = parse_sources([f"x={tmp_path / name}"])
    with refused(name, *words):
        read_source(source)


def test_a_run_of_a_chart_is_chosen_by_its_name(tmp_path):
    chart = tmp_path / "chart.csv"
    chart.write_text("train/global_step,a - eval/loss,b - eval/loss\n10,1,2\n20,,3\n")
    logs = [read_source(s) for s in parse_sources([f"a={chart}", f"b={chart}"])]
    assert [log.evals for log in logs] == [
        {10: {"loss": 1.0}},
        {10: {"loss": 2.0}, 20: {"loss": 3}},
    ]


def test_steps_that_wandb_counts_are_doubted_and_short_rows_counted(tmp_path):
    (tmp_path / "a.csv").write_text("Step,train/loss\n10,1\n20\n30,2\n")
    log = read(tmp_path / "a.csv")
    assert log.train == {10: {"loss": 1.0}, 30: {"loss": 2.0}}
    assert log.dropped == {"torn": 1}
    assert [d.consequence for d in log.doubts] == ["note", "not used"]
    assert "counts what was sent to W&B" in log.warnings[0]


def test_entries_of_a_history_that_are_no_rows_are_counted(tmp_path):
    history = [{"step": 1, "loss": 1.0}, None, 3, {"step": 2, "eval_loss": 1.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    log = read(tmp_path / "trainer_state.json")
    assert (log.rows, log.dropped) == (2, {"no row": 2})


def test_steps_of_a_table_saved_again_are_whole_numbers_with_a_point(tmp_path):
    (tmp_path / "a.csv").write_text(
        "train/global_step,train/loss,train/train_runtime\n10.0,1,\n 20 ,2,\n30.5,3,\n40,,9\n"
    )
    log = read(tmp_path / "a.csv")
    assert (sorted(log.train), log.dropped) == ([10, 20], {"bad step": 1, "summary": 1})


def test_rows_of_rollouts_between_evaluations_are_no_decision_step(tmp_path):
    logs = {}
    for variant in VARIANTS:
        rows = rows_of(tmp_path, variant)
        rollout = {STEP_KEY: "670/680", "eval/detection/f1": 0.5, "eval_det_mAP": 0.4}
        logs[variant] = ours(tmp_path / variant, [*rows[:-2], rollout, *rows[-2:]])
        log = read(logs[variant])
        assert 670 not in log.evals
        assert log.rollouts[670] == {"detection/f1": 0.5, "det_mAP": 0.4}
    assert compared(tmp_path, logs)["common_steps"] == list(range(40, 681, 40))


# --- names ---


def test_their_names_become_ours_and_ours_wins(tmp_path):
    theirs = {"eval_coord_diag/coord_token_acc": 0.2, "eval_coord_diag/coord_vocab_mass": 0.3}
    log = read(ours(tmp_path, [{STEP_KEY: "1/2", **theirs}]))
    assert log.evals == {1: {"coord_token_acc": 0.2, "coord_diag/coord_mass_mean": 0.3}}
    assert "at the temperature of the loss" in log.warnings[0]
    log = read(ours(tmp_path, [{STEP_KEY: "1/2", "eval_coord_token_acc": 0.5, **theirs}]))
    assert log.evals[1]["coord_token_acc"] == 0.5


def test_every_name_of_a_dialect_stands_for_a_key_of_ours():
    for dialect in DIALECTS:
        assert not set(dialect.names) & set(dialect.names.values())
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("coord_diag/expected_bin_meanabs", "coord_diag/expected_bin_mae"),
        ("coord_diag/mae", "coord_diag/expected_bin_mae"),
        ("expected_bin_mae", "coord_diag/expected_bin_mae"),
        ("coord_acc", "coord_token_acc"),
        ("coord_diag/p_gt", "coord_diag/p_gt_mean"),
        ("coordinate_token_acc", "coord_token_acc"),
        ("coord_diag/coord_mass", "coord_diag/coord_mass_mean"),
    ],
)
def test_an_unknown_key_near_a_missing_metric_is_named(tmp_path, key, wanted):
    log = read(ours(tmp_path, [{STEP_KEY: "1/2", "eval_loss": 1.0, f"eval_{key}": 0.5}]))
    named = [text for text in log.warnings if f"eval_{key} resembles" in text]
    assert any(f"holds no eval_{wanted};" in text for text in named)
    both = {STEP_KEY: "1/2", f"eval_{key}": 0.5, f"eval_{wanted}": 0.4}
    log = read(ours(tmp_path, [both]))
    assert not any(f"holds no eval_{wanted};" in text for text in log.warnings)


@pytest.mark.parametrize(
    "key",
    [
        *("loss", "token_acc", "runtime", "coord_diag/loss", "coord_diag/soft_ce", "grad_norm"),
        *("coord_diag/gate", "coord_diag/enabled", "coord_diag/coord_tokens", "learning_rate"),
        *("coord_softce_w1/loss", "coord_diag/w1", "coord_diag/acc_top5", "coord_token_frac"),
        *("coord_monitor/flip_text_to_coord", "coord_diag/coord_tokens_per_sample", "det_mAP"),
    ],
)
def test_usual_keys_resemble_no_metric(tmp_path, key):
    log = read(ours(tmp_path, [{STEP_KEY: "1/2", "eval_loss": 1.0, f"eval_{key}": 0.5}]))
    assert not any("resemble" in text for text in log.warnings)


def test_resemblance_is_of_names_not_of_groups():
    assert not resembles("coord_diag/ce", "coord_diag/crps")
    assert not resembles("coord_diag/margin_mean", "coord_diag/p_gt_mean")


# --- rows ---


def test_rows_beyond_the_planned_steps_are_left_out(tmp_path):
    rows = [{STEP_KEY: f"{step}/100", "loss": 1.0} for step in (40, 80, 100, 800)]
    log = read(ours(tmp_path, rows))
    assert (sorted(log.train), log.dropped) == ([40, 80, 100], {"beyond the plan": 1})
    assert log.warnings == ["line 4 carries a step beyond the planned number and was left out"]
    log = read(ours(tmp_path / "plan", [{**row, STEP_KEY: row[STEP_KEY] + "0"} for row in rows]))
    assert log.dropped == {}


def test_a_plan_that_most_rows_exceed_is_doubted_itself(tmp_path):
    rows = [{STEP_KEY: f"{step}/100", "loss": 1.0} for step in (80, 160, 240)]
    log = read(ours(tmp_path, rows))
    assert (sorted(log.train), log.dropped) == ([80, 160, 240], {})
    (warning,) = log.warnings
    assert warning.startswith("step 240 lies beyond the planned 100")


# --- the page of the keys, and the cases ---


def test_the_page_of_logs_is_the_generated_one():
    assert PAGE.read_text() == page(), "run `python -m coordexp.cli.log_page`"


needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")


@needs_cases
@pytest.mark.parametrize("form", ["directory", "file"])
def test_case_checkpoints_read_as_their_logs(tmp_path, form):
    logs = {}
    for variant in VARIANTS:
        directory = CASES / f"ckpt_{variant}"
        logs[variant] = directory if form == "directory" else directory / "trainer_state.json"
    found = compared(tmp_path, logs)
    assert found["primary"]["variant"] == "pure_ce"
    assert found["common_steps"] == list(range(40, 681, 40))


@needs_cases
def test_case_low_mass_is_below_the_bar(tmp_path):
    logs = {variant: CASES / f"{variant}_mass.jsonl" for variant in VARIANTS}
    (refused_,) = compared(tmp_path, logs)["ineligible"]
    assert refused_["variant"] == "pure_ce"
    assert refused_["reasons"] == ["coord mass 0.300 is below the bar 0.95"]


@needs_cases
def test_case_names_of_others_are_read(tmp_path):
    logs = {name: CASES / "logs_wrongkeys" / f"{name}.jsonl" for name in ("mixed", "pure_ce")}
    found = compared(tmp_path, logs)
    assert found["primary"]["metrics"]["coord_token_acc"] == 0.07
    assert not [text for text in found["caveats"] if "coord acc" in text]


@needs_cases
def test_case_two_evaluation_sets(refused):
    with refused("coco and lvis", "--eval-set coco"):
        read_log(CASES / "mixed_two_evalsets.jsonl")
