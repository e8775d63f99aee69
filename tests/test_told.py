"""What a log does not say of itself: its evaluation set, temperature and accumulation."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from dialect_files import WRITERS, Rows, compared, ours, read, rows_of
from note import VARIANTS
from studies import eval_row

from coordexp.cli.main import main
from coordexp.report.commands import compare_command
from coordexp.storage.files import read_json
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.eval_sets import eval_sets
from coordexp.storage.logs.settings import settings_beside
from coordexp.study.plan import plan_study
from coordexp.study.preregistration import read_preregistration
from coordexp.study.sources import parse_sources


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- evaluation sets ---


def in_sets(rows: Rows, *names: str) -> Rows:
    """The eval rows once for each set, with the set's name in their keys."""
    found: Rows = []
    for row in rows:
        if "eval_loss" not in row:
            found.append(row)
            continue
        for number, name in enumerate(names):
            keys = {k: k.replace("eval_", f"eval_{name}_", 1) for k in row}
            found.append(
                {keys[k]: v * (1 + number) if isinstance(v, float) else v for k, v in row.items()}
            )
    return found


def test_two_evaluation_sets_ask_which(tmp_path, refused):
    rows = rows_of(tmp_path, "mixed")
    path = ours(tmp_path / "two", in_sets(rows, "coco", "lvis_v1"))
    with refused("holds evaluations of 2 sets, coco and lvis_v1", "--eval-set coco"):
        read(path)
    expected = read(ours(tmp_path / "one", rows))
    for chosen in (["coco"], ["a=coco"], ["lvis_v1", "a=coco"]):
        log = read(path, eval_sets=chosen)
        assert (log.evals, log.train, log.eval_set) == (expected.evals, expected.train, "coco")
    other = read(path, eval_sets=["lvis_v1"])
    assert other.evals[40]["loss"] == pytest.approx(2 * expected.evals[40]["loss"])
    with refused("no evaluations of the set val", "coco and lvis_v1"):
        read(path, eval_sets=["val"])


def test_sets_of_any_dialect_and_a_single_set(tmp_path, refused):
    rows = rows_of(tmp_path, "mixed")
    for name in ("events", "trainer_state", "wandb_history"):
        with refused("2 sets, coco and lvis"):
            read(WRITERS[name](tmp_path / name, in_sets(rows, "coco", "lvis")))
    log = read(ours(tmp_path / "one", in_sets(rows, "val")))
    assert (log.evals, log.eval_set) == (read(ours(tmp_path / "x", rows)).evals, "val")


def test_a_set_without_a_name_is_preferred_and_the_others_named(tmp_path):
    rows = rows_of(tmp_path, "mixed")
    log = read(ours(tmp_path, rows + in_sets(rows, "lvis")))
    assert log.eval_set is None
    assert [text for text in log.warnings if "--eval-set lvis" in text]
    assert read(tmp_path / "logging.jsonl", eval_sets=["lvis"]).eval_set == "lvis"


@pytest.mark.parametrize(
    "keys",
    [
        {"loss", "runtime", "coord_token_acc", "desc_token_acc", "coord_diag/expected_bin_mae"},
        {"lvis_loss", "coco_loss"},
        {"train_subset/loss", "train_subset/base_ce/loss", "text_ce/loss", "text_token_acc"},
        {"det_f1", "det_mAP", "rollout_loss"},
    ],
)
def test_keys_that_are_no_sets(keys):
    assert eval_sets(keys) == []


def test_runs_of_different_sets_are_named_on_the_card(tmp_path):
    path = ours(tmp_path, in_sets(rows_of(tmp_path, "mixed"), "coco", "lvis"))
    found = compared(tmp_path, {"a": path, "b": path}, "--eval-set", "a=coco", "--eval-set", "lvis")
    assert (
        "runs differ outside the variant: evaluation set: a s0 coco, b s0 lvis"
        in (found["caveats"])
    )


# --- temperature and accumulation ---


def caveats_on_temperature(found: dict[str, Any]) -> list[str]:
    return [text for text in found["caveats"] if "softmax temperature" in text]


def test_the_card_says_what_is_known_of_the_temperature(tmp_path):
    logs = {v: ours(tmp_path / v, rows_of(tmp_path, v)) for v in VARIANTS}
    (text,) = caveats_on_temperature(compared(tmp_path / "1", logs))
    assert text.startswith("MAE, p90 and p(GT) depend on the softmax temperature: unknown of ")
    told = [word for v in VARIANTS for word in ("--temperature", f"{v}=1")]
    assert caveats_on_temperature(compared(tmp_path / "2", logs, *told)) == []
    (text,) = caveats_on_temperature(
        compared(tmp_path / "3", logs, *told[:4], "--temperature", f"{VARIANTS[2]}=.7")
    )
    assert f"T = 0.7 (--temperature) of {VARIANTS[2]}" in text
    assert text.endswith("a lead on them may be one of temperature alone")


@pytest.mark.parametrize(
    ("temperatures", "words"),
    [([], "T as logged"), (["a=1", "b=1"], "T = 1"), (["a=.7", "b=.7"], "T = 0.7")],
)
def test_rule_and_report_say_the_temperature_of_logs(tmp_path, temperatures, words):
    logs = {v: ours(tmp_path / v, rows_of(tmp_path, "mixed")) for v in "ab"}
    options = [word for told in temperatures for word in ("--temperature", told)]
    compared(tmp_path, logs, *options)
    rule = read_json(tmp_path / "study" / "recommendation.json")["rule"]["text"]
    assert f", {words}. Eligible:" in rule
    assert f"read at {words}</p>" in (tmp_path / "study" / "report.html").read_text()


def test_the_command_in_the_report_tells_the_same(tmp_path):
    logs = {v: ours(tmp_path / v, in_sets(rows_of(tmp_path, v), "x", "y")) for v in VARIANTS}
    compared(tmp_path, logs, "--temperature", "mixed=0.7", "--eval-set", "x")
    plan = read_preregistration(tmp_path / "study")
    command = shlex.split(compare_command(plan, tmp_path / "again"))
    main(command[1:])
    assert read_preregistration(tmp_path / "again").hash8 == plan.hash8


def test_the_workflow_has_the_same_keys(tmp_path, refused):
    logs = [f"{v}={ours(tmp_path / v, rows_of(tmp_path, v))}" for v in VARIANTS]
    settings = {"logs": logs, "temperature": "mixed=.7 pure_ce=1"}
    told = {source.variant: source.told for source in plan_study(settings).sources}
    assert (told["mixed"].temperature, told["pure_ce"].temperature) == (0.7, 1.0)
    assert told["softce_w1_gate"].temperature is None
    assert plan_study(settings).hash8 != plan_study({"logs": logs}).hash8
    with refused("--config temperature=0.7: must be NAME=T"):
        plan_study({"logs": logs, "temperature": 0.7})
    with refused("no evaluations of the set coco"):
        plan_study({"logs": logs, "eval_set": "coco"})


def test_a_told_temperature_makes_another_study(tmp_path):
    logs = {v: ours(tmp_path / v, rows_of(tmp_path, v)) for v in VARIANTS}
    compared(tmp_path, logs)
    with pytest.raises(SystemExit, match="holds another study"):
        compared(tmp_path, logs, "--temperature", "mixed=0.7")


def test_what_was_told_holds_when_a_study_is_compared_again(tmp_path):
    rows = rows_of(tmp_path, "mixed")
    logs = {v: ours(tmp_path / v, in_sets(rows, "coco", "lvis")) for v in "ab"}
    compared(tmp_path, logs, "--temperature", "a=.7", "--eval-set", "coco")
    first, second = parse_sources([f"x={tmp_path / 'study'}"], temperatures=["x/b=.9"])
    assert (first.told.temperature, first.told.eval_set) == (0.7, "coco")
    assert (second.told.temperature, second.told.eval_set) == (0.9, "coco")
    again = parse_sources([f"x={tmp_path / 'study'}"], temperatures=["x=1"], eval_sets=["lvis"])
    assert [(s.told.temperature, s.told.eval_set) for s in again] == [(1.0, "lvis")] * 2


SETTINGS = {
    "resolved_config.json": {
        "custom": {"coord_soft_ce_w1": {"enabled": False, "temperature": 0.7}}
    },
    # ms-swift's own `temperature` is that of text generation.
    "args.json": {"temperature": 0.9, "gradient_accumulation_steps": 8},
}


def test_settings_that_contradict_each_other_tell_no_temperature(tmp_path):
    for name, value in (("args.json", 0.7), ("resolved_config.json", 0.9)):
        settings = {"custom": {"coord_soft_ce_w1": {"temperature": value}}}
        (tmp_path / name).write_text(json.dumps(settings))
        told = settings_beside(tmp_path / "logging.jsonl")
        assert told.temperature == (0.7 if name == "args.json" else None)


@pytest.mark.parametrize("name", ["swift", "trainer_state", "events"])
def test_settings_beside_a_log_are_read(tmp_path, name):
    path = WRITERS[name](tmp_path, rows_of(tmp_path, "mixed"))
    place = {"swift": tmp_path, "trainer_state": tmp_path / "out", "events": tmp_path}[name]
    log = read(path)
    assert (log.temperature, log.accumulation) == (None, None)
    (place / "args.json").write_text(json.dumps(SETTINGS["args.json"]))
    log = read(path)
    assert (log.temperature, log.accumulation) == (None, 8)
    (place / "resolved_config.json").write_text(json.dumps(SETTINGS["resolved_config.json"]))
    log = read(path)
    assert (log.temperature, log.temperature_by) == (0.7, "resolved_config.json")
    log = read(path, temperatures=["a=.9"])
    assert (log.temperature, log.temperature_by) == (0.9, "--temperature")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "\udcff",
        '{"coord_soft_ce_w1": 1}',
        '{"coord_soft_ce_w1": {"temperature": "hot"}}',
        '{"coord_soft_ce_w1": {"temperature": NaN}}',
        '{"gradient_accumulation_steps": true}',
        '{"gradient_accumulation_steps": 1' + "0" * 400 + "}",
        "[" * 100_000,
    ],
)
def test_a_settings_file_of_another_form_tells_nothing(tmp_path, content):
    path = ours(tmp_path, rows_of(tmp_path, "mixed"))
    (tmp_path / "args.json").write_text(content, errors="surrogateescape")
    log = read(path)
    assert (log.temperature, log.accumulation) == (None, None)


def test_accumulation_of_settings_reaches_the_audit(tmp_path):
    rows = rows_of(tmp_path, "mixed")
    bare = [{k: v for k, v in row.items() if k != "accum/grad_steps"} for row in rows]
    logs = {v: ours(tmp_path / v, bare) for v in "ab"}
    (tmp_path / "a" / "args.json").write_text('{"gradient_accumulation_steps": 8}')
    compared(tmp_path, logs)
    audit = read_json(tmp_path / "study" / "audit.json")
    assert [run["grad_accumulation_steps"] for run in audit["runs"]] == [8, None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperatures": ["0.7"]}, "must be NAME=VALUE, such as pure_ce=0.7"),
        ({"temperatures": ["a=hot"]}, "--temperature a=hot: must lie in [0.001, 1000]"),
        ({"temperatures": ["a=0"]}, "must lie in [0.001, 1000]"),
        ({"temperatures": ["a=nan"]}, "must lie in [0.001, 1000]"),
        ({"temperatures": ["a=inf"]}, "must lie in [0.001, 1000]"),
        ({"temperatures": ["c=1"]}, "--temperature c=…: no run has that name"),
        ({"temperatures": ["a=1", "a=2"]}, "a is told twice"),
        ({"eval_sets": ["c=coco"]}, "--eval-set c=…: no run has that name"),
        ({"eval_sets": ["a="]}, "must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_told_costs_one_line(tmp_path, refused, options, words):
    path = ours(tmp_path, rows_of(tmp_path, "mixed"))
    with refused(words):
        parse_sources([f"a={path}"], **options)


def test_a_log_of_this_project_is_at_temperature_1_whatever_is_told(tmp_path, refused):
    row = {f"eval_{k}": v for k, v in eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0).items()}
    path = ours(tmp_path, [{STEP_KEY: "40/80", **row}])
    with refused("logging.jsonl", "leave out its --temperature"):
        read(path, temperatures=["a=.7"])
    (tmp_path / "resolved_config.json").write_text(json.dumps(SETTINGS["resolved_config.json"]))
    assert read(path).temperature == 1.0
