"""Hostile input for every reader: a short run of benchmarks/fuzz.py, and what long runs found."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import composed
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzz
from fuzzing.guard import Forbidden, Hang, limited
from fuzzing.kind import Kind, attack

from coordexp.config.compose import compose
from coordexp.config.rule_file import load_rule
from coordexp.data.formats.convert import convert
from coordexp.data.formats.recognise import recognise
from coordexp.data.token_records import read_pixel_records
from coordexp.errors import UserError
from coordexp.models.foreign_prompt import GivenPrompt, find_prompt
from coordexp.models.weight_files import refuse_unusable_files
from coordexp.storage.files import sha256_file
from coordexp.storage.run_config import read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.storage.token_tables import read_columns, read_fitted_temperature
from coordexp.training.state import load_state, save_state

SHARE = 0.001  # of a whole run: 9 CPU seconds


@pytest.mark.parametrize("group", ["study files", "logs", "data", "command lines"])
def test_hostile_input_is_accepted_or_refused_in_a_line(group):
    outcomes = fuzz.attack_group(group, "", seed=1, share=SHARE, cheap=True)
    assert {o.name: o.first for o in outcomes if o.findings} == {}
    assert sum(o.accepted for o in outcomes) > 0
    assert sum(o.refused for o in outcomes) > 0


def refuse_unusable(shard: Path) -> None:
    refuse_unusable_files("x", shard.parent)


def write_elsewhere() -> None:
    Path("elsewhere").write_text("")


def refuse_in_two_lines() -> None:
    raise OSError(2, "no such file\nor directory", "x")


def connect() -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", 9))


@pytest.mark.parametrize(
    ("reader", "finding"),
    [
        (write_elsewhere, Forbidden),
        (connect, Forbidden),
        (lambda: os.rename("results", "moved"), Forbidden),
        (lambda: os.system("true"), Forbidden),
        (lambda: bytes(2**34), MemoryError),
        (lambda: {}["a"], KeyError),
        (refuse_in_two_lines, AssertionError),
    ],
)
@pytest.mark.usefixtures("in_tmp")
def test_what_a_reader_may_not_do_is_a_finding(reader, finding):
    Path("results").mkdir()
    kind = Kind("x", lambda _: b"", st.binary(), lambda _: reader())
    with limited(Path("results")), pytest.raises(finding):
        attack(kind, b"", Random(0))
    assert not Path("elsewhere").exists()


@pytest.mark.usefixtures("in_tmp")
def test_reader_that_never_ends_is_a_finding(monkeypatch):
    monkeypatch.setattr("fuzzing.guard.CPU_SECONDS", 0.05)

    def forever(_: object) -> None:
        while True:
            pass

    kind = Kind("x", lambda _: b"", st.binary(), forever)
    with limited(Path()), pytest.raises(Hang):
        attack(kind, b"", Random(0))


def test_reader_may_write_to_the_results(in_tmp):
    Path("results").mkdir()
    kind = Kind("x", lambda _: b"", st.binary(), lambda _: Path("results/a").write_text("a"))
    with limited(Path("results")):
        assert attack(kind, b"", Random(0))
    assert (in_tmp / "results/a").read_text() == "a"


# What long runs found.


@pytest.mark.parametrize("read", [read_fitted_temperature, refuse_unusable])
def test_pipe_in_place_of_a_file_is_not_waited_for(in_tmp, refused, read):
    os.mkfifo(in_tmp / "model.safetensors")
    with refused("a pipe"):
        read(in_tmp / "model.safetensors")


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    "text",
    [
        'variant: {name: a}\nseed: "\\ud800"',
        'variant: {name: "\\ud800"}\nseed: 0',
        'variant: {name: "a\\nb"}\nseed: 0',
        'variant: {name: ""}\nseed: 0',
        'variant: {name: a}\nseed: 0\ntrain: {"\\ud800": 1}',
        'variant: {name: a}\nseed: 0\ntrain: {a: ["\\ud800"]}',
        f"variant: {{name: a}}\nseed: 0\ntrain: {{a: 0x{'f' * 5000}}}",
    ],
)
def test_config_yaml_with_what_no_study_can_hold_is_refused(refused, text):
    Path("config.yaml").write_text(text)
    with refused("config.yaml"):
        read_run_config(RunDirectory(Path()))


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", "none", "."])
def test_digest_is_of_a_file_alone(refused, name):
    with refused("file"):
        sha256_file(Path(name))


def test_message_that_repeats_a_file_is_one_line():
    error = UserError("a.json: the key 'a\nb\x1b[31m\u2028\ud800' is unknown")
    assert str(error) == r"a.json: the key 'a\nb\x1b[31m\u2028\ud800' is unknown"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("name", ["data.yaml", "a.xml", "a.json", "a.csv", "a.jsonl", "a.txt"])
def test_link_to_an_endless_device_has_no_format(name):
    Path("d").mkdir()
    Path("d", name).symlink_to("/dev/zero")
    assert recognise(Path("d")) is None
    assert recognise(Path("d", name)) is None


def test_deep_yaml_of_yolo_is_refused_at_once(in_tmp, refused):
    Path("data.yaml").write_text("names: " + "[" * 20_000)
    with refused("data.yaml", "nested too deeply"):
        convert(Path("data.yaml"), in_tmp / "coco.json")


def test_note_on_a_conversion_is_one_line(in_tmp):
    shapes = [
        {"label": "a", "shape_type": kind, "points": [[1, 1], [9, 9]]}
        for kind in ("rectangle", "\ud800\n")
    ]
    content = {"version": "5", "shapes": shapes, "imagePath": "a.jpg", "imageData": None}
    Path("a.json").write_text(json.dumps(content | {"imageWidth": 20, "imageHeight": 20}))
    lines = convert(Path("a.json"), in_tmp / "coco.json", images=Path())
    assert all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("in_tmp")
def test_record_with_a_side_that_no_float_holds_is_refused(refused):
    box = {"desc": "a", "bbox_2d": [f"<|coord_{k}|>" for k in (1, 2, 3, 4)]}
    row = {"images": ["a.jpg"], "width": 10**400, "height": 9, "objects": [box]}
    Path("r.jsonl").write_text(json.dumps(row))
    with refused("r.jsonl:1", "whole pixels above 1"):
        read_pixel_records(Path("r.jsonl"))


@pytest.mark.usefixtures("in_tmp")
def test_templates_with_names_that_are_no_text_are_passed_over():
    stored = [{"name": {}, "template": "x"}, {"name": "default", "template": "y"}]
    Path("tokenizer_config.json").write_text(json.dumps({"chat_template": stored}))
    assert find_prompt([Path()], GivenPrompt()).template == "y"


@pytest.mark.usefixtures("in_tmp")
def test_rule_whose_metrics_hold_a_list_is_refused(refused):
    Path("rule.yaml").write_text("metrics: [crps, []]\n")
    with refused("rule.yaml", "metrics", "must hold names"):
        load_rule(Path("rule.yaml"), composed().study.rule)


@pytest.mark.usefixtures("in_tmp")
def test_number_of_400_digits_is_refused(refused):
    digits = "9" * 400
    with refused("optim.lr"):
        compose([f"optim.lr={digits}"])
    Path("rule.yaml").write_text(f"margins: {{crps: {digits}}}\n")
    with refused("rule.yaml"):
        load_rule(Path("rule.yaml"), composed().study.rule)


@pytest.mark.usefixtures("in_tmp")
def test_state_of_other_content_is_refused(refused):
    path = Path("state.pt")
    save_state(path, {"step": 1, "weights": torch.zeros(2)})
    assert load_state(path)["step"] == 1
    for content in ([1], 5):
        save_state(path, content)
        with refused("state.pt", "not the state of a training"):
            load_state(path)


@pytest.mark.parametrize("told", [b"x", b"nan", b"-1", b"0", b"\xff", b"inf"])
def test_fitted_temperature_that_is_none_is_refused(in_tmp, refused, told):
    table = pa.table({"a": [1.0]}).replace_schema_metadata({b"fitted_temperature": told})
    pq.write_table(table, in_tmp / "t.parquet")
    with refused("t.parquet", "its fitted temperature is"):
        read_fitted_temperature(in_tmp / "t.parquet")


@pytest.mark.parametrize("values", [["a"], [b"\xff"], [[1]], [{"a": 1}]])
def test_column_that_holds_no_numbers_is_refused(in_tmp, refused, values):
    pq.write_table(pa.table({"gt_bin": values}), in_tmp / "t.parquet")
    with refused("t.parquet", "gt_bin", "no numbers"):
        read_columns(in_tmp / "t.parquet", ["gt_bin"])
