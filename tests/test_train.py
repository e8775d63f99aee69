"""The trainer end to end, undisturbed: what a run writes, how it is started, and that two processes
give what one gives.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from training import (
    MIXED,
    SMALL,
    TIMEOUT_S,
    artifacts,
    assert_same_run,
    change_input,
    contents,
    environment,
    names,
    only,
    rows,
    wait_for,
)

from coordexp.config.compose import compose
from coordexp.config.digests import plain
from coordexp.config.package import launcher
from coordexp.data.prepare import read_data_manifest, split_facts
from coordexp.storage.files import sha256_file
from coordexp.storage.typed import write_typed
from coordexp.study.plan import planned_run

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow
COORD_TERMS = ("soft_ce", "w1", "gate", "ce")
WATCHED = {
    "expected_bin_mae",
    "expected_bin_abs_err_p90",
    "w1_to_delta",
    "p_gt_mean",
    "entropy_mean",
    "coord_mass_mean",
    "flips_to_text",
    "flips_to_coord",
    "enabled",
}

LOSSES = {
    f"eval_{name}" for name in ("loss", "base_ce/loss", "text_ce/loss", "coord_softce_w1/loss")
}
SUBSET = {
    f"eval_train_subset/{name.removeprefix('eval_')}"
    for name in (*LOSSES, "coord_diag/expected_bin_mae")
}


def test_multirun_trains_every_variant_and_leaves_nothing_behind(workspace):
    for variant in ("pure_ce", "mixed"):
        run = workspace.run(variant)
        assert names(run) >= {"config.yaml", "logging.jsonl", ".lock", "run.json"}
        assert not [
            name for name in names(run) if name.endswith(".tmp") or name.startswith("state")
        ]
        manifest = json.loads((run / "run.json").read_text())
        assert (manifest["status"], manifest["step"], manifest["processes"]) == ("complete", 8, 1)
        assert (manifest["checkpoints"], manifest["token_tables"]) == ([4, 8], [2, 4, 6, 8])
        assert manifest["preflight"]["relative_difference"] <= 1e-5
        for way in ("cut", "reference"):
            differences = manifest["preflight"][way]["projection_difference"]
            assert max(differences.values()) <= 1e-5, way
        assert manifest["preflight"]["train_loss"] == pytest.approx(
            manifest["preflight"]["eval_loss"], rel=1e-5
        )
        assert all(
            sha256 == sha256_file(run / name)
            for name, sha256 in manifest["artifacts"].items()
            if "." in name
        )


@pytest.mark.parametrize("variant", ["pure_ce", "mixed"])
def test_rows_have_the_contracts_keys_and_terms_sum_to_the_loss(workspace, variant):
    found = rows(workspace.run(variant))
    trained = [row for row in found if "loss" in row]
    evaluated = [row for row in found if "eval_loss" in row]
    assert [row["global_step/max_steps"] for row in trained] == ["3/8", "6/8", "8/8"]
    assert [row["global_step/max_steps"] for row in evaluated] == ["2/8", "4/8", "6/8", "8/8"]
    assert len(trained) + len(evaluated) == len(found)
    assert all(set(row) > {"learning_rate", "grad_norm", "accum/grad_steps"} for row in trained)
    assert all(row["accum/grad_steps"] == 4.0 for row in trained)
    for row in [
        *trained,
        *({key.removeprefix("eval_"): value for key, value in row.items()} for row in evaluated),
    ]:
        common = {
            "loss",
            "base_ce/loss",
            "text_ce/loss",
            "coord_token_acc",
            *(f"coord_diag/{name}" for name in WATCHED),
        }
        assert set(row) >= common
        assert row["coord_diag/enabled"] == float(variant == "mixed")
        if variant == "pure_ce":
            assert not [key for key in row if key.startswith("coord_softce_w1")]
            assert row["loss"] == row["base_ce/loss"]
        else:
            parts = [row[f"coord_softce_w1/{term}"] for term in COORD_TERMS]
            assert min(parts) > 0
            assert sum(parts) == pytest.approx(row["coord_softce_w1/loss"], rel=1e-12)
            assert row["base_ce/loss"] + row["coord_softce_w1/loss"] == pytest.approx(
                row["loss"], rel=1e-12
            )
            assert row["base_ce/loss"] == row["text_ce/loss"]


@pytest.mark.parametrize("variant", ["pure_ce", "mixed"])
def test_a_train_row_is_the_token_weighted_mean_of_its_steps(
    fork_server, workspace, empty, variant
):
    """Another run logs every step; its rows, weighted by the tokens of each step, give the rows of
    every three.
    """
    assert (
        fork_server.run(empty, f"variant={variant}", *SMALL, "train.logging_steps=1").returncode
        == 0
    )
    steps = [row for row in rows(only(empty / "results/runs" / variant)) if "loss" in row]
    counts = json.loads(
        fork_server.run(empty, f"variant={variant}", *SMALL, entry="count").stdout
    )  # [step][text, coordinates]
    windows = {"3/8": slice(0, 3), "6/8": slice(3, 6), "8/8": slice(6, 8)}
    for row in rows(workspace.run(variant)):
        if "loss" not in row:
            continue
        window = windows[row["global_step/max_steps"]]
        weights = {
            "text_ce/loss": [text for text, _ in counts],
            "coord_softce_w1/loss": [coord for _, coord in counts],
        }
        weights |= {
            "coord_token_acc": weights["coord_softce_w1/loss"],
            "text_token_acc": weights["text_ce/loss"],
        }
        weights["coord_diag/expected_bin_mae"] = weights["coord_softce_w1/loss"]
        if variant == "pure_ce":
            weights["loss"] = [text + coord for text, coord in counts]
            del weights["coord_softce_w1/loss"]
        for key, weight in weights.items():
            total = sum(
                w * step[key] for w, step in zip(weight[window], steps[window], strict=True)
            )
            assert row[key] == pytest.approx(total / sum(weight[window]), rel=1e-6), key


def test_train_images_are_evaluated_as_validation_images_are(fork_server, workspace, empty):
    """The validation set replaced by the five train images that are audited: both halves of an eval
    row must agree.
    """
    data = empty / "results" / "data"
    original = data.resolve()
    data.unlink()
    shutil.copytree(original, data)
    (train,) = data.glob("*/train.jsonl")
    lines = train.read_text().splitlines(keepends=True)
    # 12 images, 5 of them.
    train.with_name("val.jsonl").write_text("".join(lines[index] for index in (0, 2, 4, 7, 9)))
    manifest = read_data_manifest(train.with_name("data.json"))
    of_these = replace(manifest, val=split_facts(train.parent, "val"))
    write_typed(train.with_name("data.json"), of_these)
    assert fork_server.run(empty, *MIXED).returncode == 0
    found = [row for row in rows(only(empty / "results/runs/mixed")) if "eval_loss" in row]
    reference = [row for row in rows(workspace.run("mixed")) if "eval_loss" in row]
    for row, expected in zip(found, reference, strict=True):
        for key in SUBSET:
            assert row[key] == expected[key], (
                "whatever is validated on, the audited images are the same"
            )
            assert row[key] == pytest.approx(row[key.replace("train_subset/", "")], rel=1e-5), key


def test_without_audited_images_a_run_is_the_same_run(fork_server, workspace, empty):
    """Evaluating train images changes no weight, no other number and no table."""
    assert fork_server.run(empty, *MIXED, "train.audit_images=0").returncode == 0
    run, reference = only(empty / "results/runs/mixed"), workspace.run("mixed")
    without = [
        {key: value for key, value in row.items() if "train_subset" not in key}
        for row in rows(reference)
    ]
    assert rows(run) == without != rows(reference)
    found, expected = artifacts(run), artifacts(reference)
    del found["config.yaml"], expected["config.yaml"]
    assert found == expected


def test_manifest_holds_what_turns_bins_into_pixels(workspace):
    manifest = json.loads((workspace.run("mixed") / "run.json").read_text())
    assert (manifest["cell_px"], manifest["val_images"]) == (32, 8)
    assert manifest["val_sides_px"] == {"width": [64, 64, 64], "height": [64, 64, 64]}


@pytest.mark.parametrize("more", [(), ("--cfg", "job")])
def test_an_unknown_override_costs_one_line_and_nothing_is_written(fork_server, empty, more):
    child = fork_server.run(empty, *MIXED, "train.max_stepz=3", *more)
    assert child.refusal().endswith("did you mean train.max_steps?")
    assert child.stdout == ""
    assert len(child.stderr.splitlines()) == 1
    assert {path.name for path in (empty / "results").iterdir()} == {"data", "base"}


def test_cfg_job_prints_the_configuration_and_trains_nothing(fork_server, empty):
    child = fork_server.run(empty, *MIXED, "optim.lr=5e-4", "--cfg", "job")
    assert child.returncode == 0, child.stderr
    assert OmegaConf.to_container(OmegaConf.create(child.stdout)) == plain(
        compose([*MIXED, "optim.lr=5e-4"])
    )
    assert {path.name for path in empty.rglob("*")} == {"results", "data", "base"}


@pytest.mark.parametrize("extra", [(), ("study.variants=[pure_ce, mixed]",)])
def test_missing_data_or_base_names_the_command_that_makes_it(fork_server, tmp_path, extra):
    child = fork_server.run(tmp_path, *MIXED, *extra, "train.max_steps=2")
    line = child.refusal()
    assert len(child.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*"))
    program, verb, *overrides = shlex.split(line.split("`")[1])
    assert (program, verb) == ("coordexp", "prepare")
    assert fork_server.run(tmp_path, verb, *overrides, entry="cli").returncode == 0
    assert fork_server.run(tmp_path, *MIXED, *extra, "train.max_steps=2").returncode == 0


def test_a_missing_base_alone_is_named_and_made(fork_server, workspace, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "data").symlink_to(workspace.path / "results" / "data")
    line = fork_server.run(tmp_path, *MIXED).refusal()
    assert "base.json" in line
    _, *arguments = shlex.split(line.split("`")[1])
    assert fork_server.run(tmp_path, *arguments, "--only", "base", entry="cli").returncode == 0
    assert fork_server.run(tmp_path, *MIXED).returncode == 0


@pytest.mark.parametrize(("state", "changed"), [("finished", "data"), ("unfinished", "base")])
def test_a_run_of_other_data_is_set_aside_and_trained_from_scratch(
    fork_server, workspace, empty, request, changed, state
):
    old = request.getfixturevalue(state)
    before = {name: sha256 for name, (sha256, _) in contents(old).items()}
    change_input(empty, changed)
    assert fork_server.run(empty, *MIXED).returncode == 0
    aside = old.with_name(f"{old.name}.aside-1")
    assert {name: sha256 for name, (sha256, _) in contents(aside).items()} == before
    assert rows(old) == rows(workspace.run("mixed"))
    assert artifacts(old) == artifacts(workspace.run("mixed"))
    assert (old / "logging.jsonl").read_bytes() != (aside / "logging.jsonl").read_bytes()


# --- two processes ---


def ranks(fork_server, cwd, *arguments: str, fault: tuple = (), faulty: int = 0) -> list:
    """Rank 0 and rank 1, as `accelerate launch` would start them, but forked. One may have a
    fault.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return [
        fork_server.start(
            cwd,
            *arguments,
            fault=fault if rank == faulty else (),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **common,
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def two(workspace, tmp_path_factory):
    """The run of `mixed`, launched as the workflow launches it, on two processes."""
    path = workspace.empty_copy(tmp_path_factory.mktemp("two") / "processes")
    arguments = (*MIXED, "runtime.processes=2")
    launcher = planned_run(compose(arguments), 0, arguments).launcher
    command = [*launcher.split(), "coordexp.training.train", *arguments]
    done = subprocess.run(command, cwd=path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return only(path / "results" / "runs" / "mixed")


def test_two_processes_take_the_same_images_to_the_same_loss(workspace, two):
    one = workspace.run("mixed")
    manifests = [json.loads((run / "run.json").read_text()) for run in (one, two)]
    assert [manifest["processes"] for manifest in manifests] == [1, 2]
    for fact in ("status", "step", "supervised_seen", "token_tables", "checkpoints"):
        assert manifests[0][fact] == manifests[1][fact], fact
    assert all(set(row) >= SUBSET for row in rows(two) if "eval_loss" in row)
    for row, expected in zip(rows(two), rows(one), strict=True):
        assert row["global_step/max_steps"] == expected["global_step/max_steps"]
        for key in {"loss", "grad_norm", "eval_loss", *LOSSES, *SUBSET} & set(expected):
            assert row[key] == pytest.approx(expected[key], rel=1e-5), key
    assert [row["accum/grad_steps"] for row in rows(two) if "loss" in row] == [2.0, 2.0, 2.0]


def test_two_processes_count_the_tokens_of_both(workspace, two):
    one, other = (
        json.loads((run / "run.json").read_text())["tokens_seen"]
        for run in (workspace.run("mixed"), two)
    )
    assert one == other


def test_two_processes_killed_within_a_window_resume_bit_for_bit(
    fork_server, workspace, empty, two
):
    arguments = (*MIXED, "runtime.processes=2")
    # The row of steps 4 to 6.
    first, second = ranks(
        fork_server, empty, *arguments, fault=("die_before", "open", "logging.jsonl", 4)
    )
    assert first.wait().returncode == -signal.SIGKILL
    if second.poll() is None:
        os.kill(second.pid, signal.SIGKILL)
    second.wait()
    for child in ranks(fork_server, empty, *arguments):
        assert child.wait().returncode == 0, child.stderr
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    assert_same_run(run, two)


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP holds a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_two_processes_stop_together_for_a_signal_to_either(fork_server, workspace, empty, two):
    arguments = (*MIXED, "runtime.processes=2")
    fault = ("signal_before", signal.SIGUSR1, 1, "os.rename", "step-000004.parquet")
    children = ranks(fork_server, empty, *arguments, fault=fault)
    assert [child.wait().returncode for child in children] == [75, 75]
    told = [child.stderr.count("interrupted at step 4/8") for child in children]
    assert told == [1, 0]

    # A signal to rank 1, within a function that both ranks run.
    for function, step in (("optimizer_step", 5), ("evaluate", 6)):
        fault = ("signal_in", signal.SIGTERM, "coordexp.training.train", function)
        children = ranks(fork_server, empty, *arguments, fault=fault, faulty=1)
        assert [child.wait().returncode for child in children] == [75, 75]
        assert f"interrupted at step {step}/8" in children[0].stderr

    # A signal to rank 1, which waits for rank 0 in a collective: rank 0 holds still in step 7.
    fault = ("signal_in", signal.SIGSTOP, "coordexp.training.train", "optimizer_step")
    first, second = ranks(fork_server, empty, *arguments, fault=fault)
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    wait_for(lambda: is_stopped(first.pid))
    second.signal(signal.SIGTERM)
    first.signal(signal.SIGCONT)
    assert [child.wait().returncode for child in (first, second)] == [75, 75]
    for child in ranks(fork_server, empty, *arguments):
        assert child.wait().returncode == 0, child.stderr
    assert_same_run(run, two)


def test_launcher_passes_a_schedulers_signal_on_to_the_ranks(fork_server, workspace, empty, two):
    arguments = (*MIXED, "runtime.processes=2")
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    command = [*launcher(2).split(), "coordexp.training.train", *arguments]
    with subprocess.Popen(
        command, cwd=empty, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(run.joinpath("logging.jsonl").exists)
        process.send_signal(signal.SIGUSR1)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert told.count("the same command continues") == 1, told
    assert (run / "state" / "state.pt").exists()
    for child in ranks(fork_server, empty, *arguments):
        assert child.wait().returncode == 0, child.stderr
    assert_same_run(run, two)
