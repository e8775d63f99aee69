"""logging.jsonl, written and read (design section 4)."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordexp.logs import EVAL, STEP_KEY, Log, LogWriter, read_log
from coordexp.schema import UserError


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "logging.jsonl"


def read(tmp_path: Path, *lines: str | dict, end: str = "\n") -> Log:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)
    return read_log(path)


def test_rows_are_flat_and_carry_step_and_prefix(path):
    log = LogWriter(path, 720)
    log.append("train", 10, {"loss": 1.5, "base_ce/loss": 1.25})
    log.append("eval", 10, {"loss": 1.0, "coord_token_acc": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {STEP_KEY: "10/720", "loss": 1.5, "base_ce/loss": 1.25},
        {STEP_KEY: "10/720", "eval_loss": 1.0, "eval_coord_token_acc": 0.5},
    ]
    found = read_log(path)
    assert found.train == {10: {"loss": 1.5, "base_ce/loss": 1.25}}
    assert found.evals == {10: {"loss": 1.0, "coord_token_acc": 0.5}}
    assert found.max_steps == 720
    assert found.warnings == []


def test_a_row_is_not_written_twice_not_even_after_a_restart(path):
    LogWriter(path, 20).append("train", 10, {"loss": 1.0})
    before = path.read_bytes()
    again = LogWriter(path, 20)
    again.append("train", 10, {"loss": 2.0})
    assert path.read_bytes() == before
    again.append("eval", 10, {"loss": 3.0})
    again.append("eval", 10, {"loss": 4.0})
    again.append("train", 20, {"loss": 5.0})
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 3
    assert LogWriter(path, 20).has_eval(10)
    assert not LogWriter(path, 20).has_eval(20)


def test_opening_cuts_a_torn_last_line_and_nothing_else(path):
    log = LogWriter(path, 30)
    for step in (10, 20, 30):
        log.append("train", step, {"loss": float(step), "note": "ü"})
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in {*ends, *(end - 1 for end in ends), *range(0, len(content), 7)}:
        path.write_bytes(content[:cut])
        reopened = LogWriter(path, 30)
        whole = max((end for end in ends if end <= cut), default=0)
        assert path.read_bytes() == content[:whole]
        for step in (10, 20, 30):
            reopened.append("train", step, {"loss": float(step), "note": "ü"})
        assert path.read_bytes() == content


def test_a_row_survives_if_the_process_dies_right_after_append(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(path.read_bytes()))
    LogWriter(path, 10).append("train", 1, {"loss": 1.0})
    assert synced
    assert synced[-1].endswith(b"\n")


def test_a_full_disk_is_one_line_and_costs_no_row(path, monkeypatch, refused):
    LogWriter(path, 20).append("train", 10, {"loss": 1.0})
    with monkeypatch.context() as patch, refused(str(path), "disk is full"):
        patch.setattr("os.fsync", full_disk)
        LogWriter(path, 20).append("train", 20, {"loss": 2.0})
    LogWriter(path, 20).append("train", 20, {"loss": 2.0})
    assert read_log(path).train == {10: {"loss": 1.0}, 20: {"loss": 2.0}}


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("value", "step", "max_steps"),
    [("640/720", 640, 720), ("640", 640, None), (640, 640, None), (640.0, 640, None), (" 640 / 720 ", 640, 720)],
)
def test_steps_in_every_spelling(tmp_path, value, step, max_steps):
    log = read(tmp_path, {STEP_KEY: value, "loss": 1.0})
    assert list(log.train) == [step]
    assert log.max_steps == max_steps


@pytest.mark.parametrize("key", ["global_step", "step"])
def test_other_names_of_the_step(tmp_path, key):
    assert read(tmp_path, {key: 40, "loss": 1.0}).train == {40: {"loss": 1.0}}


def test_train_and_eval_in_one_row_or_in_two_read_alike(tmp_path):
    both = {"loss": 1.0, "grad_norm": 2.0, "eval_loss": 3.0, "eval_coord_diag/expected_bin_mae": 4.0}
    one = read(tmp_path, {STEP_KEY: "40/80", **both})
    train, evals = ({k: v for k, v in both.items() if k.startswith(EVAL) == is_eval} for is_eval in (False, True))
    two = read(tmp_path, {STEP_KEY: "40/80", **train}, {STEP_KEY: "40/80", **evals})
    assert one.train == two.train == {40: {"loss": 1.0, "grad_norm": 2.0}}
    assert one.evals == two.evals == {40: {"loss": 3.0, "coord_diag/expected_bin_mae": 4.0}}


def test_the_last_of_repeated_steps_wins(tmp_path):
    rows = [{STEP_KEY: f"{step}/80", "loss": loss, "eval_loss": 10 * loss} for step, loss in ((40, 1.0), (80, 2.0), (40, 3.0))]
    log = read(tmp_path, *rows)
    assert log.train == {40: {"loss": 3.0}, 80: {"loss": 2.0}}
    assert log.evals == {40: {"loss": 30.0}, 80: {"loss": 20.0}}


def test_ms_swift_extras_are_tolerated(tmp_path):
    log = read(
        tmp_path,
        {"loss": 2.1, "token_acc": 0.5, "epoch": 0.1, STEP_KEY: "1/720", "percentage": "0.14%", "elapsed_time": "19s",
         "memory(GiB)": 35.1, "remaining_time": "3h", "train_speed(iter/s)": 0.05, "flag": True, "none": None, "list": [1]},
        {"eval_loss": 1.1, "eval_runtime": 9.0, "epoch": 0.1, STEP_KEY: "1/720", "percentage": "0.14%"},
        {"train_runtime": 9.0, "train_loss": 2.0, STEP_KEY: "720/720"},
        {"last_model_checkpoint": "out/checkpoint-720", "best_metric": 0.3, "global_step": 720, "log_history": []},
    )  # fmt: skip
    assert log.train == {1: {"loss": 2.1, "token_acc": 0.5, "epoch": 0.1, "memory(GiB)": 35.1, "train_speed(iter/s)": 0.05}}
    assert log.evals == {1: {"loss": 1.1, "runtime": 9.0}}


def test_nan_and_infinity_are_numbers(tmp_path):
    row = read(tmp_path, '{"global_step/max_steps": "1/2", "loss": NaN, "grad_norm": Infinity}').train[1]
    assert math.isnan(row["loss"])
    assert row["grad_norm"] == math.inf


def test_a_row_without_a_step_is_left_out_with_a_warning_that_names_the_line(tmp_path):
    log = read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, {"loss": 2.0}, {STEP_KEY: "soon", "loss": 3.0})
    assert log.train == {1: {"loss": 1.0}}
    assert [warning.split()[:2] for warning in log.warnings] == [["line", "2"], ["line", "3"]]


def test_an_unterminated_last_line_is_dropped_with_a_warning(tmp_path):
    log = read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, '{"global_step/max_steps": "2/2", "lo', end="")
    assert log.train == {1: {"loss": 1.0}}
    assert len(log.warnings) == 1
    assert "line 2" in log.warnings[0]


@pytest.mark.parametrize("broken", ['{"loss": 1.0', "nonsense", "[1, 2]", "3", '"text"', "[" * 100_000, '{"a": "\\ud8"}', "{}{}"])
def test_a_broken_line_in_the_middle_names_the_line(tmp_path, refused, broken):
    with refused("log.jsonl", "line 3"):
        read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, "", broken, {STEP_KEY: "2/2", "loss": 1.0})


def test_a_broken_last_line_that_is_terminated_is_an_error_too(tmp_path, refused):
    with refused("line 2"):
        read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, '{"loss":')


def test_what_cannot_be_read_is_one_line(tmp_path, refused):
    with refused(str(tmp_path / "absent.jsonl")):
        read_log(tmp_path / "absent.jsonl")
    with refused(str(tmp_path)):
        read_log(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda v: st.lists(v, max_size=2), max_leaves=3
)
keys = st.sampled_from([STEP_KEY, "step", "global_step", "loss", "eval_loss", EVAL]) | st.text(max_size=8)
rows = (
    st.dictionaries(keys, json_values | st.sampled_from(["3/4", "7", "-1/0", "1/x"]), max_size=6).map(json.dumps).map(str.encode)
)


@settings(max_examples=300)
@given(st.lists(rows | st.binary(max_size=40), max_size=5).map(b"\n".join) | st.binary(max_size=200))
@example(b'{"step": 1, "loss": 1' + b"0" * 400 + b"}")
@example(b'{"step": 1' + b"0" * 5000 + b', "loss": 1}')
@example(b'{"step": 1e999, "loss": 1}\n')
@example(b'\xef\xbb\xbf{"step": 1, "loss": 1}\n')
def test_arbitrary_bytes_give_a_log_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    try:
        log, message = read_log(path), str(path)
    except UserError as error:
        log, message = Log(path), str(error)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    for step, row in [*log.train.items(), *log.evals.items()]:
        assert type(step) is int
        assert all(type(value) is float for value in row.values())
