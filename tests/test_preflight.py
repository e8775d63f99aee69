"""The pre-flight: what it compares, which faults it names, and that it leaves no trace."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import VARIANTS
from planted import FAULTS
from two_ranks import training

from coordexp.models.adapters import add_adapters
from coordexp.training.preflight import passes
from coordexp.training.preflight.checks import preflight
from coordexp.training.preflight.passes import formula_pass, training_pass
from coordexp.training.preflight.projection import project
from coordexp.training.preflight.windows import configured_cut, other_cut, small_images
from coordexp.training.step import Training, load_window, optimizer_step

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

WINDOW = ("train.images_per_step=4", "train.micro_batch=2")
# What the message says of each planted fault, for a variant with two token groups.
NAMED = {
    "halved backward": ("reference formula", "the backward pass is scaled"),
    "coordinates over their count again": (
        "reference formula",
        "1 over their number",
        "a token group is divided twice",
    ),
    "coordinates over the accumulation": (
        "cut otherwise",
        "1 over the number of micro-batches, 2",
        "a token group is divided twice",
    ),
    "mean of means": ("cut otherwise", "a mean of micro-batch means"),
}


def of_dtype(tiny: Any, scenes: Any, variant: str, dtype: str, *overrides: str) -> Training:
    vlm = copy.deepcopy(tiny.vlm).to(getattr(torch, dtype))
    cast = replace(tiny, vlm=vlm)
    return training(cast, scenes, variant, f"train.dtype={dtype}", *WINDOW, *overrides)


def adapted(tiny: Any, scenes: Any, *overrides: str) -> Training:
    """With DoRA, dropout and gradient checkpointing, and random weights in the adapters."""
    base = replace(tiny, vlm=copy.deepcopy(tiny.vlm).float())
    given = (
        "optim.adapter.rank=2",
        "optim.adapter.dora=true",
        "optim.adapter.dropout=0.3",
        "train.dtype=float32",
        "optim.lr_coord=0.01",
        *WINDOW,
        *overrides,
    )
    ids = tiny.stage1("mixed").coord_ids.tolist()
    cfg = training(base, scenes, "mixed", *given).cfg
    add_adapters(base.vlm, cfg.optim.adapter, ids, seed=0)
    base.vlm.activation_checkpointing_enable({"use_reentrant": False})
    with torch.no_grad():
        for name, parameter in base.vlm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return training(base, scenes, "mixed", *given)


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_float64_all_ways_agree_to_ten_digits(tiny, scenes, variant):
    found = preflight(training(tiny, scenes, variant, "train.micro_batch=4"))
    assert found.relative_difference < 1e-12
    assert found.cut.micro_batches == [2, 4]
    assert found.reference.micro_batches == [1, 2]
    for one in (found.cut, found.reference):
        assert set(one.projection_difference) == {"vision", "aligner", "language"}
        assert max(one.projection_difference.values()) < 1e-10
        assert max(one.loss_difference, one.norm_difference) < 1e-10 < one.norm


def test_adapters_dropout_and_checkpointing_agree(tiny, scenes):
    t = adapted(tiny, scenes)
    layers = [m for m in t.model.modules() if hasattr(m, "attention_dropout")]
    for layer in layers:
        layer.attention_dropout = 0.2
    found = preflight(t)
    assert {layer.attention_dropout for layer in layers} == {0.2}
    for one in (found.cut, found.reference):
        assert set(one.projection_difference) == {"vision", "aligner", "language", "coord"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(tiny, scenes, fault, dtype, refused):
    t = of_dtype(tiny, scenes, "mixed", dtype)
    with FAULTS[fault](), refused("pre-flight: ", *NAMED[fault]) as error:
        preflight(t)
    if fault == "halved backward":  # bfloat16 measures a factor to a few per cent
        (factor,) = re.findall(r"it is ([\d.]+) of what it must be", str(error.value))
        assert float(factor) == pytest.approx(0.5, rel=1e-4 if dtype == "float32" else 0.02)
    assert all(p.grad is None for p in t.model.parameters())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("halved backward", "the backward pass is scaled"),
        ("coordinates over their count again", "1 over their number"),
        ("coordinates over the accumulation", "the loss is scaled"),
        ("mean of means", "a mean of micro-batch means"),
    ],
)
def test_a_planted_fault_is_named_with_one_token_group(tiny, scenes, fault, words, refused):
    with FAULTS[fault](), refused("pre-flight: ", words):
        preflight(of_dtype(tiny, scenes, "pure_ce", "bfloat16"))


def test_one_picture_a_micro_batch_shows_a_mean_of_means(tiny, scenes, refused):
    t = of_dtype(tiny, scenes, "mixed", "float32", "train.micro_batch=1")
    with FAULTS["mean of means"](), refused("a mean of micro-batch means"):
        preflight(t)


def test_a_fault_of_the_loss_alone_is_refused(tiny, scenes, refused):
    t = of_dtype(tiny, scenes, "mixed", "float32")
    whole = t.model.forward

    def forward(*given: Any, **how: Any) -> Any:
        output = whole(*given, **how)
        return replace(output, loss=output.loss + (0.25 * output.loss).detach())

    with mock.patch.object(t.model, "forward", forward), refused("loss", "1.25 of it"):
        preflight(t)


def test_a_model_that_is_not_finite_is_refused(tiny, scenes, refused):
    t = of_dtype(tiny, scenes, "mixed", "float32")
    with torch.no_grad():
        next(iter(t.model.parameters())).fill_(torch.nan)
    with refused("pre-flight: before the first step the loss is nan"):
        preflight(t)


@pytest.mark.parametrize("kind", ["every weight", "adapters"])
def test_training_is_bit_equal_after_a_preflight(tiny, scenes, kind):
    weights = []
    for before in (preflight, lambda _: None):
        t = (
            adapted(tiny, scenes)
            if kind == "adapters"
            else of_dtype(tiny, scenes, "mixed", "float32")
        )
        random, modes = torch.get_rng_state(), [m.training for m in t.model.modules()]
        before(t)
        assert torch.equal(torch.get_rng_state(), random)
        assert [m.training for m in t.model.modules()] == modes
        assert all(p.grad is None for p in t.model.parameters())
        rows = [optimizer_step(t, load_window(t, step), step) for step in (1, 2)]
        weights.append(([p.detach().clone() for p in t.model.parameters()], rows, t.progress))
    (with_one, rows, progress), (without, other_rows, other_progress) = weights
    assert all(map(torch.equal, with_one, without))
    assert rows == other_rows
    assert torch.equal(progress.window_sums, other_progress.window_sums)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("cut", ["micro_batch=4", "micro_batch=1", "micro_batch_tokens=150"])
def test_the_other_cut_has_the_same_tokens_in_more_pieces(tiny, scenes, cut, packed):
    t = training(tiny, scenes, "mixed", f"train.{cut}")
    with mock.patch("coordexp.training.step.takes_packs", return_value=packed):
        windows = configured_cut(t), other_cut(t)
    assert len(windows[1]) == 2 * len(windows[0])
    counts = [sum(len(b.rows) for b in window) for window in windows]
    assert counts[0] == counts[1]
    largest = [max(b.inputs["input_ids"].numel() for b in window) for window in windows]
    assert largest[1] <= largest[0]


def test_chunks_of_rows_change_nothing_in_the_formula(tiny, scenes):
    t = training(tiny, scenes, "mixed")
    whole = formula_pass(t, small_images(t))
    with mock.patch.object(passes, "LOGITS_BYTES", 1):
        by_row = formula_pass(t, small_images(t))
    assert by_row.loss == pytest.approx(whole.loss, rel=1e-12)
    assert max(by_row.gradient.differences(whole.gradient).values()) < 1e-12


def test_a_projection_is_linear_and_keeps_lengths(tiny, scenes):
    """So a difference of projections tells the length of the difference of gradients."""
    t = training(tiny, scenes, "mixed")
    first = training_pass(t, load_window(t, 1)).gradient
    kept = [p.grad.clone() for p in t.model.parameters()]
    second = training_pass(t, load_window(t, 2)).gradient
    for parameter, other in zip(t.model.parameters(), kept, strict=True):
        parameter.grad -= other
    gap = project(t.model, t.accelerator)
    torch.testing.assert_close(gap.values, second.values - first.values, rtol=1e-9, atol=1e-12)
    lengths = gap.values.norm(dim=-1)
    torch.testing.assert_close(lengths, gap.norms, rtol=0.15, atol=0)


@pytest.mark.parametrize("number", range(3))
def test_random_clean_configurations_raise_no_alarm(number, scenes_of_benchmark):
    from preflight import one

    _, found, message = one(Random(f"suite {number}"), scenes_of_benchmark, "")
    assert not message
    assert found


@pytest.fixture(scope="module")
def scenes_of_benchmark(tmp_path_factory):
    from preflight import prepare

    return prepare(tmp_path_factory.mktemp("benchmark"))
