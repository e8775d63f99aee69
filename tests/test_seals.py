"""Steps of a study end where a file is not what an earlier step recorded of it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import run_manifest, write_run, write_study
from test_probe_findings import RULE, TIED, write_probe

from coordexp.analysis.comparison.findings import read_comparison, write_comparison
from coordexp.cli.main import main
from coordexp.cli.steps import STUDY_STEPS
from coordexp.cli.verify import verify
from coordexp.detection.probe_manifest import read_probe_manifest
from coordexp.detection.probes import read_probe
from coordexp.storage.files import read_json, sha256_file, write_text
from coordexp.storage.manifest import artifact_digests, read_manifest, write_manifest
from coordexp.storage.runs import run_directory
from coordexp.storage.typed import write_sealed, write_typed
from coordexp.study.preregistration import read_preregistration
from coordexp.study.study_files import DIGESTS, read_digests, write_study_file

pytestmark = pytest.mark.usefixtures("in_tmp")


def flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["logging.jsonl", "config.yaml", "eval/step-000360.parquet"])
def test_run_that_changed_since_the_audit_ends_the_next_steps(name, refused):
    runs = [write_run(variant, TIED, tables=True) for variant in ("pure_ce", "mixed")]
    study = write_study(runs, rule=RULE)
    for step in ("audit", "compare", "collect-probes", "recommend"):
        STUDY_STEPS[step](study)
    before = (study / "recommendation.json").read_bytes()
    changed = runs[0].path / name
    flip_last_bit(changed)
    for step in ("compare", "collect-probes", "recommend", "report"):
        with refused(f"{changed}: has changed since the audit", f"remove {study}/runs.json"):
            STUDY_STEPS[step](study)
    assert (study / "recommendation.json").read_bytes() == before
    flip_last_bit(changed)
    STUDY_STEPS["compare"](study)


def test_edited_and_sealed_run_json_ends_the_next_steps(refused):
    runs = [write_run(variant, TIED, tables=True) for variant in ("pure_ce", "mixed")]
    study = write_study(runs, rule=RULE)
    STUDY_STEPS["audit"](study)
    found = read_manifest(runs[0])
    write_manifest(runs[0], replace(found, train_wall_s=1.0))
    with refused(f"{runs[0].manifest}: has changed since the audit", f"remove {study}/runs.json"):
        STUDY_STEPS["compare"](study)
    (fault,) = [found.fault for found in verify(Path("results")) if found.kind.endswith("study")]
    assert f"{runs[0].manifest}: sha256 " in fault
    write_manifest(runs[0], found)
    STUDY_STEPS["compare"](study)


def test_table_that_appears_or_vanishes_after_the_audit_is_named(refused):
    run = write_run("pure_ce", TIED, tables=True)
    study = write_study([run, write_run("mixed", TIED, tables=True)], rule=RULE)
    STUDY_STEPS["audit"](study)
    table = run.table(360)
    table.rename(run.table(400))
    with refused("step-000360.parquet: has changed since the audit"):
        STUDY_STEPS["compare"](study)
    run.table(400).rename(table)
    STUDY_STEPS["compare"](study)


@pytest.mark.parametrize(
    "pattern", ["before/rollouts-*.jsonl", "after/rollouts-*.jsonl", "images.parquet", "val.jsonl"]
)
def test_damaged_file_of_a_probe_is_refused(pattern, refused):
    run = write_run("pure_ce", TIED, tables=True)
    write_probe(run, 0.5, np.random.default_rng(0))
    (directory,) = (run.path / "stage2").iterdir()
    written = read_probe_manifest(directory / "probe.json")
    records = Path(written.records)
    files = [file for file in directory.rglob("*") if file.is_file() and file.suffix != ".json"]
    sealed = {str(file.relative_to(directory)): sha256_file(file) for file in files}
    write_typed(
        directory / "probe.json",
        replace(written, artifacts=sealed, data_sha256={records.stem: sha256_file(records)}),
    )
    assert read_probe(directory) is not None
    assert not [entry for entry in verify(Path("results")) if entry.kind == "probe" and entry.fault]
    file = records if pattern == "val.jsonl" else min(directory.glob(pattern))
    flip_last_bit(file)
    with refused(f"{file}: changed or damaged", "probe.json recorded", f"remove {directory}"):
        read_probe(directory)
    file.unlink()
    with refused(f"{file}: missing, but {directory / 'probe.json'} records it"):
        read_probe(directory)


def test_verify_shows_a_probe_of_another_checkpoint():
    run = write_run("pure_ce", TIED)
    write_probe(run, 0.5, np.random.default_rng(0))
    (directory,) = (run.path / "stage2").iterdir()
    found = read_probe_manifest(directory / "probe.json")
    write_typed(directory / "probe.json", replace(found, checkpoint_sha256="e" * 64))
    (fault,) = [entry.fault for entry in verify(Path("results")) if entry.kind == "probe"]
    assert "probe.json: of a checkpoint with sha256 eeeeeeeeeeee" in fault


def test_run_in_the_place_of_another_is_refused(refused):
    run = write_run("pure_ce", TIED, tables=True)
    study = write_study([run, write_run("mixed", TIED, tables=True)], rule=RULE)
    plan = read_preregistration(study)
    swapped = [replace(r, hash8="0badcafe") if r.variant == "mixed" else r for r in plan.runs]
    write_typed(study / "preregistration.json", replace(plan, runs=swapped))
    with refused("not of 0badcafe: put back what belongs there"):
        STUDY_STEPS["audit"](study)


def test_probe_of_another_checkpoint_is_refused(refused):
    run = write_run("pure_ce", TIED, tables=True)
    write_probe(run, 0.5, np.random.default_rng(0))
    (directory,) = (run.path / "stage2").iterdir()
    checkpoint = f"checkpoints/{directory.name.rpartition('-')[0]}"
    assert read_probe(directory) is not None
    write_manifest(run, run_manifest(artifacts={checkpoint: "1" * 64}))
    with refused(f"recorded 111111111111 for {checkpoint}", f"remove {directory} and probe again"):
        read_probe(directory)


def test_runs_json_holds_the_digests_of_what_is_analysed():
    run = write_run("pure_ce", TIED, tables=True)
    study = write_study([run, write_run("mixed", TIED, tables=True)], rule=RULE)
    STUDY_STEPS["audit"](study)
    files = read_json(study / "runs.json")["runs"][0]["files"]
    assert files["logging.jsonl"] == sha256_file(run.log)
    assert {"config.yaml", "eval/step-000360.parquet"} < files.keys()


def edit(file: Path) -> None:
    """Change what a file of a study says, and seal it again."""
    write_sealed(file, read_json(file) | {"edited": True})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results with a study up to its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("decided"))
        runs = [write_run(variant, TIED, tables=True) for variant in ("pure_ce", "mixed")]
        study = write_study(runs, rule=RULE)
        write_study_file(study / "preregistration.json", read_preregistration(study))
        for step in ("audit", "compare", "collect-probes", "recommend", "report"):
            STUDY_STEPS[step](study)
        return Path("results").absolute()


@pytest.fixture
def decided(results, in_tmp) -> Path:
    """A study up to its report, in results of its own below the working directory."""
    shutil.copytree(results, in_tmp / "results")
    return next(Path("results").glob("stage1_ablation/*"))


# The steps that read each file of a study, or what was made from it.
LAST = ("report", "track", "publish")
READ_BY = {
    "preregistration.json": ("audit", "compare", "collect-probes", "recommend", *LAST),
    "runs.json": ("compare", "collect-probes", "recommend", *LAST),
    "audit.json": ("recommend", *LAST),
    "comparison.json": ("collect-probes", "recommend", *LAST),
    "probe.json": ("recommend", *LAST),
    "recommendation.json": LAST,
}


@pytest.mark.parametrize("name", READ_BY)
def test_study_file_that_was_edited_and_sealed_is_refused(decided, refused, name):
    intact = (decided / name).read_bytes()
    edit(decided / name)
    for step in READ_BY[name]:
        with refused(f"{decided / name}: ", "its sha256 is ", "restore it, or remove"):
            STUDY_STEPS[step](decided)
    with pytest.raises(SystemExit, match=re.escape(str(decided / name))):
        main(["show", str(decided)])
    (entry,) = [entry for entry in verify(Path("results")) if "study" in entry.kind]
    assert str(decided / name) in entry.fault
    (decided / name).write_bytes(intact)
    STUDY_STEPS["publish"](decided)
    assert not [entry for entry in verify(Path("results")) if entry.fault]


@pytest.mark.parametrize("name", READ_BY)
def test_missing_file_that_another_was_made_from_is_shown(decided, refused, name):
    (decided / name).unlink()
    (entry,) = [entry for entry in verify(Path("results")) if "study" in entry.kind]
    if name == "recommendation.json":  # nothing was made from it yet
        assert (entry.fault, entry.kind) == ("", "unfinished study")
        return
    assert f"{name}: missing" in entry.fault
    with refused(f"{decided / name}: missing"):
        STUDY_STEPS["publish"](decided)


def test_unfinished_study_is_no_difference():
    study = write_study([write_run("pure_ce", TIED), write_run("mixed", TIED)], rule=RULE)
    write_study_file(study / "preregistration.json", read_preregistration(study))
    for step in ("audit", "compare", "collect-probes"):
        assert not [entry for entry in verify(Path("results")) if entry.fault]
        STUDY_STEPS[step](study)
    assert not [entry for entry in verify(Path("results")) if entry.fault]


def test_card_of_a_former_comparison_is_refused_until_made_again(decided, refused):
    """As after a kill between two steps: the comparison is new, the card is not."""
    found = read_comparison(decided)
    write_comparison(decided, replace(found, common_steps=found.common_steps[:-1]))
    for step in LAST:
        with refused("comparison.json: changed since "):
            STUDY_STEPS[step](decided)
    for step in ("compare", "collect-probes", "recommend", "report"):
        STUDY_STEPS[step](decided)
    assert not [entry for entry in verify(Path("results")) if entry.fault]


@pytest.mark.usefixtures("decided")
def test_study_whose_runs_are_gone_is_shown():
    (run, *_) = Path("results/runs").glob("*/*")
    run.rename(run.with_name("s9-0badcafe"))
    faults = {entry.kind: entry.fault for entry in verify(Path("results")) if entry.fault}
    assert faults["study, not in MLflow"] == f"{run}: missing, but the study names it"
    assert faults["run"].endswith("seed 0: not of this directory")


def test_study_without_its_digests_is_shown(decided):
    (decided / DIGESTS).unlink()
    (entry,) = [entry for entry in verify(Path("results")) if "study" in entry.kind]
    assert entry.fault == "digests.json: missing"


@pytest.mark.parametrize("name", ["", "../log.json", "tables"])
def test_digests_of_what_is_no_file_of_a_study_are_refused(decided, refused, name):
    found = read_digests(decided)
    written = replace(found.files["audit.json"], made_from={name: "0" * 64})
    write_typed(decided / DIGESTS, replace(found, files=found.files | {"audit.json": written}))
    with refused(f"{decided / DIGESTS}: {name!r} is no file of a study"):
        STUDY_STEPS["publish"](decided)


@pytest.mark.slow
def test_damaged_checkpoint_of_a_run_is_not_evaluated(refused):
    from coordexp.probe.outside import refuse_damaged

    run = run_directory("pure_ce", 0, "0badcafe")
    weights = run.checkpoint(8) / "model.safetensors"
    write_text(weights, "weights")
    refuse_damaged(run.checkpoint(8))  # of a run that is not finished
    write_manifest(run, run_manifest(artifacts=artifact_digests(run)))
    refuse_damaged(run.checkpoint(8))
    flip_last_bit(weights)
    with refused("step-000008: changed or damaged", "run.json recorded"):
        refuse_damaged(run.checkpoint(8))
    refuse_damaged(run.checkpoint(8).rename("theirs"))
