"""logging.jsonl, written and read (design section 4)."""

from __future__ import annotations

import codecs
import errno
import gzip
import json
import math
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordexp.errors import UserError
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.logs.number_rows import NumberRows
from coordexp.storage.logs.writer import LogWriter

STEPS = range(10, 90, 10)
METRICS = (
    "loss",
    "coord_diag/expected_bin_mae",
    "coord_diag/expected_bin_abs_err_p90",
    "coord_token_acc",
)
SUMMARY = (
    {
        "train_runtime": 9.1,
        "train_samples_per_second": 7.0,
        "train_loss": 2.1,
        STEP_KEY: "80/80",
        "percentage": "100.00%",
    },
    {
        "model_parameter_info": "4B",
        "last_model_checkpoint": "v0/checkpoint-80",
        "best_metric": 0.3,
        "log_history": [{"loss": 1}],
    },
)


def values_at(step: int, kind: str) -> dict[str, float]:
    """Numbers that are different at each step, for each key, and from train to eval."""
    return {
        key: round((1 + i) / step + (0.1 if kind == "eval" else 0.0), 8)
        for i, key in enumerate(METRICS)
    }


def project_rows() -> list[dict]:
    """A log as this project writes it: a train row every 10 steps, an eval row every 20."""
    rows: list[dict] = []
    for step in STEPS:
        values = {kind: values_at(step, kind) for kind in ("train", "eval")}
        rows.append({STEP_KEY: f"{step}/{STEPS[-1]}", **values["train"]})
        if step % 20 == 0:
            rows.append(
                {
                    STEP_KEY: f"{step}/{STEPS[-1]}",
                    **{EVAL + key: value for key, value in values["eval"].items()},
                }
            )
    return rows


def swift_log(
    one_row: bool = False, numbers_as_text: bool = False, summary: bool = True
) -> list[dict]:
    """The same log as ms-swift writes it: with extra keys, and a summary at the end.

    With `one_row`, train and eval values of a step stand in one row.
    """
    rows: list[dict] = []
    for step in STEPS:
        train, evals = (
            values_at(step, "train"),
            {EVAL + key: value for key, value in values_at(step, "eval").items()},
        )
        extras = {
            STEP_KEY: f"{step}/{STEPS[-1]}",
            "percentage": f"{step / 0.8:.2f}%",
            "elapsed_time": "1h 2m 3s",
        }
        if numbers_as_text:
            train, evals = (
                {key: repr(value) for key, value in values.items()} for values in (train, evals)
            )
        found = [train] if step % 20 else [{**train, **evals}] if one_row else [train, evals]
        rows += [{**values, "remaining_time": "0s", **extras} for values in found]
    return rows + list(SUMMARY if summary else ())


def encode(rows: list[dict], line_end: str = "\n") -> bytes:
    return "".join(json.dumps(row) + line_end for row in rows).encode()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "logging.jsonl"


def read(tmp_path: Path, *lines: str | dict, end: str = "\n") -> Log:
    path = tmp_path / "log.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    )
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


def test_log_of_n_numbers_takes_little_more_than_8_n_bytes(path):
    """Neither the text of the file nor an object for each number is kept."""
    path.parent.mkdir()
    with path.open("w") as file:
        for step in range(1, 5000):
            values = {f"coord_diag/value_{i:02d}": math.sin(step + i) for i in range(40)}
            file.write(json.dumps({STEP_KEY: step, "loss": 1 / step, **values}) + "\n")
    tracemalloc.start()
    try:
        assert len(read_log(path).train) == 4999
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * 41 * 4999, peak / (8 * 41 * 4999)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.dictionaries(st.sampled_from("abc"), st.floats(), min_size=1),
        )
    ),
    st.sets(st.integers(1, 5)),
)
def test_number_rows_are_a_dict_of_dicts(rows, deleted):
    found, expected = NumberRows(), {}
    for step, row in rows:
        found[step] = found.get(step, {}) | row
        expected[step] = expected.get(step, {}) | row
    for step in deleted & expected.keys():
        del found[step], expected[step]
    assert [*found] == [*expected]
    assert repr(dict(found)) == repr(expected)  # also where a value is not a number
    assert found.keys() == expected.keys()
    assert all(list(found[step]) == list(row) for step, row in expected.items())
    with pytest.raises(KeyError):
        found[6]


def test_row_before_the_first_beyond_the_plan_does_not_wait(path):
    """A log that counts other steps than its plan keeps all of them, in their order."""
    rows = [{STEP_KEY: f"{step}/3", "loss": float(step)} for step in (1, 2, 9, 3, 8, 7, 9)]
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_log(path)
    assert [*found.train] == [1, 2, 9, 3, 8, 7]
    assert found.passes == [(1, 9), (3, 8), (7, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    assert [*read_log(path).train] == [1, 2, 3]


def test_row_is_not_written_twice_not_even_after_a_restart(path):
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


def test_row_is_on_disk_when_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(path.read_bytes()))
    LogWriter(path, 10).append("train", 1, {"loss": 1.0})
    assert synced
    assert synced[-1].endswith(b"\n")


def test_full_disk_is_one_line_and_loses_no_row(path, monkeypatch, refused):
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
    [
        ("640/720", 640, 720),
        ("640", 640, None),
        (640, 640, None),
        (640.0, 640, None),
        (" 640 / 720 ", 640, 720),
        ("640/-1", 640, None),
        ("640/0", 640, None),
        (0, 0, None),
    ],
)
def test_step_is_read_in_every_spelling(tmp_path, value, step, max_steps):
    log = read(tmp_path, {STEP_KEY: value, "loss": 1.0})
    assert log.train == {step: {"loss": 1.0}}
    assert log.max_steps == max_steps


@pytest.mark.parametrize("key", ["global_step", "step", "iteration"])
def test_step_is_read_under_other_keys(tmp_path, key):
    assert read(tmp_path, {key: 40, "loss": 1.0}).train == {40: {"loss": 1.0}}
    assert read(tmp_path, {STEP_KEY: None, key: "40", "loss": 1.0}).train == {40: {"loss": 1.0}}


def test_first_known_step_key_of_a_row_counts(tmp_path):
    row = {"iteration": 1, "step": 2, "global_step": 3, STEP_KEY: "4/8", "loss": 1.0}
    for step, key in ((4, STEP_KEY), (3, "global_step"), (2, "step"), (1, "iteration")):
        assert read(tmp_path, row).train == {step: {"loss": 1.0}}
        del row[key]


def test_planned_steps_are_kept_if_a_later_row_lacks_them(tmp_path):
    assert read(tmp_path, {STEP_KEY: "4/8", "loss": 1.0}, {"step": 5, "loss": 1.0}).max_steps == 8


def test_eval_prefix_without_a_name_is_left_out(tmp_path):
    log = read(tmp_path, {"step": 1, "loss": 1.0, "eval_": 2.0})
    assert (log.train, log.evals) == ({1: {"loss": 1.0}}, {})


@pytest.mark.parametrize(
    "value",
    [
        "12.5/720",
        12.5,
        "-3/720",
        -3,
        "640/720/1",
        "640/",
        "/720",
        "1_000",
        "٣/٧",
        10**40,
        1e300,
        "1" * 400,
        True,
        "soon",
        [1],
        {},
    ],
)
def test_row_whose_step_is_not_a_whole_number_is_left_out(tmp_path, value):
    log = read(tmp_path, {STEP_KEY: value, "loss": 1.0}, {STEP_KEY: "1/2", "loss": 1.0})
    assert log.train == {1: {"loss": 1.0}}
    assert log.dropped == {"bad step": 1}
    assert len(log.warnings) == 1
    assert log.warnings[0].startswith("line 1 carries a step that is not a whole number")


def test_rows_left_out_are_counted_with_one_warning_a_reason(tmp_path):
    stepless, odd, empty = (
        {"loss": 2.0},
        {"step": "soon", "eval_loss": 3.0},
        {"step": 3, "learning_rate": 0.1, "loss": None},
    )
    log = read(
        tmp_path, {"step": 1, "loss": 1.0}, *[stepless, odd, empty] * 1000, *[stepless] * 9000
    )
    assert (log.rows, log.dropped) == (1, {"no step": 10_000, "bad step": 1000, "no values": 1000})
    assert [warning.split()[:2] for warning in log.warnings] == [
        ["line", "2"],
        ["line", "3"],
        ["line", "4"],
    ]
    assert [warning.split("so were ")[1].split()[0] for warning in log.warnings] == [
        "9999",
        "999",
        "999",
    ]


def test_summary_rows_are_counted_without_a_warning(tmp_path):
    log = read(tmp_path, {STEP_KEY: "80/80", "loss": 1.0}, *SUMMARY)
    assert (log.train, log.evals, log.rows, log.dropped, log.warnings) == (
        {80: {"loss": 1.0}},
        {},
        1,
        {"summary": 2},
        [],
    )


@pytest.mark.parametrize("text", ["0.53", "-1", "1e-3", "2.5E+4", "007"])
def test_number_written_as_text_is_a_number(tmp_path, text):
    assert read(tmp_path, {"step": 1, "loss": text}).train == {1: {"loss": float(text)}}


@pytest.mark.parametrize(
    "value", ["1h 2m", "25%", "1_0", "0x1F", "", " 1", "1,5", "٣", None, True, [1.0], {"a": 1}]
)
def test_value_that_is_no_number_is_left_out(tmp_path, value):
    assert read(tmp_path, {"step": 1, "loss": 1.0, "other": value, "eval_other": value}).train == {
        1: {"loss": 1.0}
    }


def test_nan_and_infinity_as_text_and_numbers_beyond_int64(tmp_path):
    row = read(
        tmp_path, {"step": 1, "loss": "NaN", "a": "-Infinity", "b": "inf", "c": 10**30}
    ).train[1]
    assert math.isnan(row.pop("loss"))
    assert row == {"a": -math.inf, "b": math.inf, "c": 1e30}


def test_last_value_of_a_repeated_key_counts(tmp_path):
    assert read(tmp_path, '{"step": 1, "loss": 1.0, "step": 2, "loss": 3.0}').train == {
        2: {"loss": 3.0}
    }


@pytest.mark.parametrize("one_row", [False, True])
@pytest.mark.parametrize("numbers_as_text", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("start", [b"", codecs.BOM_UTF8])
def test_same_content_reads_the_same_in_every_form(
    tmp_path, one_row, numbers_as_text, line_end, start
):
    path = tmp_path / "logging.jsonl"
    path.write_bytes(encode(project_rows()))
    mine = read_log(path)
    path.write_bytes(start + encode(swift_log(one_row, numbers_as_text), line_end))
    theirs = read_log(path)
    assert mine.train == {step: values_at(step, "train") for step in STEPS}
    assert mine.evals == {step: values_at(step, "eval") for step in STEPS if step % 20 == 0}
    assert (theirs.train, theirs.evals, theirs.max_steps) == (
        mine.train,
        mine.evals,
        mine.max_steps,
    )
    assert mine.warnings == theirs.warnings == []
    assert theirs.dropped == {"summary": 2}


@given(st.permutations(swift_log()))
def test_the_order_of_rows_does_not_matter(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "permuted.jsonl"
    path.write_bytes(encode(swift_log()))
    expected = read_log(path)
    path.write_bytes(encode(rows))
    assert read_log(path) == expected


def test_train_and_eval_in_one_row_or_two_read_the_same(tmp_path):
    both = {
        "loss": 1.0,
        "grad_norm": 2.0,
        "eval_loss": 3.0,
        "eval_coord_diag/expected_bin_mae": 4.0,
    }
    one = read(tmp_path, {STEP_KEY: "40/80", **both})
    train, evals = (
        {k: v for k, v in both.items() if k.startswith(EVAL) == is_eval}
        for is_eval in (False, True)
    )
    two = read(tmp_path, {STEP_KEY: "40/80", **train}, {STEP_KEY: "40/80", **evals})
    assert one.train == two.train == {40: {"loss": 1.0, "grad_norm": 2.0}}
    assert one.evals == two.evals == {40: {"loss": 3.0, "coord_diag/expected_bin_mae": 4.0}}


def test_last_values_of_a_repeated_step_count(tmp_path):
    rows = [
        {STEP_KEY: f"{step}/80", "loss": loss, "eval_loss": 10 * loss}
        for step, loss in ((40, 1.0), (80, 2.0), (40, 3.0))
    ]
    log = read(tmp_path, *rows)
    assert log.train == {40: {"loss": 3.0}, 80: {"loss": 2.0}}
    assert log.evals == {40: {"loss": 30.0}, 80: {"loss": 20.0}}
    assert log.rows == 3
    assert "step 40 was logged more than once" in log.warnings[0]


def test_restart_is_reported_with_rows_that_predate_it(tmp_path):
    rows = [
        {STEP_KEY: f"{step}/80", "loss": loss}
        for step, loss in ((10, 1.0), (20, 2.0), (30, 3.0), (40, 4.0), (20, 2.5), (30, 3.5))
    ]
    behind = read(tmp_path, *rows)
    caught_up = read(tmp_path, *rows, {STEP_KEY: "40/80", "loss": 4.5})
    assert "2 steps from 20 to 30" in behind.warnings[0]
    assert "3 steps from 20 to 40" in caught_up.warnings[0]
    assert "ends at step 30" in behind.warnings[1]
    assert "step 40" in behind.warnings[1]
    assert len(caught_up.warnings) == 1


def test_eval_rows_of_one_step_with_other_keys_are_no_restart(tmp_path):
    log = read(
        tmp_path,
        {"step": 1, "eval_lvis_loss": 1.0},
        {"step": 1, "eval_coco_loss": 2.0},
        {"step": 1, "loss": 3.0},
    )
    assert log.evals == {1: {"lvis_loss": 1.0, "coco_loss": 2.0}}
    assert log.warnings == []


def test_extra_keys_of_ms_swift_are_ignored(tmp_path):
    log = read(
        tmp_path,
        {
            "loss": 2.1,
            "token_acc": 0.5,
            "epoch": 0.1,
            STEP_KEY: "1/720",
            "percentage": "0.14%",
            "elapsed_time": "19s",
            "memory(GiB)": 35.1,
            "remaining_time": "3h",
            "train_speed(iter/s)": 0.05,
            "flag": True,
            "none": None,
            "list": [1],
        },
        {
            "eval_loss": 1.1,
            "eval_runtime": 9.0,
            "epoch": 0.1,
            STEP_KEY: "1/720",
            "percentage": "0.14%",
        },
        {"train_runtime": 9.0, "train_loss": 2.0, STEP_KEY: "720/720"},
        {
            "last_model_checkpoint": "out/checkpoint-720",
            "best_metric": 0.3,
            "global_step": 720,
            "log_history": [],
        },
    )
    assert log.train == {
        1: {
            "loss": 2.1,
            "token_acc": 0.5,
            "epoch": 0.1,
            "memory(GiB)": 35.1,
            "train_speed(iter/s)": 0.05,
        }
    }
    assert log.evals == {1: {"loss": 1.1, "runtime": 9.0}}


def test_nan_and_infinity_are_numbers(tmp_path):
    row = read(
        tmp_path, '{"global_step/max_steps": "1/2", "loss": NaN, "grad_norm": Infinity}'
    ).train[1]
    assert math.isnan(row["loss"])
    assert row["grad_norm"] == math.inf


def test_row_without_a_step_is_left_out_and_its_line_named(tmp_path):
    log = read(
        tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, {"loss": 2.0}, {STEP_KEY: "soon", "loss": 3.0}
    )
    assert log.train == {1: {"loss": 1.0}}
    assert [warning.split()[:2] for warning in log.warnings] == [["line", "2"], ["line", "3"]]


def test_torn_last_line_is_dropped_with_a_warning(tmp_path):
    log = read(
        tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, '{"global_step/max_steps": "2/2", "lo', end=""
    )
    assert log.train == {1: {"loss": 1.0}}
    assert len(log.warnings) == 1
    assert "line 2" in log.warnings[0]


BROKEN = {
    '{"loss": 1.0': "delimiter",
    "nonsense": "column 1",
    "[1, 2]": "not a JSON object",
    "3": "not a JSON object",
    '"text"': "not a JSON object",
    "[" * 100_000: "nested too deeply",
    '{"a": "\\ud8"}': "escape",
    "{}{}": "Extra data",
    '{"\\ud800": 1.0}': "not valid Unicode",
    '{"step": ' + "1" * 5000 + "}": "thousands of digits",
    "\0\0\0\0": "column 1",
    '{"loss": 1.0, "st{"loss": 1.0, "step": 2}': "delimiter",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_line_in_the_middle_is_named(tmp_path, refused, broken):
    with refused("log.jsonl", "line 3 is broken", BROKEN[broken]):
        read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, "", broken, {STEP_KEY: "2/2", "loss": 1.0})


def test_line_that_is_not_text_is_named(tmp_path, refused):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1, "loss": 1}\n{"step": 2, "loss\xff": 1}\n')
    with refused("log.jsonl", "line 2", "not valid Unicode"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("wrap", "word"),
    [
        (gzip.compress, "gzip"),
        (lambda b: b.decode().encode("utf-16"), "UTF-16"),
        (lambda b: codecs.BOM_UTF16_BE + b.decode().encode("utf-16-be"), "UTF-16"),
    ],
)
def test_compressed_or_utf16_log_is_refused_by_its_format(tmp_path, refused, wrap, word):
    (tmp_path / "log.jsonl").write_bytes(wrap(encode(swift_log())))
    with refused("log.jsonl", word):
        read_log(tmp_path / "log.jsonl")


def test_empty_log_has_no_rows(tmp_path):
    log = read(tmp_path, end="")
    assert (log.train, log.evals, log.rows, log.warnings) == ({}, {}, 0, [])


def test_broken_last_line_with_a_line_end_is_an_error(tmp_path, refused):
    with refused("line 2"):
        read(tmp_path, {STEP_KEY: "1/2", "loss": 1.0}, '{"loss":')


def test_missing_log_or_directory_is_one_line(tmp_path, refused):
    with refused(str(tmp_path / "absent.jsonl")):
        read_log(tmp_path / "absent.jsonl")
    with refused(str(tmp_path)):
        read_log(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=2),
    max_leaves=3,
)
keys = st.sampled_from([STEP_KEY, "step", "global_step", "loss", "eval_loss", EVAL]) | st.text(
    max_size=8
)
rows = (
    st.dictionaries(keys, json_values | st.sampled_from(["3/4", "7", "-1/0", "1/x"]), max_size=6)
    .map(json.dumps)
    .map(str.encode)
)


@settings(max_examples=300)
@given(
    st.lists(rows | st.binary(max_size=40), max_size=5).map(b"\n".join) | st.binary(max_size=200)
)
@example(b'{"step": 1, "loss": 1' + b"0" * 400 + b"}")
@example(b'{"step": 1' + b"0" * 5000 + b', "loss": 1}')
@example(b'{"step": 1e999, "loss": 1}\n')
@example(b'\xef\xbb\xbf{"step": 1, "loss": 1}\n')
def test_arbitrary_bytes_give_a_log_or_one_line(tmp_path_factory, content):
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


@settings(max_examples=300)
@given(st.data())
def test_every_row_of_a_damaged_log_is_read_counted_or_named(tmp_path_factory, data):
    """Oracle: the standard JSON reader, line by line."""
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    content = bytearray(
        encode(data.draw(st.sampled_from([project_rows(), swift_log(), swift_log(one_row=True)])))
    )
    for _ in range(data.draw(st.integers(0, 4), "damages")):
        # The first bytes can make it a gzip file.
        at = data.draw(st.integers(1, len(content)), "at")
        until = data.draw(st.integers(at, min(len(content), at + 40)), "until")
        content[at:until] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b"\r", b'"', b"\\ud800", b"1" * 5000]),
            "new",
        )
    if data.draw(st.booleans(), "truncated"):
        del content[data.draw(st.integers(1, len(content)), "from") :]
    path.write_bytes(content)

    lines = bytes(content).removeprefix(codecs.BOM_UTF8).split(b"\n")
    objects = [is_object(line) for line in lines if line.strip()]
    broken = [
        number
        for number, line in enumerate(lines[:-1], start=1)
        if line.strip() and not is_object(line)
    ]
    if broken:
        with pytest.raises(UserError) as caught:
            read_log(path)
        assert str(caught.value).splitlines() == [str(caught.value)]
        assert f"{path}: line {broken[0]} is broken" in str(caught.value)
        return
    log = read_log(path)
    assert log.rows + sum(log.dropped.values()) == sum(objects)
    assert len(log.train) + len(log.evals) <= 2 * log.rows
    torn = [warning for warning in log.warnings if "torn" in warning]
    assert len(torn) == len(objects) - sum(objects)


def is_object(line: bytes) -> bool:
    try:
        row = json.loads(line.decode())
        return isinstance(row, dict) and bool("".join(row).encode() or True)
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize(
    ("line", "doubts"),
    [
        ('{"step": 1, "eval_loss": 1.0, "eval_loss": 2.0}', 1),
        ('{"step": 1, "eval_loss" : 1.0, "eval_loss" : 2.0}', 1),
        ('{"step": 1, "eval_loss": 2.0, "eval_loss": 2.0}', 0),
        ('{"step": 1, "eval_loss": 2.0, "note": "\\"a\\": \\"b\\": 3"}', 0),
        ('{"step": 1, "eval_loss": 2.0, "extra": {"eval_loss": 3}}', 0),
    ],
)
def test_key_that_a_row_gives_twice_is_a_doubt(tmp_path, line, doubts):
    path = tmp_path / "logging.jsonl"
    path.write_text(f"{line}\n" * 3)
    log = read_log(path)
    assert log.evals[1]["loss"] == 2.0
    assert [d.consequence for d in log.doubts if "gives eval_loss twice" in d.text] == [
        "caps"
    ] * doubts
