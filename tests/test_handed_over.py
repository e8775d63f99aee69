"""`coordexp compare … --rollouts NAME=FILE`: files of predictions decide as a probe's do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_files import write_log
from rollout_files import (
    coco_results,
    coco_truth,
    gt_vs_pred_line,
    scenes,
    write_gt_vs_pred,
    write_json,
    write_lines,
)
from studies import eval_row, write_run
from test_probe_findings import write_probe

from coordexp.cli.main import main
from coordexp.errors import UserError
from coordexp.storage.files import read_json
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.rollout_figures import rollout_figures, rollout_metric
from coordexp.study.comparison import default_rule, plan_comparison
from coordexp.study.plan import plan_study
from coordexp.study.rollout_files import parse_rollouts, refuse_changed, step_of_path
from coordexp.study.sources import parse_sources

STEPS = (120, 240, 360)
LOGGED = eval_row(24.0, 55, 0.2, 0.15, 39, 4.0)
KNOWN = "step_0000360"  # the decision step of the logs below


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def equal_log(name: str, rollouts: dict[str, float] | None = None, mae: float = 24.0) -> str:
    """A log like every other one, as NAME=PATH; `rollouts` are keys that its trainer evaluated."""
    logged = LOGGED | {"coord_diag/expected_bin_mae": mae}
    rows: list[dict[str, Any]] = []
    for step in STEPS:
        head = {"global_step/max_steps": f"{step}/{STEPS[-1]}"}
        losses = {key: value for key, value in logged.items() if key.endswith("loss")}
        rows += [head | losses, head | {f"eval_{key}": value for key, value in logged.items()}]
        rows += [head | rollouts] if rollouts else []
    return f"{name}={write_log(Path(f'{name}.jsonl'), rows)}"


def rollouts_of(name: str, skill: float, where: str = KNOWN, n: int = 150) -> list[str]:
    path = Path(name) / where / "gt_vs_pred.jsonl"
    return ["--rollouts", f"{name}={write_gt_vs_pred(path, scenes(n, skill, seed=len(name)))}"]


def compare(*arguments: str) -> dict[str, Any]:
    main(["compare", *arguments, "--out", "out"])
    return read_json(Path("out/recommendation.json"))


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments, "--out", "out"])
    message = str(stopped.value)
    assert "\n" not in message
    assert not Path("out").exists() or not list(Path("out").iterdir())
    return message


def test_rollouts_decide_where_the_metrics_cannot():
    logs = [equal_log(name) for name in ("first", "other")]
    assert compare(*logs)["primary"]["variant"] == "first"  # the first of the list
    Path("out").rename("without")
    found = compare(*logs, *rollouts_of("first", 0.3), *rollouts_of("other", 0.9))
    assert found["primary"]["variant"] == "other"
    (dropped,) = found["decision"]["eliminated"]
    assert (dropped["variant"], dropped["tier"]) == ("first", "rollouts")
    assert dropped["metric"] == "f1_agnostic"
    assert dropped["low"] > 0
    assert found["confidence"]["stage2_fitness"]["grade"] == "provisional"
    assert any("handed over" in line and "150 images" in line for line in found["caveats"])
    page = Path("out/report.html").read_text()
    assert "Rollouts that were handed over" in page
    assert "figure-gallery" not in page
    assert "--rollouts first@360=" in page


def test_only_shared_images_are_compared_and_the_others_counted():
    logs = [equal_log(name) for name in ("a", "bb")]
    found = compare(*logs, *rollouts_of("a", 0.5, n=150), *rollouts_of("bb", 0.5, n=140))
    (line,) = [line for line in found["caveats"] if "handed over; they" in line]
    assert "140 images that all files have" in line
    assert line.endswith("left out: a s0 10 images")
    probe = read_json(Path("out/probe.json"))
    assert {c["images"] for c in probe["candidates"]} == {140}


@pytest.mark.parametrize(
    ("where", "confound"),
    [
        (KNOWN, None),
        ("elsewhere", "the step of the rollouts of a s0 and bb s0 is not known"),
        ("checkpoint-240", "rollouts of other steps than the decision step 360: a s0 240, bb s0"),
    ],
)
def test_rollouts_of_another_or_an_unknown_step_are_a_confound(where, confound):
    logs = [equal_log(name) for name in ("a", "bb")]
    found = compare(*logs, *rollouts_of("a", 0.3, where), *rollouts_of("bb", 0.9, where))
    grade = found["confidence"]["stage2_fitness"]
    assert (grade["grade"] == "descriptive") == (confound is not None)
    if confound is not None:
        assert confound in grade["reason"]
        assert any(confound in caveat for caveat in found["caveats"])


def test_step_may_be_given_with_the_name():
    path = write_gt_vs_pred(Path("checkpoint-7/x.jsonl"), scenes(3, 0.5))
    sources = parse_sources([equal_log("a")])
    assert parse_rollouts([f"a={path}"], sources)[0].step == 7
    assert parse_rollouts([f"a@360={path}"], sources)[0].step == 360
    for text, step in (
        ("eval_detection/step_0000300/gt_vs_pred.jsonl", 300),
        ("stage2/step-000720-1f2e3d4c", 720),
        ("ckpt_6064_infer/checkpoint-12/a.jsonl", 12),
        ("misstep9/a.jsonl", None),
        ("val200/a.jsonl", None),
    ):
        assert step_of_path(Path(text)) == step


def test_unknown_parse_rate_is_not_checked_and_a_low_one_refuses():
    logs = [equal_log(name) for name in ("a", "bb")]
    truth = write_json(Path("gt.json"), coco_truth(scenes(60, 0.5)))
    arguments = []
    for name, skill in (("a", 0.8), ("bb", 0.7)):
        results = write_json(Path(f"{name}.json"), coco_results(scenes(60, skill, len(name))))
        arguments += ["--rollouts", f"{name}@360={results}"]
    found = compare(*logs, *arguments, "--ground-truth", str(truth))
    assert not found["ineligible"]
    assert any(
        "parse rate of a and bb: the bar 0.9 on it is not checked" in line
        for line in found["caveats"]
    )
    Path("out").rename("first")
    lines = [gt_vs_pred_line(scene) for scene in scenes(60, 0.8)]
    for line in lines[::3]:
        line |= {"raw_output_json": None, "errors": ["invalid_json"]}
    path = write_lines(Path(KNOWN) / "gt_vs_pred.jsonl", lines)
    found = compare(*logs, "--rollouts", f"a={path}", *rollouts_of("bb", 0.7, n=60))
    (refused,) = found["ineligible"]
    assert refused["variant"] == "a"
    assert "parse rate 0.67" in refused["reasons"][0]


def test_objects_that_could_not_be_taken_are_on_the_card():
    lines = [gt_vs_pred_line(scene) for scene in scenes(20, 0.9)]
    lines[0]["pred"][0]["points"][0] = float("nan")
    path = write_lines(Path(KNOWN) / "gt_vs_pred.jsonl", lines)
    found = compare(equal_log("a"), "--rollouts", f"a={path}")
    line = "rollouts of a s0: 1 objects could not be taken (coordinates that are not finite 1)"
    assert line in found["caveats"]


def test_rule_that_judges_by_what_only_a_probe_measures():
    Path("rule.yaml").write_text("probe: {signal: geo_loss_after}\n")
    logs = [equal_log(name) for name in ("a", "bb")]
    given = [*rollouts_of("a", 0.3), *rollouts_of("bb", 0.9)]
    found = compare(*logs, *given, "--rule", "rule.yaml")
    assert found["primary"]["variant"] == "a"
    line = "they decide nothing: the rule judges by geometric loss, end, which only a probe"
    assert any(line in caveat for caveat in found["caveats"])


def test_same_file_for_two_runs_is_on_the_card():
    path = write_gt_vs_pred(Path(KNOWN) / "gt_vs_pred.jsonl", scenes(20, 0.9))
    logs = [equal_log(name) for name in ("a", "bb")]
    found = compare(*logs, "--rollouts", f"a={path}", "--rollouts", f"bb={path}")
    assert "rollouts of bb s0: they are byte for byte those of a s0" in found["caveats"]


def test_second_file_belongs_to_the_second_run_of_its_name():
    logs = ["a=1.jsonl", "a=2.jsonl", "b=3.jsonl"]
    for log in logs:
        write_log(Path(log[2:]))
    files = [write_gt_vs_pred(Path(f"{i}/x.jsonl"), scenes(5, 0.5, i)) for i in range(3)]
    found = parse_rollouts([f"a={files[0]}", f"a={files[1]}"], parse_sources(logs))
    assert [(file.variant, file.seed, file.path) for file in found] == [
        ("a", 0, files[0]),
        ("a", 1, files[1]),
    ]
    with pytest.raises(UserError, match="a has 2 runs, and more files"):
        parse_rollouts([f"a={file}" for file in files], parse_sources(logs))


def test_wrong_arguments_end_in_one_line(refused):
    write_gt_vs_pred(Path("x.jsonl"), scenes(5, 0.5))
    sources = parse_sources([equal_log("pure_ce"), equal_log("ce_split")])
    for argument, what in (
        ("pur_ce=x.jsonl", "no run has the name pur_ce: did you mean pure_ce?"),
        ("x.jsonl", "must be NAME=FILE"),
        ("pure_ce=none.jsonl", "none.jsonl: no such file"),
        ("pure_ce=.", "a directory that holds no gt_vs_pred*.jsonl and no probe.json"),
        ("pure_ce=two\nlines/x.jsonl", "must be NAME=FILE"),
        ("ce_split=x.jsonl", "ce_split is a control"),
    ):
        with refused(what):
            parse_rollouts([argument], sources, controls=["ce_split"])
    with refused("there are no --rollouts to score"):
        parse_rollouts([], sources, ground_truth=Path("x.jsonl"))
    log = equal_log("pure_ce")
    assert "a log, not predictions" in refusal(log, "--rollouts", "pure_ce=pure_ce.jsonl")


def test_rollouts_are_part_of_the_study_and_of_its_registration():
    path = write_gt_vs_pred(Path("x.jsonl"), scenes(5, 0.5))
    sources = parse_sources([equal_log("a")])
    rule = default_rule(sources)
    without = plan_comparison(sources, rule).hash8
    study = plan_comparison(sources, rule, rollouts=[f"a={path}"])
    assert study.hash8 not in (without, plan_comparison(sources, rule).hash8[::-1])
    assert study.hash8 != without
    assert study.probes == [str(path)]
    assert plan_comparison(sources, rule, rollouts=[f"a@7={path}"]).hash8 != study.hash8
    (file,) = study.rollouts
    refuse_changed(file)
    path.write_text(path.read_text() + "\n")
    assert plan_comparison(sources, rule, rollouts=[f"a={path}"]).hash8 != study.hash8
    with pytest.raises(UserError, match=r"x\.jsonl: has changed since the study began"):
        refuse_changed(file)
    path.unlink()
    with pytest.raises(UserError, match="no such file any more"):
        refuse_changed(file)


def test_rollouts_that_changed_since_the_registration_are_refused():
    compare(equal_log("a"), *rollouts_of("a", 0.5, n=5))
    path = Path("a") / KNOWN / "gt_vs_pred.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(SystemExit, match="has changed since the study began"):
        main(["step", "collect-probes", "out"])


def test_workflow_takes_the_same_rollouts():
    logs = [equal_log(name) for name in ("a", "bb")]
    given = [rollouts_of("a", 0.3, n=5)[1], rollouts_of("bb", 0.9, n=5)[1]]
    study = plan_study({"logs": " ".join(logs), "rollouts": " ".join(given)})
    sources = parse_sources(logs)
    by_hand = plan_comparison(sources, default_rule(sources, has_rollouts=True), rollouts=given)
    assert study.hash8 == by_hand.hash8
    assert len(study.probes) == 2
    truth = write_json(Path("gt.json"), coco_truth(scenes(5, 0.5)))
    with_truth = plan_study({"logs": logs, "rollouts": given, "ground_truth": str(truth)})
    assert with_truth.probes[-1] == str(truth)
    with pytest.raises(UserError, match="--config rollouts=7: must be NAME=FILE"):
        plan_study({"logs": logs, "rollouts": 7})
    with pytest.raises(UserError, match="rollout=…: means nothing beside logs=…: did you mean"):
        plan_study({"logs": logs, "rollout": given})


def test_probe_of_this_project_stands_in_for_the_runs_own():
    runs = {v: write_run(v, LOGGED) for v in ("pure_ce", "mixed")}
    directories = {}
    for variant, share in (("pure_ce", 0.3), ("mixed", 0.9)):
        write_probe(runs[variant], share, np.random.default_rng(1), share_after=1 - share)
        (directories[variant],) = (runs[variant].path / "stage2").iterdir()
    given = [word for v, path in directories.items() for word in ("--rollouts", f"{v}={path}")]
    found = compare(*(f"{v}={run.path}" for v, run in runs.items()), *given)
    assert found["primary"]["variant"] == "mixed"
    (dropped,) = found["decision"]["eliminated"]
    assert (dropped["metric"], round(dropped["lead"], 1)) == ("f1_agnostic", 0.6)
    line = "not used, because rollouts were handed over: the probes of pure_ce s0 and mixed s0"
    assert line in found["caveats"]


def test_comparison_without_rollouts_imports_no_matching():
    log = equal_log("a")
    code = (
        f"import sys; from coordexp import compare; compare(['{log}'], 'out'); "
        "print([m for m in sys.modules if m in ('coordexp.detection.matching', 'torch')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- figures of rollouts in the logs ---


@pytest.mark.parametrize(
    ("key", "metric"),
    [
        ("det_bbox_AP", "ap"),
        ("det_mAP", "ap"),
        ("detection/mAP", "ap"),
        ("mAP", "ap"),
        ("map_50", "ap_50"),
        ("det_f1ish@0.50_f1_full_micro", "f1_50"),
        ("det_f1ish@0.50_f1_loc_micro", "f1_50_agnostic"),
        ("detection/f1", None),
        ("loss", None),
    ],
)
def test_spellings_of_rollout_figures(key, metric):
    assert rollout_metric(key) == metric


@pytest.mark.parametrize(
    ("key", "metric"), [("eval/detection/mAP", "COCO AP"), ("eval_map_50", "COCO AP@.5")]
)
def test_rollout_figures_of_the_logs_contradict_and_never_decide(key, metric):
    logs = [equal_log("a", {key: 0.3}), equal_log("bb", {key: 0.5})]
    found = compare(*logs)
    assert found["primary"] is None
    assert f"put bb first ({metric} bb 0.500, a 0.300)" in found["withheld"]
    Path("out").rename("first")
    close = [equal_log("a", {key: 0.49}), equal_log("bb", {key: 0.5})]
    found = compare(*close)
    assert found["primary"]["variant"] == "a"
    assert found["probe"]["outcome"] == "unresolved"


def test_rollout_figures_stand_beside_rollouts_that_were_handed_over():
    logs = [equal_log("a", {"eval_det_mAP": 0.3}), equal_log("bb", {"eval_det_mAP": 0.5})]
    found = compare(*logs, *rollouts_of("a", 0.9), *rollouts_of("bb", 0.3))
    assert found["primary"]["variant"] == "a"
    line = (
        "in the logs, without a result per image (the trainers' own evaluation): COCO AP bb 0.500"
    )
    (caveat,) = [caveat for caveat in found["caveats"] if caveat.startswith(line)]
    assert caveat.endswith("; they put bb before a, by 0.200")


def test_row_of_rollout_figures_alone_is_no_evaluation():
    head = {"global_step/max_steps": "5/9"}
    rows = [
        {"global_step/max_steps": "4/9", "eval_loss": 0.5, "eval_mAP": 0.25},
        head | {"eval/detection/mAP": 0.4, "eval/detection/f1": 0.6, "eval/runtime/runtime_s": 9.0},
        {"global_step/max_steps": "6/9", "eval_det_mAP": 41.0, "eval_loss": 0.4},
    ]
    log = read_log(write_log(Path("log"), rows))
    assert log.evals == {4: {"loss": 0.5}, 6: {"loss": 0.4}}
    assert {step: rollout_figures(row) for step, row in log.rollouts.items()} == {
        4: {"ap": 0.25},
        5: {"ap": 0.4},
        6: {},
    }
    # Nothing is lost: the import into MLflow shows every value.
    assert log.rollouts[5] == {"detection/mAP": 0.4, "detection/f1": 0.6, "runtime/runtime_s": 9.0}
    (doubt,) = log.warnings
    assert doubt.startswith("eval_det_mAP is 41 at a step, not from 0 to 1")


def test_evidence_file_takes_the_place_of_the_figures_of_the_logs():
    logs = [equal_log("a", {"eval_det_mAP": 0.3}), equal_log("bb", {"eval_det_mAP": 0.5})]
    variants = {"a": {"ap": 0.4}, "bb": {"ap": 0.4}}
    Path("published.json").write_text(json.dumps({"source": "a paper", "variants": variants}))
    found = compare(*logs, "--evidence", "published.json")
    assert found["withheld"] is None
    note = "figures of the trainers' own evaluation in the logs stand aside for these"
    assert note in found["probe"]["confounds"]


def test_three_seeds_of_files_that_name_no_checkpoint_support_nothing():
    seeds = range(3)
    logs, rollouts = [], []
    for name, skill in (("first", 0.3), ("other", 0.9)):
        for seed in seeds:
            path = equal_log(f"{name}{seed}", mae=24.0 + seed / 10).partition("=")[2]
            logs.append(f"{name}={path}")
            file = Path(name) / str(seed) / KNOWN / "gt_vs_pred.jsonl"
            write_gt_vs_pred(file, scenes(60, skill, seed=10 * seed + len(name)))
            rollouts += ["--rollouts", f"{name}={file}"]
    found = compare(*logs, *rollouts)
    assert found["primary"]["variant"] == "other"
    grade = found["confidence"]["stage2_fitness"]
    assert grade["grade"] == "provisional"
    assert grade["reason"].endswith(
        "3 seeds x images; whether the checkpoints are those of the logs is not known"
    )


def test_choice_that_stays_primary_is_not_overturned():
    # Single pairs lie beyond the margin, and none of them after Holm's correction.
    logs = [equal_log(name) for name in "abcd"]
    rollouts = []
    for name, skill in zip("abcd", (0.5, 0.6, 0.6, 0.6), strict=True):
        file = write_gt_vs_pred(
            Path(name) / KNOWN / "gt_vs_pred.jsonl", scenes(75, skill, seed=ord(name))
        )
        rollouts += ["--rollouts", f"{name}={file}"]
    found = compare(*logs, *rollouts)
    reason = found["confidence"]["stage2_fitness"]["reason"]
    assert found["primary"]["variant"] == "a"
    assert reason.startswith("the evaluation handed over leaves open the Stage-1 ranking: ")
    assert reason.endswith(
        "after Holm's correction the best of them is not ahead beyond it; 1 seed"
    )
