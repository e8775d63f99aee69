"""The fused objective against the reference on full logits: every number, every gradient, however the rows are cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from coordexp.config.compose import compose
from coordexp.config.schema import VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses import fused, products, reference
from coordexp.losses.terms import SUMS

D, V, FIRST = 12, 1300, 250  # hidden size, vocabulary, id of bin 0
SETTINGS = (
    {},
    {"temperature": 1.0},
    {"sigma_bins": 3.5, "radius_bins": 20},
    {"sigma_bins": 0.6, "radius_bins": 1},
)
KINDS = {
    "both": (23, 31),
    "no coordinates": (40, 0),
    "no text": (0, 29),
    "one row": (1, 0),
    "nothing": (0, 0),
}


def variant_of(name: str, **changed: float) -> VariantConfig:
    return replace(OmegaConf.to_object(compose([f"variant={name}"]).variant), **changed)


def rows_of(
    n_text: int, n_coord: int, dtype=torch.float64, seed: int = 0, shuffled_ids: bool = False
) -> dict:
    """Hidden states, head and targets, text and coordinates mixed; logits of a spread like a trained model's."""
    g = torch.Generator().manual_seed(seed)
    n = n_text + n_coord
    ids = torch.arange(FIRST, FIRST + N_BINS)
    ids = ids[torch.randperm(N_BINS, generator=g)] if shuffled_ids else ids
    bins = torch.full((n,), -1)
    bins[torch.randperm(n, generator=g)[:n_coord]] = torch.randint(
        0, N_BINS, (n_coord,), generator=g
    )
    words = torch.cat([torch.arange(FIRST), torch.arange(FIRST + N_BINS, V)])
    targets = words[torch.randint(0, len(words), (n,), generator=g)]
    targets[bins >= 0] = ids[bins[bins >= 0]]
    hidden = torch.randn(n, D, generator=g, dtype=torch.float64)
    weight = torch.randn(V, D, generator=g, dtype=torch.float64)
    hidden += weight[targets] * torch.rand(
        n, 1, generator=g, dtype=torch.float64
    )  # so that some targets are hit
    made = {"hidden": hidden.to(dtype), "weight": weight.to(dtype)}
    return made | {
        "targets": targets,
        "bins": bins,
        "coord_ids": ids,
        "denominators": torch.tensor([n_text + 7.0, n_coord + 5.0]),
    }


def outcome(
    objective, made: dict, variant: VariantConfig, scale: float = 1.0, **how
) -> dict[str, torch.Tensor]:
    """Everything there is to compare: loss, sums, columns, gradients."""
    leaves = {
        name: made[name].clone().requires_grad_()
        for name in ("hidden", "weight", "coord_weight")
        if name in made
    }
    output = objective(**(made | leaves), variant=variant, **how)
    (output.loss * scale).backward()
    columns = {name: values.double() for name, values in output.columns.items()}
    gradients = {f"d {name}": leaf.grad.double() for name, leaf in leaves.items()}
    return {"loss": output.loss.detach().double(), "sums": output.sums, **columns, **gradients}


def assert_same(found: dict, expected: dict, tolerance: float, least: float = 1e-300) -> None:
    """Relative to the largest number of each tensor, or to `least` where all are smaller."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        if values.numel():
            error = (found[name] - values).abs().max() / values.abs().max().clamp(min=least)
            assert error <= tolerance or (found[name] == values).all(), f"{name}: {error:.1e}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", SETTINGS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_reference_in_float64(name, changed, kind):
    made, variant = rows_of(*KINDS[kind]), variant_of(name, **changed)
    expected = outcome(reference.objective, made, variant)
    for chunk in (1, 7, 128, None):
        assert_same(outcome(fused.objective, made, variant, chunk_rows=chunk), expected, 1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_sums_one_by_one(name):
    """A small sum beside a large one is still right to twelve digits."""
    made, variant = rows_of(40, 60), variant_of(name)
    found, expected = (
        outcome(f, made, variant)["sums"] for f in (fused.objective, reference.objective)
    )
    for key, a, b in zip(SUMS, found.tolist(), expected.tolist(), strict=True):
        assert a == pytest.approx(b, rel=1e-12), key
    assert expected[SUMS.index("text_hits")] > 0
    assert expected[SUMS.index("coord_hits")] > 0


@pytest.mark.parametrize("shuffled", [False, True], ids=["bins in order", "ids shuffled"])
@pytest.mark.parametrize("name", VARIANTS)
def test_coordinate_rows_of_their_own(name, shuffled):
    """An adapter's rows stand in for the head's; all of their gradient is theirs, and none is the head's."""
    made, variant = rows_of(20, 30, shuffled_ids=shuffled), variant_of(name)
    made["coord_weight"] = made["weight"][made["coord_ids"]] + 0.1 * torch.randn(
        N_BINS, D, dtype=torch.float64
    )
    expected = outcome(reference.objective, made, variant)
    found = outcome(fused.objective, made, variant, chunk_rows=7)
    assert_same(found, expected, 1e-12)
    assert found["d coord_weight"].abs().max() > 0
    assert not found["d weight"][made["coord_ids"]].any()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_frozen_head_has_no_gradient(name):
    made, variant = rows_of(20, 30), variant_of(name)
    expected = outcome(reference.objective, made, variant)
    hidden = made["hidden"].clone().requires_grad_()
    made_frozen = made | {"hidden": hidden}
    fused.objective(**made_frozen, variant=variant).loss.backward()
    assert (hidden.grad - expected["d hidden"]).abs().max() <= 1e-12 * expected[
        "d hidden"
    ].abs().max()
    bins = made["weight"][made["coord_ids"]].requires_grad_()
    fused.objective(**made, coord_weight=bins, variant=variant).loss.backward()
    assert (bins.grad - expected["d weight"][made["coord_ids"]]).abs().max() <= 1e-12 * expected[
        "d weight"
    ].abs().max()


@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_and_what_stands_behind_the_loss_scale_the_gradient(name):
    made, variant = rows_of(20, 30), variant_of(name)
    assert_same(
        outcome(fused.objective, made, variant, scale=-2.5, world=4),
        outcome(reference.objective, made, variant, scale=-2.5, world=4),
        1e-12,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_without_gradients_it_is_the_same_and_keeps_the_bins_logits(name):
    made, variant = rows_of(20, 30), variant_of(name)
    trained = fused.objective(
        **(made | {"weight": made["weight"].clone().requires_grad_()}),
        variant=variant,
        chunk_rows=7,
    )
    with torch.no_grad():
        found, expected = (f.objective(**made, variant=variant) for f in (fused, reference))
    assert trained.coord_logits is None
    assert (
        found.coord_logits - expected.coord_logits
    ).abs().max() <= 1e-12 * expected.coord_logits.abs().max()
    assert not found.loss.requires_grad
    assert found.loss.item() == pytest.approx(trained.loss.item(), rel=1e-13)
    assert (found.sums - trained.sums).abs().max() <= 1e-12 * found.sums.abs().max()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n_text=st.integers(0, 9),
    n_coord=st.integers(0, 9),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    weights=st.tuples(*[st.sampled_from([0.0, 0.3, 2.0])] * 4).filter(any),
    temperature=st.floats(0.3, 3.0),
    chunk=st.integers(1, 20),
)
def test_any_split_variant(seed, n_text, n_coord, spread, weights, temperature, chunk):
    made = rows_of(n_text, n_coord, seed=seed)
    made["hidden"] = made["hidden"] * spread
    soft_ce, w1, gate, ce = weights
    variant = variant_of("mixed", soft_ce=soft_ce, w1=w1, gate=gate, ce=ce, temperature=temperature)
    expected = outcome(reference.objective, made, variant)
    found = outcome(fused.objective, made, variant, chunk_rows=chunk)
    assert_same(
        found, expected, 1e-10, least=1e-4
    )  # where all mass is on the bins the gate's gradient is what cancels


def test_gradients_are_handed_over_once():
    made = rows_of(5, 5)
    made["hidden"].requires_grad_()
    loss = fused.objective(**made, variant=variant_of("mixed")).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradients over once"):
        loss.backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_not_finite_stays_so(name, bad):
    made = rows_of(5, 5)
    made["hidden"][0] = bad
    assert not torch.isfinite(fused.objective(**made, variant=variant_of(name)).loss)


@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("name", VARIANTS)
def test_half_precision_is_no_worse_than_full_logits_in_it(name, how):
    variant, exact = variant_of(name), rows_of(60, 90)
    dtype = torch.float16 if how == "float16" else torch.bfloat16
    exact = exact | {key: exact[key].to(dtype).double() for key in ("hidden", "weight")}
    expected = outcome(reference.objective, exact, variant)
    made = {
        k: v.to(torch.float32 if how == "autocast" else dtype) if v.dtype == torch.float64 else v
        for k, v in exact.items()
    }
    made["denominators"] = exact["denominators"]
    scale = (
        1024.0 if how == "float16" else 1.0
    )  # as a loss scaler would: the reference loses its gradients to underflow
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        found, full = (
            outcome(f, made, variant, scale=scale) for f in (fused.objective, reference.objective)
        )
    for key in ("loss", "sums", "abs_err", "coord_mass", "d hidden", "d weight"):
        against = expected[key] * (scale if key.startswith("d ") else 1.0)
        errors = [
            float((result[key] - against).norm() / against.norm()) for result in (found, full)
        ]
        assert errors[0] <= 1e-2, (key, errors)
        if key not in (
            "loss",
            "sums",
        ):  # a few numbers in which errors cancel: which is nearer is chance
            assert errors[0] <= 1.05 * errors[1], (key, errors)


@pytest.mark.parametrize("name", ["pure_ce", "mixed"])
def test_it_can_be_compiled(name):
    made, variant = rows_of(9, 11), variant_of(name)
    expected = outcome(fused.objective, made, variant, chunk_rows=8)
    compiled = torch.compile(fused.objective, backend="aot_eager")
    assert_same(outcome(compiled, made, variant, chunk_rows=8), expected, 1e-12)


def test_chunks_follow_the_vocabulary():
    assert products.rows_at_once(152_670, "cpu", torch.float32) == 128
    assert products.rows_at_once(1 << 40, "cuda", torch.float32) == 1
    assert (
        products.rows_at_once(1392, "cpu", torch.float32) * 1392 * 4 <= products.CHUNK_BYTES["cpu"]
    )
    assert products.chunk_bytes(100, 1392, "cpu", torch.float32) == 100 * 1392 * 4
    assert products.chunk_bytes(100, 1392, "cpu", torch.bfloat16) == 100 * 1392 * 6
