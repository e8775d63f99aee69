"""The DAG end to end on `experiment=smoke`, in a copy of the project.

What runs, what does not run again, and what a kill leaves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import jsonschema
import pytest
from workflows import ROOT, command, copy_project, environment, served, snakemake

pytestmark = pytest.mark.slow


def planned(cwd: Path, *config: str) -> dict[str, int]:
    """Jobs a dry run plans, by rule; empty when there is nothing to be done."""
    text = snakemake(cwd, "-n", "stage1_ablation", "--config", "experiment=smoke", *config).stdout
    table = re.search(r"Job stats:\n.*?\n-+.*?\n(.*?)\ntotal", text, re.S)
    return {row.split()[0]: int(row.split()[1]) for row in table[1].splitlines()} if table else {}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Iterator[Path]:
    """A copy of the project in which the smoke study has run."""
    with served(copy_project(tmp_path_factory.mktemp("workspace"))) as copy:
        done = snakemake(copy, "stage1_ablation", "--config", "experiment=smoke")
        (copy / "first.txt").write_text(done.stdout + done.stderr)
        yield copy


@pytest.fixture
def restore(workspace):
    """Files a test may edit, put back afterwards."""
    saved = {path: path.read_text() for path in workspace.glob("conf/**/*.yaml")}
    yield
    for path in workspace.glob("conf/**/*.yaml"):
        path.write_text(saved[path]) if path in saved else path.unlink()


def study(workspace: Path) -> Path:
    return workspace / "results" / "stage1_ablation" / "latest"


def test_the_study_directory_is_complete_and_the_card_is_printed(workspace):
    found = {path.name for path in study(workspace).iterdir()}
    decided = {"runs.json", "audit.json", "audit.csv", "comparison.json", "comparison.csv"}
    decided |= {"recommendation.json", "recommendation.md"}
    assert found >= {
        "preregistration.json",
        *decided,
        "figures",
        "tables",
        "report.html",
        "mlflow.json",
    }
    recommendation = json.loads((study(workspace) / "recommendation.json").read_text())
    jsonschema.validate(
        recommendation,
        json.loads((ROOT / "workflow/schemas/recommendation.schema.json").read_text()),
    )
    assert (
        f"Start Stage-2 from {recommendation['primary']['variant']}"
        in (workspace / "first.txt").read_text()
    )


def test_a_second_run_does_nothing_and_prints_the_card(workspace):
    done = snakemake(workspace, "stage1_ablation", "--config", "experiment=smoke")
    assert "Nothing to be done" in done.stderr
    assert "# Start Stage-2 from" in done.stdout
    dry = snakemake(workspace, "-n", "stage1_ablation", "--config", "experiment=smoke")
    assert "Nothing to be done" in dry.stdout
    assert "# Start" not in dry.stdout


def test_first_run_told_each_job_in_a_line(workspace):
    told = (workspace / "first.txt").read_text()
    (total,) = re.findall(r"^stage1_ablation \w{8}: (\d+) jobs on 2 cores; logs: ", told, re.M)
    ended = re.findall(rf"^[\d:]{{8}} +(\d+)/{total}  (\w+)", told, re.M)
    # The target is a job, too, and has no line.
    assert [int(number) for number, _ in ended] == list(range(1, int(total)))
    assert [rule for _, rule in ended].count("train") == 3
    for boilerplate in ("Provided cores", "Select jobs", "Host:", "eval_loss", "\r", "\x1b"):
        assert boilerplate not in told
    assert "eval_loss" in next(workspace.glob("results/logs/train/mixed-*.log")).read_text()


def test_failed_job_prints_its_log_and_nothing_of_snakemake(workspace):
    (weights,) = workspace.glob("results/base/*/model/model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content + b"damaged")
    arguments = ("stage1_ablation", "--config", "experiment=smoke", "mixed=optim.lr=7e-4")
    failed = snakemake(workspace, *arguments, check=False)
    weights.write_bytes(content)
    assert failed.returncode == 1
    (log,) = re.findall(r"FAILED  train mixed s0\n(results/logs/train/.*\.log):\n", failed.stderr)
    assert (workspace / log).read_text() in failed.stderr
    assert "changed or damaged" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_rules_were_written_down_before_any_training_started(workspace):
    registered = json.loads((study(workspace) / "preregistration.json").read_text())
    assert not any(run["existing"] for run in registered["runs"])
    for run in registered["runs"]:
        assert (workspace / run["directory"] / "run.json").stat().st_mtime > (
            study(workspace) / "preregistration.json"
        ).stat().st_mtime


def test_report_of_snakemake_holds_card_page_and_figures(workspace, tmp_path):
    archive = tmp_path / "report.zip"
    config = ("--config", "experiment=smoke")
    snakemake(workspace, "stage1_ablation", "--report", str(archive), *config)
    with ZipFile(archive) as packed:
        names = {Path(name).name for name in packed.namelist()}
    figures = {path.name for path in (study(workspace) / "figures").glob("*.svg")}
    assert figures
    assert names >= {"recommendation.md", "report.html", *figures}


def test_printshellcmds_keeps_what_snakemake_says(workspace):
    arguments = ("stage1_ablation", "--config", "experiment=smoke", "mixed=optim.lr=6e-4")
    own = snakemake(workspace, "-n", "--printshellcmds", *arguments).stdout
    assert "coordexp.cli step preregister" in own
    assert "Building DAG of jobs" in own
    assert "Building DAG of jobs" not in snakemake(workspace, "-n", *arguments).stdout


def test_one_override_plans_one_training_and_taking_it_back_none(workspace):
    assert planned(workspace, "pure_ce=optim.lr=5e-4")["train"] == 1
    assert planned(workspace, "seeds=2")["train"] == 3
    assert planned(workspace, "all=optim.lr=5e-4")["train"] == 3
    assert planned(workspace) == {}


def test_control_is_trained_and_not_probed(workspace):
    """The default study trains one; the smoke study has none."""
    text = snakemake(workspace, "-n", "stage1_ablation").stdout
    jobs = re.findall(r"^Job \d+: (Train|Probe) (\w+), seed 0", text, re.M)
    candidates = {"softce_w1_gate", "pure_ce", "mixed"}
    assert {variant for job, variant in jobs if job == "Train"} == {*candidates, "ce_split"}
    assert {variant for job, variant in jobs if job == "Probe"} == candidates


def test_probe_claims_as_many_cores_as_its_training(workspace):
    """Where a training takes every GPU, one of its size is all that the cores may hold."""
    text = snakemake(
        workspace,
        "-n",
        "stage1_ablation",
        "--config",
        "experiment=smoke",
        "all=runtime.processes=2 data.seed=5",
    ).stdout
    cores = set(re.findall(r"^Job \d+: (Train|Probe) .*, on (\d+) cores", text, re.M))
    assert cores == {("Train", "2"), ("Probe", "2")}


def test_equal_spellings_are_the_same_run(workspace):
    assert (
        planned(workspace, "pure_ce=optim.lr=1e-3")
        == planned(workspace, "pure_ce=optim.lr=0.001")
        == {}
    )


@pytest.mark.usefixtures("restore")
def test_an_edited_variant_plans_one_training_and_going_back_none(workspace):
    variant = workspace / "conf/variant/mixed.yaml"
    before = variant.read_text()
    variant.write_text(
        before.replace("ce: 1.0", "ce: 0.5", 1)
        if before.startswith("ce")
        else before + "sigma_bins: 2.0\n"
    )
    assert planned(workspace)["train"] == 1
    variant.write_text(before)
    assert planned(workspace) == {}


@pytest.mark.usefixtures("restore")
def test_a_fourth_variant_is_one_yaml_and_its_name_in_the_study(workspace):
    (workspace / "conf/variant/softce_wide.yaml").write_text(
        (workspace / "conf/variant/softce_w1_gate.yaml")
        .read_text()
        .replace("name: softce_w1_gate", "name: softce_wide")
        + "sigma_bins: 4.0\n"
    )
    file = workspace / "conf/study/stage1_ablation.yaml"
    file.write_text(file.read_text().replace("pure_ce, mixed]", "pure_ce, mixed, softce_wide]"))
    assert planned(workspace)["train"] == 1


# What follows from changed code of the analysis: its own rules, and those that show their results.
ANALYSED_AGAIN = ("audit", "compare", "collect_probes", "recommend", "report")
SHOWN_AGAIN = ("mlflow_import", "latest", "stage1_ablation")


@pytest.fixture
def copied_workspace(workspace, tmp_path) -> Path:
    """A copy of the finished study, for a test that changes the code."""
    return Path(shutil.copytree(workspace, tmp_path / "workspace", symlinks=True))


def add_documented_metric(copy: Path) -> None:
    """Add the example of docs/metrics.md to the registry."""
    entry = re.search(r"```python\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.S)[1]
    registry = copy / "coordexp/metrics.py"
    code = registry.read_text()
    first = "    # These are shown beside them.\n"
    assert first in code
    registry.write_text(code.replace(first, entry.rstrip() + ",\n" + first))


def test_added_metric_runs_the_analysis_again_and_no_training(copied_workspace):
    directory = study(copied_workspace)
    registered = (directory / "preregistration.json").read_bytes()
    before = json.loads((directory / "recommendation.json").read_text())
    add_documented_metric(copied_workspace)
    assert planned(copied_workspace) == dict.fromkeys((*ANALYSED_AGAIN, *SHOWN_AGAIN), 1)

    # MLflow refuses a database that was moved, as that of the copy was.
    arguments = ("stage1_ablation", "--until", "report", "--config", "experiment=smoke")
    snakemake(copied_workspace, *arguments)
    assert planned(copied_workspace) == dict.fromkeys(SHOWN_AGAIN, 1)
    assert "within_8_bins" in (directory / "comparison.json").read_text()
    assert (directory / "preregistration.json").read_bytes() == registered
    after = json.loads((directory / "recommendation.json").read_text())
    assert (after["alerts"], after["confidence"]) == (before["alerts"], before["confidence"])


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("coordexp/report/templates/card.html", ("report", *SHOWN_AGAIN)),
        ("coordexp/training/train.py", ()),
        ("coordexp/losses/fused.py", ()),
    ],
)
def test_changed_code_plans_the_rules_that_run_it(copied_workspace, file, rules):
    with (copied_workspace / file).open("a") as edited:
        edited.write("\n")
    assert planned(copied_workspace) == dict.fromkeys(rules, 1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("pur_ce=optim.lr=1", "--config pur_ce=…: unknown key"),
        ("seeds=0", "--config seeds=0: must be"),
        ("pure_ce=optim.lrx=1", "optim.lrx"),
        ("pure_ce=optim.lr=1'", "quotes at its ends do not match"),
        ("pure_ce=seed=1", "is the study's to decide"),
    ],
)
def test_a_slip_costs_one_line(workspace, config, says):
    done = snakemake(
        workspace, "stage1_ablation", "--config", "experiment=smoke", config, check=False
    )
    assert done.returncode != 0
    lines = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if line.strip() and not line.startswith("Using workflow")
    ]
    assert len(lines) == 1
    assert says in lines[0]


def test_going_back_to_a_study_plans_no_training_and_shows_its_card(workspace):
    def show() -> str:
        return subprocess.run(
            [sys.executable, "-m", "coordexp.cli", "show"],
            cwd=workspace,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first, link = show(), os.readlink(study(workspace))
    snakemake(workspace, "stage1_ablation", "--config", "experiment=smoke", "pure_ce=optim.lr=5e-4")
    assert os.readlink(study(workspace)) != link
    assert "optim.lr" in show()
    back = planned(workspace)
    assert "train" not in back
    snakemake(workspace, "stage1_ablation", "--config", "experiment=smoke")
    assert os.readlink(study(workspace)) == link
    assert show() == first


def test_recommended_checkpoints_load_and_have_the_cards_digests(workspace):
    from coordexp.models.checkpoints import load_base
    from coordexp.storage.files import sha256_directory

    recommendation = json.loads((study(workspace) / "recommendation.json").read_text())
    for role in ("primary", "secondary"):
        path = workspace / recommendation[role]["checkpoint"]
        assert sha256_directory(path) == recommendation[role]["sha256"]
        import torch

        model, processor = load_base(path, torch.float32)
        assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_killed_workflow_restarts_without_a_second_writer(workspace):
    """Trainers are orphaned by the kill and may finish; nothing is trained or logged twice."""
    arguments = ["stage1_ablation", "--config", "experiment=smoke", "mixed=train.max_steps=16"]
    running = subprocess.Popen(
        command(*arguments),
        cwd=workspace,
        env=environment(workspace),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def logs():
        return [
            p for p in workspace.glob("results/runs/*/*/logging.jsonl") if "/16" in p.read_text()
        ]

    deadline = time.monotonic() + 120
    while not logs() and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    snakemake(workspace, "--unlock", *arguments)
    snakemake(workspace, *arguments)
    for log in logs():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        written = [(row["global_step/max_steps"], "eval_loss" in row) for row in rows]
        assert len(written) == len(set(written))
        assert [step for step, is_eval in written if is_eval] == ["4/16", "8/16", "12/16", "16/16"]
