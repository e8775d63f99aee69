"""A checkpoint that plain transformers saved goes through `coordexp evaluate` and `coordexp
compare` to a card.
"""

from __future__ import annotations

import copy
import gc
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from coordexp.cli.arguments import parse
from coordexp.cli.main import main
from coordexp.config.compose import compose
from coordexp.config.digests import plain
from coordexp.data.records import Record, RecordObject, write_records
from coordexp.storage.files import read_json
from coordexp.storage.logs.jsonl import read_log

SMALL = (
    "probe.images=4",
    "probe.steps=2",
    "probe.images_per_step=2",
    "probe.micro_batch=2",
    "probe.rollout_batch=4",
)


@pytest.fixture
def theirs(tiny, in_tmp) -> list[Path]:
    """Two checkpoints as another trainer leaves them: weights and tokenizer, no processor of ours,
    no log.
    """
    found = []
    for i in range(2):
        vlm = copy.deepcopy(tiny.vlm).float()
        with torch.no_grad():
            vlm.model.language_model.norm.weight.mul_(1 + i / 5)
        found.append(in_tmp / f"theirs-{i}")
        vlm.save_pretrained(found[-1])
        tiny.processor.tokenizer.save_pretrained(found[-1])
    return found


@pytest.mark.slow
def test_from_plain_checkpoints_to_a_card(theirs, scenes, in_tmp, capsys):
    shutil.copytree(scenes.path, in_tmp / "records")
    trained = ("--data", "records/val.jsonl", "--step", "500", "--temperature", "0.7")
    runs = []
    for i, (checkpoint, prompt) in enumerate(zip(theirs, ([], ["--prompt", "Find."]), strict=True)):
        main(["evaluate", str(checkpoint), *trained, "--name", f"m{i}", *prompt, *SMALL])
        runs.append(Path(capsys.readouterr().out.strip().splitlines()[-1]))
    (probed,) = runs[1].rglob("probe.json")
    assert read_json(probed)["prompt"] == {
        "user": "Find.",
        "system": None,
        "user_source": "--prompt",
        "system_source": None,
        "template_source": "this project",
    }
    (row,) = read_log(runs[0] / "logging.jsonl").evals.values()
    assert row["coord_diag_own_t/temperature"] == 0.7
    assert (runs[0] / "eval" / "step-000500.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in runs[0].rglob("*.parquet")}
    main(["evaluate", str(theirs[0]), *SMALL, *trained, "--name", "m0"])
    assert {path: path.stat().st_mtime_ns for path in runs[0].rglob("*.parquet")} == before

    Path("rule.yaml").write_text(
        "eligible: {min_coord_mass: 0, min_text_token_acc: 0, max_mae_over_best: 9, "
        "min_parse_rate: 0, min_f1: 0}\n"
    )
    main(["compare", f"a={runs[0]}", f"b={runs[1]}", "--out", "card", "--rule", "rule.yaml"])
    found = read_json(Path("card/recommendation.json"))
    assert set(found["audit"]["verdicts"].values()) == {"not identifiable"}
    assert found["ineligible"] == []
    words = "the chat template of this project, no system prompt and the user prompt of "
    asked = {c for c in found["caveats"] if c.startswith("trained elsewhere and asked with ")}
    assert asked == {
        f"trained elsewhere and asked with {words}{source}: {name}"
        for source, name in (("this project", "a s0"), ("--prompt", "b s0"))
    }
    assert found["confidence"]["stage1_ranking"]["grade"] in ("provisional", "descriptive")
    probe = read_json(Path("card/probe.json"))
    assert {c["variant"] for c in probe["candidates"]} == {"a", "b"}
    assert probe["settings"] == plain(compose(SMALL).probe), (
        "the recipe is theirs, not the default one"
    )
    for run, candidate in zip(runs, probe["candidates"], strict=True):
        fitted = next(iter(read_log(run / "logging.jsonl").evals.values()))
        assert candidate["temperature"] == fitted["coord_diag_fitted_t/temperature"]
        assert candidate["temperature_source"] == "token table"


def test_evaluated_model_is_freed_before_the_probe(theirs, scenes, in_tmp, monkeypatch):
    def models() -> int:
        gc.collect()
        return sum(type(o) is Qwen3VLForConditionalGeneration for o in gc.get_objects())

    shutil.copytree(scenes.path, in_tmp / "records")
    before, seen = models(), []
    monkeypatch.setattr("coordexp.probe.outside.run_probe", lambda *_: seen.append(models()))
    main(["evaluate", str(theirs[0]), "--data", "records/val.jsonl", "--name", "m"])
    assert seen == [before]


def test_overrides_that_nothing_reads_are_refused():
    with pytest.raises(
        SystemExit, match=r"variant.temperature=0.7: `coordexp evaluate` reads probe\.,"
    ):
        main(["evaluate", "there", "variant.temperature=0.7", "--data", "val.jsonl", "--name", "m"])


def test_misspelt_override_names_the_nearest_known():
    with pytest.raises(SystemExit, match=r"did you mean probe\.steps\?$"):
        main(["evaluate", "there", "probe.stepz=2", "--data", "val.jsonl", "--name", "m"])


def test_overrides_may_follow_options_and_other_words_are_refused(capsys):
    options = ("evaluate", "there", "--name", "x", "--data", "val.jsonl")
    assert parse([*options, "probe.steps=2"]).overrides == ["probe.steps=2"]
    assert parse([*options[:2], "probe.steps=2", *options[2:], "probe.lr=1"]).overrides == [
        "probe.steps=2",
        "probe.lr=1",
    ]
    for wrong in ([*options, "probe.steps=2", "--stepp", "3"], ["show", "here", "probe.steps=2"]):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err


def test_what_is_no_checkpoint_costs_one_line(in_tmp):
    Path("val.jsonl").write_text("")
    with pytest.raises(SystemExit, match="nowhere: no such directory"):
        main(["evaluate", "nowhere", "--data", "val.jsonl", "--name", "x"])
    (in_tmp / "empty").mkdir()
    (in_tmp / "empty" / "config.json").write_text("{}")
    write_records(Path("val.jsonl"), [Record("0.png", 32, 32, ())])
    Image.new("RGB", (32, 32)).save("0.png")
    with pytest.raises(SystemExit, match="empty: it holds no weights"):
        main(["evaluate", "empty", "--data", "val.jsonl", "--name", "x"])
    assert not list(Path("results/evaluated").iterdir())  # nothing is left of a refusal
    with pytest.raises(SystemExit, match=r"^coordexp: \.: a directory, not a file"):
        main(["evaluate", "empty", "--data", ".", "--name", "x"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("temperature", value) for value in ("nan", "0", "-1", "inf")),
        ("step", "-1"),
        ("step", "9" * 20),
    ],
)
def test_impossible_step_or_temperature_costs_one_line(option, value, in_tmp):
    with pytest.raises(SystemExit, match=rf"--{option} .*: must (be|lie) "):
        main(["evaluate", "x", "--data", "val.jsonl", "--name", "x", f"--{option}={value}"])
    assert not list(in_tmp.iterdir())


def test_records_in_fractions_are_refused(in_tmp):
    (in_tmp / "model").mkdir()
    (in_tmp / "model" / "config.json").write_text("{}")
    boxes = [(0.1, 0.2, 0.5, 0.6 + i / 100) for i in range(20)]
    objects = tuple(RecordObject("cup", "bbox_2d", box) for box in boxes)
    write_records(Path("val.jsonl"), [Record("0.png", 640, 480, objects)])
    Image.new("RGB", (640, 480)).save("0.png")
    with pytest.raises(SystemExit, match=r"20 of 20 objects look like .* fractions"):
        main(["evaluate", "model", "--data", "val.jsonl", "--name", "x"])
