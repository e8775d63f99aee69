"""preregistration.json is written once, and says which runs had results when it was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from studies import NOTE_RULE

from coordexp.errors import UserError
from coordexp.storage.files import read_json
from coordexp.study.comparison import plan_comparison
from coordexp.study.plan import plan_study
from coordexp.study.preregistration import preregister
from coordexp.study.sources import parse_sources


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def give_results(run) -> None:
    log = run.directory.log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text('{"global_step/max_steps": "40/720", "eval_loss": 1.0}\n')


def register(settings):
    return read_json(preregister(plan_study(settings)))


def test_registration_is_written_once_and_never_changed():
    first = plan_study({})
    path = preregister(first)
    written = path.read_bytes()
    assert [run["existing"] for run in read_json(path)["runs"]] == [False] * 4
    give_results(first.runs[0])
    assert preregister(first) == path
    assert path.read_bytes() == written


def test_more_seeds_are_recorded_and_old_runs_stay_registered():
    first = plan_study({})
    preregister(first)
    for run in first.runs:
        give_results(run)
    more = register({"seeds": 2})
    assert [run["existing"] for run in more["runs"]] == [True, False] * 4
    assert all(run["registered"] for run in more["runs"] if run["existing"])
    (earlier,) = more["earlier_studies"]
    assert earlier["changed"] == ["1 seeds a variant (now 2)"]


def test_run_with_results_before_any_study_is_not_registered():
    for run in plan_study({}).runs:
        give_results(run)
    found = register({})
    assert all(run["existing"] and not run["registered"] for run in found["runs"])
    again = register({"seeds": 2})  # the first study named them, but after their results
    assert not any(run["registered"] for run in again["runs"] if run["existing"])


def test_rule_changed_after_results_is_named_key_by_key():
    first = plan_study({})
    preregister(first)
    give_results(first.runs[0])
    study = plan_study({})
    rule = replace(study.rule, margins=study.rule.margins | {"expected_bin_mae": 1.0})
    found = read_json(preregister(replace(study, rule=rule, hash8="12345678")))
    assert found["earlier_studies"][0]["changed"] == ["margins.expected_bin_mae 0.5 (now 1.0)"]
    assert not found["runs"][0]["registered"]


def test_earlier_study_without_shared_runs_lists_no_changes():
    preregister(plan_study({}))
    found = register({"all": "optim.lr=5e-4"})
    assert [e["changed"] for e in found["earlier_studies"]] == [[]]


def test_comparison_of_logs_is_no_earlier_registration():
    Path("a.jsonl").write_text(json.dumps({"step": 40, "eval_loss": 1.0}) + "\n")
    study = plan_comparison(parse_sources(["a=a.jsonl"]), NOTE_RULE)
    found = read_json(preregister(study))
    assert [(run["existing"], run["registered"], run["directory"]) for run in found["runs"]] == [
        (True, False, None)
    ]
    assert register({})["earlier_studies"] == []


def test_directory_with_another_study_is_refused_and_kept():
    for name in "ab":
        Path(f"{name}.jsonl").write_text(
            json.dumps({"step": 40, "eval_loss": 1.0, "name": name}) + "\n"
        )
    rule = NOTE_RULE
    path = preregister(plan_comparison(parse_sources(["a=a.jsonl"]), rule), Path("out"))
    written = path.read_bytes()
    with pytest.raises(UserError, match="holds another study"):
        preregister(plan_comparison(parse_sources(["a=b.jsonl"]), rule), Path("out"))
    assert path.read_bytes() == written
