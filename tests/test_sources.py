"""What NAME=PATH stands for, and TensorBoard events as a log (note, section "Experiments": where the three logs lie)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from studies import run_manifest

from coordexp.errors import UserError
from coordexp.storage.files import write_json
from coordexp.storage.logs.jsonl import STEP_KEY, read_log
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.logs.tensorboard import intact_records, read_events
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.study.locate import LOG, RUN_DIRECTORY, TENSORBOARD
from coordexp.study.sources import parse_sources, read_source

ROWS = [
    row
    for step in (10, 20, 30, 40)
    for row in (
        {
            STEP_KEY: f"{step}/40",
            "loss": 1 / step,
            "epoch": step / 7,
            "coord_softce_w1/loss": 0.1 + step,
        },
        {
            STEP_KEY: f"{step}/40",
            "eval_loss": 2 / step,
            "eval_coord_diag/expected_bin_mae": 3.7 * step,
            "epoch": step / 7,
        },
    )
]


def write_log(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_run(
    path: Path,
    variant: str = "pure_ce",
    seed: int = 0,
    finished: bool = True,
    config: str | None = None,
) -> Path:
    write_log(path / "logging.jsonl")
    (path / "config.yaml").write_text(
        config or f"variant:\n  name: {variant}\nseed: {seed}\nother: ${{oc.env:ABSENT}}\n",
        errors="surrogateescape",
    )
    if finished:
        write_manifest(RunDirectory(path), run_manifest(variant=variant, seed=seed))
    return path


def tag_of(key: str) -> str:
    """What `rewrite_logs` of transformers makes of a key."""
    return f"eval/{key.removeprefix(EVAL)}" if key.startswith(EVAL) else f"train/{key}"


def write_events(
    directory: Path,
    rows: list[dict[str, Any]],
    opened: float | None = None,
    suffix: str = "",
    **options: Any,
) -> Path:
    """Events of rows as Hugging Face's TensorBoardCallback writes them; `opened` is the file's first wall time."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    before = set(directory.glob("*")) if directory.exists() else set()
    writer = EventFileWriter(str(directory), filename_suffix=suffix)
    for row in rows:
        step = int(str(row[STEP_KEY]).split("/")[0])
        for key, number in row.items():
            if key != STEP_KEY:
                writer.add_event(Event(step=step, summary=summary(tag_of(key), number, **options)))
    writer.close()
    (file,) = set(directory.glob("*")) - before
    if opened is not None:
        _, end = intact_records(file.read_bytes()[: record_ends(file.read_bytes())[0]])
        rest = file.read_bytes()[end:]
        file.write_bytes(
            record(Event(wall_time=opened, file_version="brain.Event:2").SerializeToString()) + rest
        )
    return file


def summary(tag: str, number: Any, as_tensor: str = "") -> Any:
    """A summary of one value: a number (or, `as_tensor`, one in a tensor's field), or a text."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    if isinstance(number, str):
        return Summary(
            value=[
                Summary.Value(tag=tag, tensor=TensorProto(dtype=7, string_val=[number.encode()]))
            ]
        )
    if not as_tensor:
        return Summary(value=[Summary.Value(tag=tag, simple_value=number)])
    fields = {
        "float_val": (1, [number]),
        "double_val": (2, [number]),
        "tensor_content": (1, struct.pack("<f", number)),
    }
    dtype, content = fields[as_tensor]
    return Summary(
        value=[Summary.Value(tag=tag, tensor=TensorProto(dtype=dtype, **{as_tensor: content}))]
    )


def record(content: bytes) -> bytes:
    """A TFRecord, by tensorboard's own writer."""
    import io

    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(content)
    return buffer.getvalue()


def record_ends(content: bytes) -> list[int]:
    ends, end = [], 0
    while end < len(content):
        end += 16 + struct.unpack_from("<Q", content, end)[0]
        ends.append(end)
    return ends


def in_float32(log: Log) -> tuple[dict, dict]:
    return tuple(
        {
            step: {
                key: struct.unpack("<f", struct.pack("<f", number))[0]
                for key, number in row.items()
            }
            for step, row in rows.items()
        }
        for rows in (log.train, log.evals)
    )  # type: ignore[return-value]


# ---------------------------------------------------------------- TensorBoard


@pytest.mark.parametrize("as_tensor", ["", "float_val", "double_val", "tensor_content"])
def test_events_read_as_the_same_log_does(tmp_path, as_tensor):
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


def test_events_of_torchs_own_writer(tmp_path):
    program = (
        "import json, sys; from torch.utils.tensorboard import SummaryWriter; w = SummaryWriter(sys.argv[1]);"
        "w.add_text('args', 'x' * 2000); w.add_histogram('train/weights', __import__('numpy').arange(9), 1);"
        "[w.add_scalar(tag, number, step) for step, tag, number in json.loads(sys.argv[2])]; w.close()"
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


def test_of_several_event_files_the_one_opened_last_wins(tmp_path):
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


def test_epochs_written_with_train_and_eval_rows_are_no_restart(tmp_path):
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


def test_tensors_that_are_no_single_number_are_none(tmp_path):
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
    """Those that are read whatever else is: other train values need the train/loss of their step."""
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


def test_a_file_cut_anywhere_gives_what_stands_before_the_cut(tmp_path, event_bytes):
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
def test_of_damaged_bytes_the_values_before_the_damage_are_read(
    tmp_path_factory, event_bytes, data
):
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
def test_arbitrary_bytes_are_no_events(tmp_path_factory, content):
    found = read_damaged(tmp_path_factory.getbasetemp(), content)
    assert isinstance(found, UserError)
    assert len(str(found).splitlines()) == 1


@given(st.binary(max_size=60))
def test_a_record_that_is_no_event_ends_a_file(tmp_path_factory, event_bytes, content):
    found = read_damaged(
        tmp_path_factory.getbasetemp(), event_bytes + record(b"\xff" + content) + event_bytes
    )
    assert isinstance(found, Log)
    assert rows_of(found) == rows_of(read_damaged(tmp_path_factory.getbasetemp(), event_bytes))
    assert ["no event" in warning for warning in found.warnings] == [True]


def test_a_directory_without_events_is_refused(tmp_path, refused):
    with refused(str(tmp_path), "no TensorBoard event file"):
        read_events(tmp_path)


def test_reading_events_says_nothing_and_imports_no_tensorflow(tmp_path):
    write_events(tmp_path, ROWS)
    program = (
        "import sys; from pathlib import Path; from coordexp.study.sources import parse_sources, read_source;"
        "loaded = 'tensorboard' in sys.modules; read_source(parse_sources([sys.argv[1]])[0]);"
        "assert not loaded and not {'tensorflow', 'torch', 'mlflow'} & set(sys.modules), 'imported too much'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"a={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------- NAME=PATH


@pytest.mark.usefixtures("in_tmp")
def test_each_kind_of_path():
    write_log(Path("some.jsonl"))
    write_run(Path("run"), seed=7)
    event_file = write_events(Path("events"), ROWS)
    sources = parse_sources(["a=some.jsonl", "b=run", "c=events", f"d={event_file}"])
    assert [(s.variant, s.seed, s.path, s.kind) for s in sources] == [
        ("a", 0, Path("some.jsonl"), LOG),
        ("b", 7, Path("run"), RUN_DIRECTORY),
        ("c", 0, Path("events"), TENSORBOARD),
        ("d", 0, event_file, TENSORBOARD),
    ]
    assert [s.run and s.run.path for s in sources] == [None, Path("run"), None, None]
    assert (
        sources[0].sha256
        == sources[1].sha256
        == hashlib.sha256(Path("some.jsonl").read_bytes()).hexdigest()
    )
    assert sources[2].sha256 == sources[3].sha256
    logs = [read_source(source) for source in sources]
    assert logs[0].train == logs[1].train
    assert in_float32(logs[2]) == in_float32(logs[3]) == in_float32(logs[0])


@pytest.mark.usefixtures("in_tmp")
def test_the_digest_of_events_covers_every_file():
    first = write_events(Path("events"), ROWS)
    digests = [parse_sources(["a=events"])[0].sha256]
    write_events(Path("events"), ROWS[:2])
    digests.append(parse_sources(["a=events"])[0].sha256)
    first.write_bytes(first.read_bytes()[:-1])
    digests.append(parse_sources(["a=events"])[0].sha256)
    assert len(set(digests)) == 3


@pytest.mark.usefixtures("in_tmp")
def test_seeds_of_bare_logs_count_up_past_those_of_run_directories():
    for name in "xyz":
        write_log(Path(name))
    write_run(Path("run"), seed=1)
    sources = parse_sources(["a=x", "b=y", "a=y", "a=run", "a=z", "b=x"])
    assert [(s.variant, s.seed) for s in sources] == [
        ("a", 0),
        ("b", 0),
        ("a", 2),
        ("a", 1),
        ("a", 3),
        ("b", 1),
    ]


@pytest.mark.usefixtures("in_tmp")
def test_the_same_file_may_stand_under_two_names_and_equals_signs_in_paths():
    write_log(Path("lr=1e-3.jsonl"))
    assert [s.path for s in parse_sources(["a=lr=1e-3.jsonl", "b=lr=1e-3.jsonl"])] == [
        Path("lr=1e-3.jsonl")
    ] * 2


def test_a_home_directory_is_expanded(in_tmp, monkeypatch):
    monkeypatch.setenv("HOME", str(in_tmp))
    write_log(Path("log.jsonl"))
    assert parse_sources(["a=~/log.jsonl"])[0].path == in_tmp / "log.jsonl"


@pytest.mark.usefixtures("in_tmp")
def test_a_run_that_is_not_finished_is_a_run_directory():
    (source,) = parse_sources([f"a={write_run(Path('run'), finished=False)}"])
    assert (source.kind, read_source(source).rows) == (RUN_DIRECTORY, 8)


@pytest.mark.usefixtures("in_tmp")
def test_a_run_that_ended_before_its_first_row(refused):
    (write_run(Path("run")) / "logging.jsonl").unlink()
    (source,) = parse_sources(["a=run"])
    assert (source.kind, source.sha256) == (RUN_DIRECTORY, hashlib.sha256(b"").hexdigest())
    with refused("run/logging.jsonl"):
        read_source(source)
    Path("run/run.json").unlink()
    with refused("run: holds no logging.jsonl"):
        parse_sources(["a=run"])


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    "config",
    ["model: qwen\n", "- 1\n", "variant: pure_ce\nseed: 0\n", "variant: {name: 3}\nseed: 0\n"],
)
def test_another_projects_config_makes_no_run_directory(config):
    write_run(Path("run"), config=config, finished=False)
    (source,) = parse_sources(["a=run"])
    assert (source.kind, source.path) == (LOG, Path("run/logging.jsonl"))


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("config", ["a: [", "a: ${", "\x00", "\udcff"])
def test_a_configuration_that_cannot_be_read_is_named(refused, config):
    write_run(Path("run"), config=config)
    with refused("run/config.yaml"):
        parse_sources(["a=run"])


@pytest.mark.usefixtures("in_tmp")
def test_the_one_log_below_a_directory(refused):
    deep = write_log(Path("output/v0-20260126-162648/logging.jsonl"))
    write_events(deep.parent / "runs", ROWS)
    assert [s.path for s in parse_sources(["a=output", f"b={deep.parent}"])] == [deep, deep]
    write_log(Path("output/v1-20260127-101010/logging.jsonl"))
    with refused(
        "output: holds 2 logs",
        "v0-20260126-162648/logging.jsonl",
        "v1-20260127-101010/logging.jsonl",
    ):
        parse_sources(["a=output"])
    write_run(Path("results/pure_ce/s3-0123abcd"), seed=3)
    assert [(s.kind, s.seed) for s in parse_sources(["a=results"])] == [(RUN_DIRECTORY, 3)]


@pytest.mark.usefixtures("in_tmp")
def test_the_one_directory_of_events_below_a_directory(refused):
    write_events(Path("output/runs/Nov23_node1"), ROWS)
    write_events(Path("output/runs/Nov23_node1"), ROWS)
    assert [(s.path, s.kind) for s in parse_sources(["a=output"])] == [
        (Path("output/runs/Nov23_node1"), TENSORBOARD)
    ]
    write_events(Path("output/runs/Nov24_node1"), ROWS)
    with refused("holds 2 logs", "runs/Nov23_node1, runs/Nov24_node1"):
        parse_sources(["a=output"])


@pytest.mark.parametrize("cwd", [".", "elsewhere"])
def test_a_study_stands_for_all_of_its_runs(in_tmp, monkeypatch, cwd):
    write_run(Path("results/runs/pure_ce/s0-1"), seed=0)
    write_run(Path("results/runs/pure_ce/s1-1"), seed=1, finished=False)
    write_log(Path("old/mixed.jsonl"))
    runs = [
        {"directory": "results/runs/pure_ce/s0-1", "variant": "pure_ce", "seed": 0},
        {"directory": "results/runs/pure_ce/s1-1", "log": None, "variant": "pure_ce", "seed": 1},
        {"directory": None, "log": "old/mixed.jsonl", "variant": "theirs/mixed", "seed": 4},
    ]
    write_json(Path("results/stage1_ablation/0123abcd/runs.json"), {"runs": runs})
    Path("results/stage1_ablation/latest").symlink_to("0123abcd")
    Path("elsewhere").mkdir()
    monkeypatch.chdir(cwd)
    sources = parse_sources([f"now={os.path.relpath(in_tmp / 'results/stage1_ablation/latest')}"])
    assert [(s.variant, s.seed, s.kind) for s in sources] == [
        ("now/pure_ce", 0, RUN_DIRECTORY),
        ("now/pure_ce", 1, RUN_DIRECTORY),
        ("now/theirs/mixed", 4, LOG),
    ]
    assert [read_source(source).rows for source in sources] == [8, 8, 8]
    if cwd == ".":
        assert [str(s.path) for s in sources] == [r["directory"] or r["log"] for r in runs]


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"runs": {}}', '{"runs": []}', '{"runs": [3]}', '{"runs": [{"directory": "run", "variant": "a"}]}',
     '{"runs": [{"variant": "a", "seed": 0}]}', '{"runs": [{"directory": "run", "variant": "a b", "seed": 0}]}'],
)  # fmt: skip
def test_a_study_that_names_no_runs_is_refused(refused, content):
    write_run(Path("run"))
    Path("study").mkdir()
    Path("study/runs.json").write_text(content)
    with refused("study/runs.json"):
        parse_sources(["a=study"])


@pytest.mark.usefixtures("in_tmp")
def test_a_study_whose_run_is_gone_names_it(refused):
    write_json(
        Path("study/runs.json"), {"runs": [{"directory": "gone", "variant": "a", "seed": 0}]}
    )
    with refused("gone: no such file or directory"):
        parse_sources(["a=study"])


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["NAME=PATH"]),
        (["log.jsonl"], ["log.jsonl", "NAME=PATH"]),
        (["=log.jsonl"], ["NAME=PATH"]),
        (["a="], ["NAME=PATH"]),
        ([""], ["NAME=PATH"]),
        (["a b=log.jsonl"], ["a b", "letters, digits"]),
        (["a/b=log.jsonl"], ["letters, digits"]),
        (["..=log.jsonl"], ["letters, digits"]),
        (["ä=log.jsonl"], ["letters, digits"]),
        (["a\n=log.jsonl"], ["cannot be printed"]),
        (["a=log\u2028.jsonl"], ["cannot be printed"]),
        (["a=log\udcff.jsonl"], ["cannot be printed"]),
        (["a=gone.jsonl"], ["gone.jsonl: no such file or directory"]),
        (["a=log.jsonl", "b=gone.jsonl"], ["gone.jsonl"]),
        (["a=log.jsonl/below"], ["no such file or directory"]),
        (["a=" + "x" * 5000], ["cannot be read"]),
        (["a=empty"], ["empty: holds no logging.jsonl"]),
        (["a=fifo"], ["fifo: neither a file nor a directory"]),
        (["a=run", "a=run"], ["a: seed 0", "run and run"]),
        (["a=run", "b=log.jsonl", "a=twin"], ["a: seed 0", "run and twin"]),
        (["a=run", "a=other"], ["two variants", "run (pure_ce) and other (mixed)"]),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(refused, arguments, words):
    write_log(Path("log.jsonl"))
    write_run(Path("run"))
    write_run(Path("twin"))
    write_run(Path("other"), variant="mixed", seed=1)
    Path("empty").mkdir()
    os.mkfifo("fifo")
    with refused(*words):
        parse_sources(arguments)


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "holds no row"),
        (b'{"step": 1, "lo', "torn"),
        (b'{"loss": 1}\n', "carries no step"),
        (b"\x1f\x8b", "gzip"),
    ],
)
def test_a_log_without_rows_is_no_source(refused, content, word):
    Path("log.jsonl").write_bytes(content)
    (source,) = parse_sources(["a=log.jsonl"])
    with refused("log.jsonl", word):
        read_source(source)


@given(st.lists(st.text(alphabet="ab=+\n \udcff\0é", max_size=12), max_size=3))
def test_arbitrary_arguments_give_sources_or_a_user_error(tmp_path_factory, arguments):
    here = tmp_path_factory.mktemp("arguments")
    (here / "a").write_text('{"step": 1, "loss": 1}\n')
    message = "one line"
    with chdir(here):
        try:
            assert {source.variant for source in parse_sources(arguments)} <= {
                argument.split("=")[0] for argument in arguments
            }
        except UserError as error:
            message = str(error)
    assert message.splitlines() == [message]
