"""The memory estimate: exact for weights, gradients and moments, near for activations."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import TINY_OVERRIDES
from torch.profiler import ProfilerActivity, profile
from transformers.modeling_layers import GradientCheckpointingLayer

from coordexp.config.compose import compose
from coordexp.coords import coord_token_ids
from coordexp.models.base import prepare_base
from coordexp.models.checkpoints import load_for_training
from coordexp.training.memory import amount, estimate
from coordexp.training.optim import build_optimizer
from coordexp.training.stage1_model import Stage1Model

pytestmark = pytest.mark.usefixtures("in_tmp")

# Large enough that activations need more memory than the temporary tensors of kernels.
OVERRIDES = (
    *(o for o in TINY_OVERRIDES if not re.search("hidden|layers|intermediate", o)),
    "model.text_layers=4",
    "model.text_hidden_size=64",
    "model.text_intermediate_size=160",
    "model.vision_layers=4",
    "model.vision_hidden_size=48",
    "model.vision_intermediate_size=120",
    "train.dtype=float32",
)
LORA = ("optim=lora", "optim.adapter.rank=8")
CHECKPOINTING = ("train.gradient_checkpointing=true",)
CASES = {
    "full": (),
    "checkpointed": CHECKPOINTING,
    "lora": LORA,
    "lora, checkpointed": (*LORA, *CHECKPOINTING),
    "dora": (*LORA, "optim.adapter.dora=true"),
    "bfloat16": ("train.dtype=bfloat16",),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, scenes):
    """A model ready to be trained, its objective, and a micro-batch of nine images."""
    cfg = compose([*OVERRIDES, *request.param])
    prepare_base(cfg)
    vlm, processor = load_for_training(cfg, torch.device("cpu"))
    objective = Stage1Model(vlm, cfg.variant, coord_token_ids(processor.tokenizer))
    return cfg, vlm, objective, scenes.dataset("val", processor).batch(range(9))


def peak_bytes(run) -> int:
    """The most memory that torch allocated while `run` ran, beyond what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [
        (e.start_ns(), e.nbytes())
        for e in profiler.profiler.kineto_results.events()
        if e.name() == "[memory]"
    ]
    allocated = peak = 0
    for _, n_bytes in sorted(events, key=lambda event: event[0]):
        allocated += n_bytes
        peak = max(peak, allocated)
    return peak


def test_the_estimate_is_near_what_torch_allocates(case):
    cfg, vlm, objective, batch = case
    counts = torch.tensor([float(batch.n_text), float(batch.n_coord)])
    optimizer = build_optimizer(vlm, cfg.optim)
    found = estimate(vlm, batch, ranks=1)

    def backward() -> None:
        objective(batch, counts).loss.backward()

    backward()
    optimizer.step()
    trained = [p for p in vlm.parameters() if p.requires_grad]
    moments = []
    for state in optimizer.state.values():
        moments += [state["exp_avg"], state["exp_avg_sq"]]
    assert found.weights == sum(p.nbytes for p in vlm.parameters())
    assert found.gradients == sum(p.grad.nbytes for p in trained)
    assert found.moments == sum(m.nbytes for m in moments)
    assert found.activations + found.head == pytest.approx(peak_bytes(backward), rel=0.35)


def checkpointing_of(vlm) -> list[bool]:
    layers = [m for m in vlm.modules() if isinstance(m, GradientCheckpointingLayer)]
    return [layer.gradient_checkpointing for layer in layers]


def hooks_of(vlm) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.modules()]


def test_estimating_leaves_the_model_unchanged(case):
    _, vlm, _, batch = case
    weights = {name: p.detach().clone() for name, p in vlm.named_parameters()}
    before = checkpointing_of(vlm), hooks_of(vlm)
    estimate(vlm, batch, ranks=1)
    assert vlm.training
    assert (checkpointing_of(vlm), hooks_of(vlm)) == before
    for name, p in vlm.named_parameters():
        assert torch.equal(p, weights[name]), name
        assert p.grad is None, name


def test_checkpointing_and_adapters_lower_the_estimate(scenes):
    found = {}
    for name in ("full", "checkpointed", "lora"):
        cfg = compose([*OVERRIDES, *CASES[name]])
        prepare_base(cfg)
        vlm, processor = load_for_training(cfg, torch.device("cpu"))
        batches = [scenes.dataset("val", processor).batch(range(n)) for n in (4, 8)]
        found[name] = [estimate(vlm, batch, ranks=1) for batch in batches]
    full, checkpointed, lora = (found[name][1] for name in ("full", "checkpointed", "lora"))
    assert checkpointed.activations < 0.6 * full.activations
    assert lora.gradients < 0.5 * full.gradients
    assert lora.moments == 2 * lora.gradients
    assert full.activations == pytest.approx(2 * found["full"][0].activations, rel=0.2)


def test_longer_micro_batches_and_more_ranks_cost_more(case):
    _, vlm, _, batch = case
    one, n_tokens = estimate(vlm, batch, ranks=1), batch.inputs["input_ids"].numel()
    longer = estimate(vlm, batch, ranks=2, tokens=3 * n_tokens)
    assert longer.activations == pytest.approx(3 * one.activations, rel=1e-6)
    assert longer.gradients == 2 * one.gradients
    assert estimate(vlm, batch, ranks=1, tokens=n_tokens // 2) == one
    assert amount(longer.peak) in longer.told()


def test_amounts_are_in_megabytes_or_gigabytes():
    assert (amount(8.87e9), amount(265.4e6), amount(0)) == ("8.9 GB", "265 MB", "0 MB")
