"""The trainer disturbed: kills, second trainers, damaged files, a full disk, a loss that is not
finite.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from training import (
    MIXED,
    assert_same_run,
    change_input,
    contents,
    flip_byte,
    names,
    only,
    wait_for,
)

from coordexp.training.train import DIVERGED

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow


def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(fork_server, workspace, empty):
    """Ten kills from outside, two of them while starting up; one more child finishes the run."""
    draw = random.Random(0)
    log = empty / workspace.run("mixed").relative_to(workspace.path) / "logging.jsonl"
    logged = lambda: log.read_bytes().count(b"\n") if log.exists() else 0  # noqa: E731
    for least_rows in (0, 0, *sorted(draw.randrange(0, 5) for _ in range(8))):
        child = fork_server.start(empty, *MIXED)
        wait_for(lambda least_rows=least_rows: logged() >= least_rows)
        time.sleep(draw.uniform(0.0, 0.4 if least_rows == 0 else 0.04))
        child.signal(signal.SIGKILL)
        assert child.wait().returncode == -signal.SIGKILL
        if draw.random() < 0.5 and log.exists():  # what a power cut may leave
            with open(log, "a") as handle:
                handle.write('{"global_step/max_steps": "6/8", "lo')
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(log.parent, workspace.run("mixed"))


CRASHES = (
    ("os.rename", "config.yaml"),
    ("os.rename", "state.pt"),  # of step 0
    ("open", "logging.jsonl"),  # the first row: its token table is there
    ("os.rename", "step-000002.parquet"),
    ("os.rename", "state.pt"),  # of step 2
    ("os.mkdir", ".step-000004.tmp"),
    ("open", ".step-000004.tmp", 3),  # inside the checkpoint
    ("os.rename", "step-000004"),
    ("os.rename", "state.pt"),  # of step 4, the checkpoint is there
    # The row of steps 4 to 6, a window that the state of step 4 left open.
    (
        "open",
        "logging.jsonl",
        3,
    ),
    ("os.rename", "step-000006.parquet"),
    ("os.rename", "step-000008.parquet"),
    ("open", ".step-000008.tmp", 2),
    ("os.rename", "run.json"),
    ("shutil.rmtree", "state"),  # sealed, its state still there
)


def test_killed_before_each_kind_of_write_it_resumes_bit_for_bit(fork_server, workspace, empty):
    for crash in CRASHES:
        child = fork_server.run(empty, *MIXED, fault=("die_before", *crash))
        assert child.returncode == -signal.SIGKILL, (crash, child.stdout, child.stderr)
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(
        empty / workspace.run("mixed").relative_to(workspace.path), workspace.run("mixed")
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_asked_to_stop_it_ends_after_the_step_and_continues(
    fork_server, workspace, empty, number, code
):
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    # Within a step, an evaluation, a checkpoint and a state; the row of steps 4 to 6 is open.
    for *event, step in (
        ("os.rename", "state.pt", 1, 0),
        ("os.rename", "step-000002.parquet", 1, 2),
        ("open", "logging.jsonl", 1, 3),
        ("open", ".step-000004.tmp", 3, 4),
        ("os.rename", "step-000006.parquet", 1, 6),
    ):
        child = fork_server.run(empty, *MIXED, fault=("signal_before", number, 1, *event))
        assert child.returncode == code, (event, child.stdout, child.stderr)
        line = child.stderr.strip().replace("\r", "\n").splitlines()[-1]
        told = f"interrupted at step {step}/8: the same command continues"
        assert line == f"coordexp-train: mixed s0: {told}"
        assert (run / "state" / "state.pt").exists()
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(run, workspace.run("mixed"))


TRAIN, SETUP = "coordexp.training.train", "coordexp.training.setup"
# Where a signal comes, and the step at which the run then stops.
MOMENTS = (
    (SETUP, "preflight", 1, 0),  # first: a run with a state does not repeat it
    (SETUP, "load_for_training", 1, 0),
    (TRAIN, "loop", 1, 0),
    (TRAIN, "load_window", 2, 1),  # in the thread that reads the data of the next step
    (TRAIN, "optimizer_step", 1, 2),
    (TRAIN, "save_checkpoint", 1, 4),
    (TRAIN, "evaluate", 1, 6),
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_at_any_moment_of_a_step_ends_it_after_the_step(
    fork_server, workspace, empty, number
):
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    for module, function, count, step in MOMENTS:
        child = fork_server.run(empty, *MIXED, fault=("signal_in", number, module, function, count))
        assert child.returncode == 75, (function, child.stdout, child.stderr)
        assert f"interrupted at step {step}/8: the same command continues" in child.stderr
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(run, workspace.run("mixed"))


@pytest.mark.parametrize("function", ["input_digests", "remove_leftovers", "verify_finished"])
def test_a_signal_before_the_first_step_means_start_again(fork_server, workspace, empty, function):
    """While the data are hashed, or the lock has just been taken: there is no step to end."""
    child = fork_server.run(empty, *MIXED, fault=("signal_in", signal.SIGUSR1, TRAIN, function))
    told = "coordexp-train: interrupted before its first step: the same command starts again"
    assert (child.returncode, child.stderr.strip()) == (75, told)
    assert not (empty / workspace.run("mixed").relative_to(workspace.path) / "state").exists()


def test_signal_in_the_last_step_lets_the_run_end(fork_server, workspace, empty):
    fault = ("signal_before", signal.SIGTERM, 1, "os.rename", "step-000008.parquet")
    assert fork_server.run(empty, *MIXED, fault=fault).returncode == 0
    assert_same_run(
        empty / workspace.run("mixed").relative_to(workspace.path), workspace.run("mixed")
    )


def test_second_ctrl_c_stops_at_once(fork_server, workspace, empty):
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    fault = ("signal_before", signal.SIGINT, 2, "os.rename", "step-000002.parquet")
    child = fork_server.run(empty, *MIXED, fault=fault)
    assert child.returncode == 130
    assert child.stderr.endswith("coordexp-train: interrupted: the same command continues\n")
    assert not (run / "eval" / "step-000002.parquet").exists()
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(run, workspace.run("mixed"))


@pytest.mark.parametrize(
    ("state", "moved"), [("finished", 1), ("finished", 2), ("finished", 3), ("unfinished", 2)]
)
def test_killed_while_setting_aside_keeps_old_and_new_run_apart(
    fork_server, empty, request, state, moved
):
    run = request.getfixturevalue(state)
    change_input(empty, "data")
    assert (
        fork_server.run(
            empty, *MIXED, fault=("die_before", "os.rename", ".aside-", moved + 1)
        ).returncode
        == -signal.SIGKILL
    )
    started_ns = time.time_ns()
    assert (
        fork_server.run(empty, *MIXED, fault=("die_before", "os.rename", "state.pt")).returncode
        == -signal.SIGKILL
    )
    assert not [
        name for name, (_, modified_ns) in contents(run).items() if modified_ns < started_ns
    ]


def test_second_trainer_is_refused_or_waits(fork_server, workspace, empty):
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    first = fork_server.start(empty, *MIXED)
    wait_for((run / "logging.jsonl").exists)
    first.signal(signal.SIGSTOP)
    before = contents(run)
    line = fork_server.run(empty, *MIXED).refusal()
    assert f"process {first.pid} " in line
    assert contents(run) == before
    waiting = fork_server.start(empty, *MIXED, "runtime.wait=true")
    wait_for(lambda: f"process {first.pid} " in waiting.stderr)
    assert waiting.poll() is None
    first.signal(signal.SIGCONT)
    assert first.wait().returncode == 0, first.stderr
    assert waiting.wait().returncode == 0, waiting.stderr
    assert_same_run(run, workspace.run("mixed"))


def test_finished_run_is_verified_and_only_touched(fork_server, empty, finished):
    before = contents(finished)
    child = fork_server.run(empty, *MIXED)
    after = contents(finished)
    assert child.returncode == 0, child.stderr
    assert after["run.json"][0] == before["run.json"][0]
    assert after.pop("run.json")[1] > before.pop("run.json")[1]
    assert after == before


@pytest.mark.parametrize(
    "artifact",
    ["eval/step-000004.parquet", "checkpoints/step-000008/model.safetensors", "logging.jsonl"],
)
def test_a_finished_run_with_a_damaged_artifact_is_refused_and_kept(
    fork_server, empty, finished, artifact
):
    flip_byte(finished / artifact, 100)
    before = contents(finished)
    child = fork_server.run(empty, *MIXED)
    assert artifact.split("/model")[0] in child.refusal()
    assert len(child.stderr.splitlines()) == 1
    assert contents(finished) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_state_is_refused_and_kept(fork_server, empty, unfinished, damage):
    state = unfinished / "state" / "state.pt"
    if damage == "flip":
        flip_byte(state, state.stat().st_size // 2)
    else:
        os.truncate(state, {"truncate": state.stat().st_size - 100, "empty": 0}[damage])
    before = contents(unfinished)
    child = fork_server.run(empty, *MIXED)
    assert str(state.relative_to(empty)) in child.refusal()
    assert len(child.stderr.splitlines()) == 1
    assert contents(unfinished) == before


# --- a full disk ---

DISK_BYTES = 8 << 20
PLACES = (
    ("open", ".config.yaml"),
    ("open", ".state.pt"),  # of step 0
    ("os.mkdir", "eval"),  # before the first token table
    ("open", "logging.jsonl"),
    ("open", ".state.pt"),
    ("os.mkdir", ".step-000004.tmp", 64 << 10),  # enough for the small files, not for the weights
    ("os.mkdir", ".step-000004.tmp"),
    ("open", ".run.json"),
)


@pytest.fixture
def small_disk(empty):
    """results/runs lies on a small disk of its own."""
    runs = empty / "results" / "runs"
    runs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(runs)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield runs
    subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_full_disk_is_one_line_and_nothing_is_lost(fork_server, workspace, small_disk):
    cwd, ballast = small_disk.parents[1], small_disk / "ballast"
    run = cwd / workspace.run("mixed").relative_to(workspace.path)
    for event, word, *spare_bytes in PLACES:
        before = contents(run) if run.exists() else {}
        child = fork_server.run(
            cwd, *MIXED, fault=("fill_disk_before", event, word, str(ballast), *spare_bytes)
        )
        ballast.unlink()
        line = child.refusal()
        assert "the disk is full" in line, (event, word, line)
        assert str(run.relative_to(cwd)) in line
        assert_nothing_lost(before, contents(run))
    assert fork_server.run(cwd, *MIXED).returncode == 0
    assert_same_run(run, workspace.run("mixed"))


def test_full_disk_at_fsync_is_one_line_and_nothing_is_lost(
    fork_server, workspace, empty, unfinished
):
    """Where writes are delayed (quotas, network disks) the news comes with fsync."""
    for word in (
        ".step-000006.parquet",
        "logging.jsonl",
        "state.pt",
        ".step-000008.tmp",
        "run.json",
    ):
        before = contents(unfinished)
        line = fork_server.run(empty, *MIXED, fault=("fail_sync_of", word)).refusal()
        assert "the disk is full" in line, (word, line)
        assert_nothing_lost(before, contents(unfinished))
    assert fork_server.run(empty, *MIXED).returncode == 0
    assert_same_run(unfinished, workspace.run("mixed"))


def test_starting_on_a_full_disk_costs_one_line(fork_server, small_disk):
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(DISK_BYTES + 1))
    assert "the disk is full" in fork_server.run(small_disk.parents[1], *MIXED).refusal()


def assert_nothing_lost(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]
) -> None:
    """What was there is there, unchanged; only the log may have grown, and a later state replaced
    an earlier one.
    """
    for name in set(before) - {"logging.jsonl", "state/state.pt"}:
        assert after[name][0] == before[name][0], name
    assert set(after) >= set(before)


# --- a loss that is not finite; a broken normalisation ---


@pytest.mark.parametrize("logging_steps", [1, 8])
def test_a_run_that_diverges_is_sealed_with_the_step_and_says_so(fork_server, empty, logging_steps):
    """A learning rate of 1e30, its first step checkpointed; the second has no finite loss."""
    arguments = (
        *MIXED,
        "optim.lr=1e30",
        "train.checkpoint_steps=1",
        f"train.logging_steps={logging_steps}",
    )
    child = fork_server.run(empty, *arguments)
    assert child.returncode == DIVERGED, child.stderr
    run = only(empty / "results" / "runs" / "mixed")
    manifest = json.loads((run / "run.json").read_text())
    assert (manifest["status"], manifest["step"], manifest["checkpoints"]) == ("diverged", 1, [1])
    assert "step 2" in manifest["reason"]
    assert manifest["reason"] in child.stdout
    weights = load_file(run / "checkpoints" / "step-000001" / "model.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())
    assert not (run / "state").exists()
    before = contents(run)
    assert fork_server.run(empty, *arguments).returncode == DIVERGED
    assert fork_server.run(empty, *arguments, "runtime.diverged_ok=true").returncode == 0
    assert {name: sha256 for name, (sha256, _) in contents(run).items()} == {
        name: sha256 for name, (sha256, _) in before.items()
    }


def test_a_run_whose_last_evaluation_is_not_finite_is_no_complete_run(fork_server, empty):
    """There is no later step whose loss would tell."""
    child = fork_server.run(empty, *MIXED, "optim.lr=1e30", "train.max_steps=1")
    assert child.returncode == DIVERGED, child.stderr
    run = only(empty / "results" / "runs" / "mixed")
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["status"] == "diverged"
    assert "step 1" in manifest["reason"]
    assert "NaN" not in (run / "logging.jsonl").read_text(), "not JSON"


@pytest.mark.parametrize(
    ("fault", "words"),
    [("divide_loss_again", "0.25 of it"), ("halve_backward", "the backward pass is scaled")],
)
def test_a_broken_normalisation_stops_the_run_before_its_first_step(
    fork_server, workspace, empty, fault, words
):
    child = fork_server.run(empty, *MIXED, fault=(fault,))
    assert "pre-flight: " in child.refusal()
    assert words in child.refusal()
    assert len(child.stderr.splitlines()) == 1
    run = empty / workspace.run("mixed").relative_to(workspace.path)
    assert names(run) == {".lock"}
