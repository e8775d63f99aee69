"""The road of a run on a GPU, where there is none: a pretended one refuses to mix devices, much as
CUDA does.

Trained, evaluated, checkpointed, killed, resumed and probed; by adapters around bfloat16 on packed
samples, and by every weight.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import ROOT, SMALL, ForkServer, Workspace, assert_same_run, environment, rows

from coordexp.models.checkpoints import load_base

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow

ON_GPU = tuple(override for override in SMALL if override != "runtime.device=cpu")
LORA = (
    *(
        "variant=mixed",
        "optim=lora",
        "train.dtype=bfloat16",
        "train.gradient_checkpointing=true",
        "train.micro_batch_tokens=300",
    ),
    *(
        "optim.lr=0.01",
        "optim.lr_vision=0.01",
        "optim.lr_aligner=0.01",
        "optim.lr_coord=0.01",
        *ON_GPU,
    ),
)
PROBE = (
    "probe.images=4",
    "probe.steps=2",
    "probe.images_per_step=2",
    "probe.micro_batch=2",
    "probe.rollout_batch=2",
)

REFUSED = {
    "torch.zeros(3, device='cuda') + torch.ones(3)": "not on the GPU",
    "torch.zeros(3).cuda()[torch.arange(3).to('cuda')].numpy()": "can't convert cuda:0",
    "torch.ones(3)[torch.tensor([0], device='cuda')]": "not on the GPU",
    "torch.cat([torch.ones(1, device='cuda'), torch.ones(())[None]])": "not on the GPU",
    "torch.zeros(3, device='cuda')[torch.tensor([0, 1])] = torch.ones(2)": "not on the GPU",
    "torch.nn.Linear(2, 2).to('cuda')(torch.ones(1, 2))": "not on the GPU",
}
TAKEN = (
    "x = torch.ones(3, device='cuda'); "
    "assert (x * torch.tensor(2.0) + x[torch.tensor([0])]).cpu().numpy().sum() == 9"
)


def test_what_cuda_refuses_is_refused_and_what_it_takes_is_taken():
    program = f"""
import torch
from simulated_gpu import pretend
pretend()
{TAKEN}
for refused in {list(REFUSED)}:
    try:
        exec(refused)
    except (RuntimeError, TypeError) as error:
        print(str(error).splitlines()[0])
    else:
        print("taken")
"""
    where = environment() | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line, says in zip(done.stdout.splitlines(), REFUSED.values(), strict=True):
        assert says in line


@pytest.fixture(scope="module")
def gpu(fork_server, tmp_path_factory):
    """Child processes that see a GPU, in a directory with data and base model."""
    path = tmp_path_factory.mktemp("gpu")
    prepared = fork_server.run(path, "prepare", *LORA, entry="cli")
    assert prepared.returncode == 0, prepared.stderr

    def run_on_gpu(*arguments: str, cwd: Path = path, dies: bool = False, **how) -> Path:
        child = fork_server.run(cwd, *arguments, SIMULATED_GPU="1", **how)
        assert child.returncode == (-signal.SIGKILL if dies else 0), child.stderr[-3000:]
        return cwd

    return Workspace(path), run_on_gpu


@pytest.fixture(scope="module")
def lora(gpu) -> Path:
    workspace, run_on_gpu = gpu
    run_on_gpu(*LORA)
    return workspace.run("mixed")


def test_adapters_learn_on_packs_and_the_merged_checkpoint_loads(lora):
    found = rows(lora)
    losses = [row["loss"] for row in found if "loss" in row]
    assert losses[-1] < losses[0]
    assert json.loads((lora / "run.json").read_text())["device"] == "cuda:0"
    plain, _ = load_base(lora / "checkpoints" / "step-000008", torch.bfloat16)
    assert plain.config._attn_implementation == "sdpa"


def test_killed_between_two_states_it_ends_as_if_nothing_had_happened(gpu, lora, tmp_path):
    workspace, run_on_gpu = gpu
    again = Workspace(workspace.empty_copy(tmp_path))
    run_on_gpu(
        *LORA, cwd=again.path, dies=True, fault=("die_before", "os.rename", "step-000006.parquet")
    )
    run_on_gpu(*LORA, cwd=again.path)
    assert_same_run(again.run("mixed"), lora)


def test_its_checkpoint_is_probed_by_adapters(gpu, lora):
    workspace, run_on_gpu = gpu
    copied = Path(shutil.copytree(lora, workspace.path / "copied"))
    run_on_gpu(
        "probe",
        "copied",
        *PROBE,
        "probe.adapter_rank=4",
        "probe.gradient_checkpointing=true",
        entry="cli",
    )
    (manifest,) = copied.glob("stage2/*/probe.json")
    found = json.loads(manifest.read_text())
    assert (found["status"], found["device"], found["images"], found["steps"]) == (
        "complete",
        "cuda",
        4,
        2,
    )


def test_every_weight_is_trained_and_evaluated_as_on_the_cpu(
    gpu, fork_server: ForkServer, tmp_path
):
    workspace, run_on_gpu = gpu
    cpu, whole = (
        Workspace(workspace.empty_copy(tmp_path)),
        ("variant=softce_w1_gate", *ON_GPU, "train.max_steps=4"),
    )
    run_on_gpu(*whole)
    assert fork_server.run(cpu.path, *whole, "runtime.device=cpu").returncode == 0
    runs = [place.run("softce_w1_gate") for place in (workspace, cpu)]
    assert [json.loads((run / "run.json").read_text())["device"] for run in runs] == [
        "cuda:0",
        "cpu",
    ]
    on_gpu, on_cpu = map(rows, runs)
    for row, expected in zip(on_gpu, on_cpu, strict=True):
        assert row.pop("global_step/max_steps") == expected.pop("global_step/max_steps")
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
