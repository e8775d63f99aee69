"""TensorBoard events are read into the same log that a logging.jsonl gives."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from log_files import (
    ROWS,
    in_float32,
    record,
    record_ends,
    summary,
    tag_of,
    write_events,
    write_log,
)

from coordexp.errors import UserError
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import Log
from coordexp.storage.logs.tensorboard import read_events


@pytest.mark.parametrize("as_tensor", ["", "float_val", "double_val", "tensor_content"])
def test_events_read_the_same_as_a_log(tmp_path, as_tensor):
    extras = {"percentage": "25%", "elapsed_time": "1m"}
    summed_up = {
        STEP_KEY: "40/40",
        "train_runtime": 9.0,
        "train_loss": 0.3,
        "total_flos": 1e18,
        "epoch": 40 / 7,
    }
    rows = [*({**row, **extras} for row in ROWS), summed_up]
    write_events(tmp_path / "events", rows, as_tensor=as_tensor)
    log, events = (
        read_log(write_log(tmp_path / "logging.jsonl", rows)),
        read_events(tmp_path / "events"),
    )
    assert in_float32(events) == in_float32(log)
    assert (events.rows, events.dropped, events.warnings, events.max_steps) == (8, {}, [], None)
    if as_tensor == "double_val":
        assert (events.train, events.evals) == (log.train, log.evals)


def test_events_of_torch_summary_writer_are_read(tmp_path):
    program = (
        "import json, sys, numpy; from torch.utils.tensorboard import SummaryWriter\n"
        "writer = SummaryWriter(sys.argv[1])\n"
        "writer.add_text('args', 'x' * 2000)\n"
        "writer.add_histogram('train/weights', numpy.arange(9), 1)\n"
        "for step, tag, number in json.loads(sys.argv[2]):\n"
        "    writer.add_scalar(tag, number, step)\n"
        "writer.close()"
    )
    scalars = [
        (int(row[STEP_KEY].split("/")[0]), tag_of(k), v)
        for row in ROWS
        for k, v in row.items()
        if k != STEP_KEY
    ]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "events"), json.dumps(scalars)],
        check=True,
        capture_output=True,
    )
    events = read_events(tmp_path / "events")
    assert in_float32(events) == in_float32(read_log(write_log(tmp_path / "logging.jsonl")))
    assert (events.warnings, events.dropped) == ([], {})


def test_event_file_opened_last_overrides_the_others(tmp_path):
    """Their names say another order than their first wall times."""
    restarted = [
        {**row, "eval_loss": 9.0} if "eval_loss" in row else {**row, "loss": 5.0}
        for row in ROWS[2:6]
    ]
    second = write_events(tmp_path, restarted, opened=2000.0)
    first = write_events(tmp_path, ROWS, opened=1000.0)
    assert sorted([first, second]) == [second, first]
    log = read_events(tmp_path)
    assert [log.train[step]["loss"] for step in (20, 30)] == [5.0, 5.0]
    assert [log.evals[step]["loss"] for step in (20, 30)] == [9.0, 9.0]
    assert in_float32(log)[0][40] == in_float32(read_log(write_log(tmp_path / "log")))[0][40]
    assert "2 steps from 20 to 30" in log.warnings[0]
    assert "ends at step 30" in log.warnings[1]


def test_epoch_in_train_and_eval_rows_is_no_restart(tmp_path):
    write_events(tmp_path, ROWS)
    assert read_events(tmp_path).warnings == []


def test_values_under_other_tags_or_negative_steps_are_counted(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    places = (
        (1, "train/loss"),
        (1, "iteration"),
        (2, "test/loss"),
        (2, "eval/"),
        (-1, "eval/loss"),
        (3, "train/lr"),
    )
    writer = EventFileWriter(str(tmp_path))
    for step, tag in (*places, (4, "train/lr"), (4, "eval/loss")):
        writer.add_event(Event(step=step, summary=summary(tag, 0.5)))
    writer.close()
    log = read_events(tmp_path)
    assert (log.train, log.evals, log.rows) == ({1: {"loss": 0.5}}, {4: {"loss": 0.5}}, 2)
    assert log.dropped == {"other tags": 3, "bad step": 1, "no values": 1}
    assert [warning.split()[0] for warning in log.warnings] == ["3", "1", "1"]


def test_tensor_that_is_no_single_number_is_left_out(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    vector = summary("train/loss", 1.0, "float_val")
    vector.value[0].tensor.tensor_shape.CopyFrom(
        TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    )
    empty = summary("train/loss", 1.0, "float_val")
    empty.value[0].tensor.ClearField("float_val")
    writer = EventFileWriter(str(tmp_path))
    for content in (summary("train/loss", 0.5), vector, empty):
        writer.add_event(Event(step=1, summary=content))
    writer.close()
    (tmp_path / "tfevents.d").mkdir()
    assert read_events(tmp_path).train == {1: {"loss": 0.5}}


@pytest.fixture(scope="module")
def event_bytes(tmp_path_factory) -> bytes:
    return write_events(tmp_path_factory.mktemp("whole"), ROWS).read_bytes()


def scalars_of(content: bytes) -> list[tuple[int, str, float]]:
    """Oracle: what tensorboard's own loader reads of a file."""
    import tempfile

    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        events = list(LegacyEventFileLoader(file.name).Load())
    return [(e.step, value.tag, value.simple_value) for e in events for value in e.summary.value]


def standing_alone(scalars: Iterable[tuple[int, str, float]]) -> set[tuple[int, str, float]]:
    """The values that are read in any case; other train values need their step's train/loss."""
    return {
        scalar
        for scalar in scalars
        if scalar[1] in ("train/loss", "eval/loss", "eval/coord_diag/expected_bin_mae")
    }


def rows_of(log: Log | UserError) -> set[tuple[int, str, float]]:
    if isinstance(log, UserError):
        return set()
    kinds = (("train", log.train), ("eval", log.evals))
    return {
        (step, f"{kind}/{key}", v)
        for kind, rows in kinds
        for step, row in rows.items()
        for key, v in row.items()
    }


def read_damaged(directory: Path, content: bytes) -> Log | UserError:
    (directory / "events.out.tfevents.1").write_bytes(content)
    try:
        return read_events(directory)
    except UserError as error:
        return error


def test_cut_event_file_gives_the_records_before_the_cut(tmp_path, event_bytes):
    ends = {0, *record_ends(event_bytes)}
    near_ends = {end + shift for end in ends for shift in (-5, -1, 0, 1, 8, 12, 15)} & set(
        range(len(event_bytes) + 1)
    )
    for cut in sorted(near_ends | set(range(0, len(event_bytes), 11))):
        found = read_damaged(tmp_path, event_bytes[:cut])
        expected = standing_alone(scalars_of(event_bytes[:cut]))
        if not expected:
            assert len(str(found).splitlines()) == 1
            assert isinstance(found, UserError)
            continue
        assert isinstance(found, Log)
        assert standing_alone(rows_of(found)) == expected
        assert any("damaged" in warning for warning in found.warnings) == (cut not in ends)


@given(st.data())
def test_damaged_event_file_gives_values_before_the_damage(tmp_path_factory, event_bytes, data):
    content = bytearray(event_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    found = read_damaged(tmp_path_factory.getbasetemp(), bytes(content))
    assert standing_alone(rows_of(found)) == standing_alone(scalars_of(bytes(content)))


def test_every_byte_of_a_record_is_covered_by_a_checksum(tmp_path, event_bytes):
    start, end = record_ends(event_bytes)[4:6]
    before = standing_alone(scalars_of(event_bytes[:start]))
    for at in range(start, end):
        content = event_bytes[:at] + bytes([event_bytes[at] ^ 4]) + event_bytes[at + 1 :]
        assert standing_alone(rows_of(read_damaged(tmp_path, content))) == before


@given(st.binary(max_size=60))
@example(b"")
@example(struct.pack("<QI", 2**63, 0) + b"\0" * 40)
def test_arbitrary_bytes_hold_no_records(tmp_path_factory, content):
    found = read_damaged(tmp_path_factory.getbasetemp(), content)
    assert isinstance(found, UserError)
    assert len(str(found).splitlines()) == 1


@given(st.binary(max_size=60))
def test_record_that_is_no_event_ends_the_file(tmp_path_factory, event_bytes, content):
    found = read_damaged(
        tmp_path_factory.getbasetemp(), event_bytes + record(b"\xff" + content) + event_bytes
    )
    assert isinstance(found, Log)
    assert rows_of(found) == rows_of(read_damaged(tmp_path_factory.getbasetemp(), event_bytes))
    assert ["no event" in warning for warning in found.warnings] == [True]


def test_directory_without_events_is_refused(tmp_path, refused):
    with refused(str(tmp_path), "no TensorBoard event file"):
        read_events(tmp_path)


def test_reading_events_prints_nothing_and_needs_no_tensorflow(tmp_path):
    write_events(tmp_path, ROWS)
    program = (
        "import sys; from coordexp.study.sources import parse_sources, read_source\n"
        "loaded = 'tensorboard' in sys.modules; read_source(parse_sources([sys.argv[1]])[0])\n"
        "assert not loaded and not {'tensorflow', 'torch', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"a={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
