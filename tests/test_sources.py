"""What NAME=PATH stands for (note, section "Experiments": where the three logs lie)."""

from __future__ import annotations

import hashlib
import os
from contextlib import chdir
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_files import (
    ROWS,
    in_float32,
    write_events,
    write_log,
    write_run,
)

from coordexp.errors import UserError
from coordexp.storage.files import write_json
from coordexp.study.locate import LOG, RUN_DIRECTORY, TENSORBOARD
from coordexp.study.sources import parse_sources, read_source


@pytest.mark.usefixtures("in_tmp")
def test_each_kind_of_path_is_recognised():
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
def test_digest_of_events_covers_every_file():
    first = write_events(Path("events"), ROWS)
    digests = [parse_sources(["a=events"])[0].sha256]
    write_events(Path("events"), ROWS[:2])
    digests.append(parse_sources(["a=events"])[0].sha256)
    first.write_bytes(first.read_bytes()[:-1])
    digests.append(parse_sources(["a=events"])[0].sha256)
    assert len(set(digests)) == 3


@pytest.mark.usefixtures("in_tmp")
def test_logs_get_the_first_seeds_no_run_directory_has():
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
def test_one_file_under_two_names_and_a_path_with_equals_sign():
    write_log(Path("lr=1e-3.jsonl"))
    assert [s.path for s in parse_sources(["a=lr=1e-3.jsonl", "b=lr=1e-3.jsonl"])] == [
        Path("lr=1e-3.jsonl")
    ] * 2


def test_home_directory_in_a_path_is_expanded(in_tmp, monkeypatch):
    monkeypatch.setenv("HOME", str(in_tmp))
    write_log(Path("log.jsonl"))
    assert parse_sources(["a=~/log.jsonl"])[0].path == in_tmp / "log.jsonl"


@pytest.mark.usefixtures("in_tmp")
def test_unfinished_run_is_a_run_directory():
    (source,) = parse_sources([f"a={write_run(Path('run'), finished=False)}"])
    assert (source.kind, read_source(source).rows) == (RUN_DIRECTORY, 8)


@pytest.mark.usefixtures("in_tmp")
def test_run_without_a_row_is_named_but_cannot_be_read(refused):
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
def test_config_of_another_project_makes_no_run_directory(config):
    write_run(Path("run"), config=config, finished=False)
    (source,) = parse_sources(["a=run"])
    assert (source.kind, source.path) == (LOG, Path("run/logging.jsonl"))


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("config", ["a: [", "a: ${", "\x00", "\udcff"])
def test_unreadable_configuration_is_named(refused, config):
    write_run(Path("run"), config=config)
    with refused("run/config.yaml"):
        parse_sources(["a=run"])


@pytest.mark.usefixtures("in_tmp")
def test_only_log_below_a_directory_is_found(refused):
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
def test_only_event_directory_below_a_directory_is_found(refused):
    write_events(Path("output/runs/Nov23_node1"), ROWS)
    write_events(Path("output/runs/Nov23_node1"), ROWS)
    assert [(s.path, s.kind) for s in parse_sources(["a=output"])] == [
        (Path("output/runs/Nov23_node1"), TENSORBOARD)
    ]
    write_events(Path("output/runs/Nov24_node1"), ROWS)
    with refused("holds 2 logs", "runs/Nov23_node1, runs/Nov24_node1"):
        parse_sources(["a=output"])


@pytest.mark.parametrize("cwd", [".", "elsewhere"])
def test_study_directory_stands_for_all_of_its_runs(in_tmp, monkeypatch, cwd):
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
    [
        "{",
        "[]",
        "{}",
        '{"runs": {}}',
        '{"runs": []}',
        '{"runs": [3]}',
        '{"runs": [{"directory": "run", "variant": "a"}]}',
        '{"runs": [{"variant": "a", "seed": 0}]}',
        '{"runs": [{"directory": "run", "variant": "a b", "seed": 0}]}',
    ],
)
def test_study_without_valid_runs_is_refused(refused, content):
    write_run(Path("run"))
    Path("study").mkdir()
    Path("study/runs.json").write_text(content)
    with refused("study/runs.json"):
        parse_sources(["a=study"])


@pytest.mark.usefixtures("in_tmp")
def test_study_whose_run_is_gone_is_refused_by_name(refused):
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
def test_invalid_source_is_refused_in_one_line(refused, arguments, words):
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
def test_log_without_rows_cannot_be_read(refused, content, word):
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
