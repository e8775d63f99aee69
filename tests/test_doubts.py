"""Doubts about the rows of a log: repeated evaluations, restarts, two runs, odd steps."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubt_checker import expected_doubts
from log_files import write_events
from random_logs import KINDS, LAST, random_rows, read_rows

from coordexp.storage.logs.jsonl import STEP_KEY, read_log
from coordexp.storage.logs.log import Doubt, Log
from coordexp.storage.logs.tensorboard import read_events

MAE = "coord_diag/expected_bin_mae"
N_DRAWS = 300


def training(
    n_evals: int = 9, last: int | None = None, decimals: int = 16, seed: int = 0
) -> list[dict[str, Any]]:
    """The rows of a run with a train and an eval row each 40 steps; errors fall, with noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(40, 40 * n_evals + 1, 40):
        level = 1 + 4 * math.exp(-step / 60)
        head = {STEP_KEY: f"{step}/{last or 40 * n_evals}"}
        noise = rng.normal(0, 0.02, 4)
        rows.append(head | {"loss": round(level + noise[0], decimals), "memory(GiB)": 40.2})
        values = {
            "eval_loss": level + noise[1],
            f"eval_{MAE}": 20 * (level + noise[2]),
            "eval_coord_token_acc": 0.2 + noise[3] / 10,
        }
        rounded = {key: round(value, decimals) for key, value in values.items()}
        rows.append(head | rounded | {"eval_runtime": round(rng.uniform(3, 4), 4)})
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Log:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_log(path)


def again(row: dict[str, Any], step: int, **changes: Any) -> dict[str, Any]:
    """An evaluation of the same weights, logged under another step."""
    planned = row[STEP_KEY].partition("/")[2]
    return row | {STEP_KEY: f"{step}/{planned}", "eval_runtime": 2.5} | changes


@pytest.mark.parametrize("as_events", [False, True])
@pytest.mark.parametrize("best", [40, 200, 320])
def test_evaluation_of_the_best_checkpoint_is_not_the_last_steps(tmp_path, best, as_events):
    """Rows of another key, or lacking one, do not hide it; the step keeps its own values."""
    rows = training()
    repeat = again(rows[best // 20 - 1], 360, eval_jit_compilation_time=1.0)
    del repeat["eval_coord_token_acc"]
    if as_events:
        write_events(tmp_path / "one", rows)
        write_events(tmp_path / "two", [*rows, repeat])
        plain, reloaded = read_events(tmp_path / "one"), read_events(tmp_path / "two")
    else:
        plain = written(tmp_path / "one", rows)
        reloaded = written(tmp_path / "two", [*rows, repeat])
    assert reloaded.evals == plain.evals
    assert plain.doubts == []
    text = (
        f"an evaluation at step 360 repeats that of step {best} digit for digit, as where the best "
        "checkpoint is loaded at the end: it is not used"
    )
    assert reloaded.doubts == [Doubt(text, "not used")]


@pytest.mark.parametrize("decimals", [4, 8, 16])
def test_last_steps_only_evaluation_may_be_the_best_checkpoints(tmp_path, decimals):
    rows = training(last=370, decimals=decimals)
    log = written(tmp_path / "log", [*rows, again(rows[7], 370)])
    assert max(log.evals) == 360
    assert [doubt.consequence for doubt in log.doubts] == ["not used"]
    assert "at step 370 repeats that of step 160" in log.doubts[0].text


@pytest.mark.parametrize(("last", "kept"), [(360, True), (330, False)])
def test_evaluation_equal_to_the_one_before_it_stays_where_it_was_due(tmp_path, last, kept):
    """At the end of a schedule the learning rate may be 0: the weights are the same."""
    rows = training(last=last)[:-2]
    log = written(tmp_path / "log", [*rows, again(rows[-1], last)])
    assert (last in log.evals) == kept
    assert [doubt.consequence for doubt in log.doubts] == ["note" if kept else "not used"]


def test_repeat_names_the_step_that_the_evaluation_belongs_to(tmp_path):
    rows = training()
    repeats = [again(rows[5], 200), again(rows[5], 360)]
    log = written(tmp_path / "log", [*rows[:10], repeats[0], *rows[10:], repeats[1]])
    assert log.evals == written(tmp_path / "plain", rows).evals
    assert [doubt.text.partition(" digit")[0] for doubt in log.doubts] == [
        f"an evaluation at step {step} repeats that of step 120" for step in (200, 360)
    ]


def test_rounded_copy_is_a_repeat(tmp_path):
    rows = training()
    copy = {k: round(v, 4) if isinstance(v, float) else v for k, v in rows[3].items()}
    log = written(tmp_path / "log", [*rows, again(copy, 360)])
    assert log.evals == written(tmp_path / "plain", rows).evals
    assert "repeats that of step 80 but for rounding" in log.doubts[0].text


def test_equal_values_of_few_digits_may_be_chance(tmp_path):
    """At two decimals two late evaluations are equal: that proves nothing."""
    rows = training(decimals=2)
    last = dict(rows[-1])
    for key in ("eval_loss", f"eval_{MAE}", "eval_coord_token_acc"):
        last[key] = rows[-5][key]
    log = written(tmp_path / "log", [*rows[:-1], last])
    assert max(log.evals) == 360
    (doubt,) = log.doubts
    assert doubt.consequence == "note"
    assert doubt.text.startswith("the evaluations at steps 280 and 360 are equal (the run stands")


@pytest.mark.parametrize("still", ["always", "at the end"])
def test_run_that_stands_still_keeps_its_evaluations(tmp_path, still):
    rows = training()
    first = 1 if still == "always" else 9
    for i in range(first, len(rows), 2):
        rows[i] = again(rows[first], int(rows[i][STEP_KEY].split("/")[0]))
    log = written(tmp_path / "log", rows)
    assert sorted(log.evals) == list(range(40, 361, 40))
    assert [doubt.consequence for doubt in log.doubts] == ["note"]


def test_loss_that_is_not_a_number_is_no_repeat(tmp_path):
    """A run that diverged keeps its last rows, so that the audit sees them."""
    rows = training()
    for i in (-3, -1):
        rows[i] |= {"eval_loss": math.nan, f"eval_{MAE}": math.nan}
    log = written(tmp_path / "log", rows)
    assert math.isnan(log.evals[360]["loss"])
    assert log.doubts == []


def test_step_logged_twice_with_equal_figures_is_no_doubt(tmp_path):
    rows = training()
    log = written(tmp_path / "log", [*rows, again(rows[-1], 360), rows[-2] | {"memory(GiB)": 41.0}])
    assert log.doubts == []
    assert log.evals[360]["runtime"] == 2.5


def test_restart_with_other_figures_counts_last(tmp_path):
    rows, other = training(), training(seed=1)
    log = written(tmp_path / "log", [*rows[:12], *other[8:]])
    assert log.evals[200] == written(tmp_path / "other", other).evals[200]
    text = "2 steps from 200 to 240 were logged more than once: the last values count"
    assert log.doubts == [Doubt(text, "note")]


AGAIN = (
    "step 360 was evaluated again with other figures, without training between, as of other "
    "weights or other data: the first evaluation counts"
)


@pytest.mark.parametrize("as_events", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_second_evaluation_without_training_between_is_not_used(tmp_path, as_events, times):
    """The best checkpoint on another device, or a test set, under the keys of the evaluation."""
    rows = training()
    rows += [again(rows[7], 360, **{f"eval_{MAE}": 21.0 + i}) for i in range(times)]
    if as_events:
        write_events(tmp_path, [{k: v for k, v in r.items() if k[0] != "m"} for r in rows])
        log = read_events(tmp_path)
    else:
        log = written(tmp_path / "log", rows)
    assert log.evals[360][MAE] == pytest.approx(rows[17][f"eval_{MAE}"])
    assert log.doubts == [Doubt(AGAIN, "not used")]


def test_evaluation_after_a_restart_counts_where_rows_are_sorted(tmp_path):
    rows, other = training(), training(seed=1)
    together = sorted([*rows, *other[16:]], key=lambda row: int(row[STEP_KEY].split("/")[0]))
    log = written(tmp_path / "log", together)
    assert log.evals[360] == written(tmp_path / "other", other).evals[360]
    text = "step 360 was logged more than once: the last values count"
    assert log.doubts == [Doubt(text, "note")]


def test_rows_that_complete_an_evaluation_are_no_second_one(tmp_path):
    rows = training()
    rows.append({STEP_KEY: "360/360", "eval_rouge": 0.5, "eval_runtime": 9.0})
    log = written(tmp_path / "log", rows)
    assert log.evals[360]["rouge"] == 0.5
    assert MAE in log.evals[360]
    assert log.doubts == []


@pytest.mark.parametrize("as_events", [False, True])
def test_two_runs_in_one_place_cap_the_grade(tmp_path, as_events):
    one, two = training(), training(n_evals=7, seed=1)
    if as_events:
        write_events(tmp_path / "events", one, opened=1000.0, suffix=".a")
        write_events(tmp_path / "events", two, opened=2000.0, suffix=".b")
        log = read_events(tmp_path / "events")
    else:
        log = written(tmp_path / "log", [*one, *two])
    text = (
        "the log holds two runs: 7 steps from 40 to 280 have two sets of figures, and the later "
        "ones count"
    )
    assert log.doubts[0] == Doubt(text, "caps")


def test_two_runs_need_not_log_the_same_steps(tmp_path):
    one, two = training(n_evals=20), training(n_evals=20, seed=1)
    log = written(tmp_path / "log", [{STEP_KEY: "10/800", "loss": 9.0}, *one, *two[:-4]])
    assert [lowest for lowest, _ in log.passes] == [10, 40]
    assert log.doubts[0].text.startswith("the log holds two runs: 18 steps from 40 to 720")


def test_false_start_is_no_second_run(tmp_path):
    log = written(tmp_path / "log", [*training()[:4], *training(seed=1)])
    text = "2 steps from 40 to 80 were logged more than once: the last values count"
    assert log.doubts == [Doubt(text, "note")]


def test_restart_in_a_second_event_file_is_no_second_run(tmp_path):
    write_events(tmp_path, training()[:12], opened=1000.0, suffix=".a")
    write_events(tmp_path, training(seed=1)[8:], opened=2000.0, suffix=".b")
    (doubt,) = read_events(tmp_path).doubts
    assert doubt.text.startswith("2 steps from 200 to 240 were logged more than once")


def test_rows_of_one_kind_after_the_other_are_no_restart(tmp_path):
    rows = training()
    assert written(tmp_path / "log", [*rows[::2], *rows[1::2]]).doubts == []


def test_step_beyond_the_plan_caps_the_grade(tmp_path):
    rows = training(last=100)
    (doubt,) = written(tmp_path / "log", rows).doubts
    assert doubt.text.startswith("step 360 lies beyond the planned 100")
    assert doubt.consequence == "caps"


@pytest.mark.parametrize("kind", KINDS)
def test_random_logs_have_the_doubts_that_their_rows_show(kind):
    for seed in range(N_DRAWS // len(KINDS)):
        rows = random_rows(np.random.default_rng(seed), kind)
        log = read_rows(Path("log"), rows)
        run = {"rows": rows, "planned": LAST, "has_manifest": True}
        expected = expected_doubts(run, [])
        for doubt in log.doubts:
            assert expected[doubt.text] == doubt.consequence
        of_rows = [text for text in expected if not re.search("grad_norm|ap/|samples", text)]
        assert sorted(of_rows) == sorted(log.warnings)
