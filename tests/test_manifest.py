"""run.json, config.yaml, preregistration.json and runs.json: what is read, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from studies import eval_row, registration, run_config, run_manifest, write_run

from coordexp.storage.files import read_json, write_json
from coordexp.storage.manifest import (
    InputDigests,
    damaged_artifacts,
    read_manifest,
    verify_finished,
    write_manifest,
)
from coordexp.storage.run_config import RunConfig, read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_sealed, write_typed
from coordexp.study.preregistration import read_preregistration
from coordexp.study.study_runs import StudyRun, read_study_runs, write_study_runs

ROW = eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0)
INPUTS = InputDigests(data="d" * 64, base="b" * 64)


@pytest.fixture(autouse=True)
def here(in_tmp):
    return in_tmp


@pytest.fixture
def run():
    return RunDirectory(Path("run"))


def test_manifest_is_read_as_it_was_written(run):
    manifest = run_manifest(val_sides_px={"width": [64, 64, 64], "height": [48, 64, 64]})
    write_manifest(run, manifest)
    assert read_manifest(run) == manifest


def test_unfinished_run_has_no_manifest(run):
    assert read_manifest(run) is None


def test_manifest_of_an_older_run_gets_defaults(run):
    write_manifest(run, run_manifest())
    content = read_json(run.manifest)
    losses = {"train_loss": 7.1, "eval_loss": 7.1, "relative_difference": 0.0}
    content["preflight"] = losses
    for key in (
        "preflight_wall_s",
        "processes",
        "device",
        "cell_px",
        "val_sides_px",
        "val_images_rendered",
        "val_images_tiles",
        "data_notes",
    ):
        del content[key]
    write_sealed(run.manifest, content)
    manifest = read_manifest(run)
    assert (manifest.processes, manifest.cell_px, manifest.val_images_rendered) == (1, None, 0)
    assert manifest.data_notes == []
    assert (manifest.preflight.cut, manifest.preflight.reference) == (None, None)
    assert asdict(manifest.preflight) | losses == asdict(manifest.preflight)


@pytest.mark.parametrize(
    "key",
    ["status", "inputs_sha256", "step", "preflight", "modules_sha256", "versions", "artifacts"],
)
def test_manifest_that_lacks_a_key_is_refused_by_name(run, refused, key):
    write_manifest(run, run_manifest())
    content = read_json(run.manifest)
    del content[key]
    write_sealed(run.manifest, content)
    with refused("run/run.json", key):
        read_manifest(run)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"status": "running"}, "$.status"),
        ({"step": "720"}, "$.step"),
        ({"inputs_sha256": {"data": "d"}}, "$.inputs_sha256"),
        ({"artifacts": {"config.yaml": None}}, "$.artifacts[...]"),
        ({"preflight": []}, "$.preflight"),
    ],
)
def test_manifest_with_a_wrong_value_is_refused_by_name(run, refused, changes, key):
    write_manifest(run, run_manifest())
    write_sealed(run.manifest, read_json(run.manifest) | changes)
    with refused("run/run.json", key):
        read_manifest(run)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", "{"])
def test_manifest_of_another_shape_is_refused(run, refused, content):
    run.path.mkdir()
    run.manifest.write_text(content)
    with refused("run/run.json"):
        verify_finished(run, INPUTS)
    assert run.manifest.read_text() == content


def test_finished_run_of_other_inputs_is_set_aside():
    run = write_run("mixed", ROW)
    assert not verify_finished(run, replace(INPUTS, base="0" * 64))
    assert not run.manifest.exists()
    assert run.path.with_name(f"{run.path.name}.aside-1").joinpath("run.json").exists()


def test_finished_run_whose_files_changed_is_refused(refused):
    run = write_run("mixed", ROW)
    assert verify_finished(run, INPUTS)
    run.log.write_text("")
    assert damaged_artifacts(run, read_manifest(run)) == ["logging.jsonl"]
    with refused(str(run.path), "logging.jsonl"):
        verify_finished(run, INPUTS)


def test_config_of_a_run_is_read_by_group():
    run = write_run("mixed", ROW, overrides=("optim.lr=5e-4",))
    assert read_run_config(run) == run_config("variant=mixed", "optim.lr=5e-4")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("a: [", "not a readable YAML"),
        ("variant: {name: a}\n", "seed"),
        ("variant: {name: a}\nseed: 0\ntrain: 3\n", "$.train"),
        ("variant: {}\nseed: 0\n", "variant has no name"),
    ],
)
def test_config_of_another_shape_is_refused(run, refused, content, words):
    run.path.mkdir()
    if content is not None:
        run.config.write_text(content)
    with refused("run/config.yaml", words):
        read_run_config(run)


def test_config_of_a_run_trained_elsewhere_has_empty_groups(run):
    run.path.mkdir()
    run.config.write_text("variant: {name: theirs}\nseed: 3\nmodel: {}\n")
    assert read_run_config(run) == RunConfig({"name": "theirs"}, seed=3)


def test_run_without_a_manifest_is_listed_with_null_facts():
    handed_over = StudyRun(variant="a", seed=0, log="a.jsonl", kind="log", sha256="0" * 64)
    trained = StudyRun(variant="b", seed=1, directory="run").with_manifest(run_manifest())
    write_study_runs(Path("study"), [handed_over, trained])
    assert read_study_runs(Path("study")) == [handed_over, trained]
    first, second = read_json(Path("study/runs.json"))["runs"]
    assert (first["status"], second["status"], second["variant"]) == (None, "complete", "b")
    assert {"artifacts", "modules_sha256"}.isdisjoint(second)


@pytest.mark.parametrize("key", ["hash8", "runs", "rule", "rule_sha256", "seeds"])
def test_registration_that_lacks_a_key_is_refused_by_name(refused, key):
    write_typed(Path("study/preregistration.json"), registration())
    content = read_json(Path("study/preregistration.json"))
    del content[key]
    write_sealed(Path("study/preregistration.json"), content)
    with refused("study/preregistration.json", key):
        read_preregistration(Path("study"))


def test_rule_that_lacks_a_setting_is_refused_by_name(refused):
    with refused("preregistration.json", "0123abcd", "rule", "decision_step"):
        _ = registration(rule={"window": 0.5}).decision_rule


def test_registration_of_an_older_version_is_read():
    write_json(
        Path("study/preregistration.json"),
        {
            "study": "stage1_ablation",
            "hash8": "0123abcd",
            "written_at": "2026-01-01T00:00:00+00:00",
            "seeds": 1,
            "rule": {"a setting of then": 1},
            "rule_sha256": "0" * 64,
            "runs": [{"variant": "a", "seed": 0, "directory": "run", "existing": False}],
        },
    )
    found = read_preregistration(Path("study"))
    assert json.loads(json.dumps(found.rule)) == {"a setting of then": 1}
    assert found.directories == {"run"}
