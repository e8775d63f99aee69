"""The fused objective against the reference on full logits: values, gradients, chunk sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS, composed
from hypothesis import given, settings
from hypothesis import strategies as st

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
    return replace(composed(f"variant={name}").variant, **changed)


def rows_of(
    n_text: int, n_coord: int, dtype=torch.float64, seed: int = 0, shuffled_ids: bool = False
) -> dict:
    """Arguments of the objective: text and coordinates mixed, logits as of a trained model."""
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
    # Towards the target's row, so that some targets have the highest logit.
    hidden += weight[targets] * torch.rand(n, 1, generator=g, dtype=torch.float64)
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
    """Loss, sums, columns and gradients of an objective, float64."""
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
    """Errors relative to each tensor's largest value, or to `least` where all are smaller."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        if values.numel():
            error = (found[name] - values).abs().max() / values.abs().max().clamp(min=least)
            assert error <= tolerance or (found[name] == values).all(), f"{name}: {error:.1e}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", SETTINGS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_fused_equals_the_reference_in_float64(name, changed, kind):
    made, variant = rows_of(*KINDS[kind]), variant_of(name, **changed)
    expected = outcome(reference.objective, made, variant)
    for chunk in (1, 7, 128, None):
        assert_same(outcome(fused.objective, made, variant, chunk_rows=chunk), expected, 1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_sum_equals_the_references(name):
    """Each on its own scale: a small sum beside a large one has twelve right digits too."""
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
def test_separate_coordinate_rows_take_all_their_gradient(name, shuffled):
    """Rows of an adapter replace the head's rows of the bins, which then get no gradient."""
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
    d_hidden, d_weight = expected["d hidden"], expected["d weight"]
    assert (hidden.grad - d_hidden).abs().max() <= 1e-12 * d_hidden.abs().max()
    bins = made["weight"][made["coord_ids"]].requires_grad_()
    fused.objective(**made, coord_weight=bins, variant=variant).loss.backward()
    assert (bins.grad - d_weight[made["coord_ids"]]).abs().max() <= 1e-12 * d_weight.abs().max()


@pytest.mark.parametrize("name", VARIANTS)
def test_world_size_and_outer_factors_scale_the_gradient(name):
    made, variant = rows_of(20, 30), variant_of(name)
    assert_same(
        outcome(fused.objective, made, variant, scale=-2.5, world=4),
        outcome(reference.objective, made, variant, scale=-2.5, world=4),
        1e-12,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_without_gradients_the_bins_logits_are_kept(name):
    made, variant = rows_of(20, 30), variant_of(name)
    trained = fused.objective(
        **(made | {"weight": made["weight"].clone().requires_grad_()}),
        variant=variant,
        chunk_rows=7,
    )
    with torch.no_grad():
        found, expected = (f.objective(**made, variant=variant) for f in (fused, reference))
    assert trained.coord_logits is None
    bins_logits = expected.coord_logits
    assert (found.coord_logits - bins_logits).abs().max() <= 1e-12 * bins_logits.abs().max()
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
def test_fused_equals_the_reference_for_any_weights(
    seed, n_text, n_coord, spread, weights, temperature, chunk
):
    made = rows_of(n_text, n_coord, seed=seed)
    made["hidden"] = made["hidden"] * spread
    soft_ce, w1, gate, ce = weights
    variant = variant_of("mixed", soft_ce=soft_ce, w1=w1, gate=gate, ce=ce, temperature=temperature)
    expected = outcome(reference.objective, made, variant)
    found = outcome(fused.objective, made, variant, chunk_rows=chunk)
    # Where all mass is on the bins, the gate's gradient is a difference of nearly equal numbers.
    assert_same(found, expected, 1e-10, least=1e-4)


def test_a_second_backward_is_refused():
    made = rows_of(5, 5)
    made["hidden"].requires_grad_()
    loss = fused.objective(**made, variant=variant_of("mixed")).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradients over once"):
        loss.backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_loss_of_non_finite_hidden_states_is_not_finite(name, bad):
    made = rows_of(5, 5)
    made["hidden"][0] = bad
    assert not torch.isfinite(fused.objective(**made, variant=variant_of(name)).loss)


@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("name", VARIANTS)
def test_half_precision_errors_are_those_of_full_logits(name, how):
    variant, exact = variant_of(name), rows_of(60, 90)
    dtype = torch.float16 if how == "float16" else torch.bfloat16
    exact = exact | {key: exact[key].to(dtype).double() for key in ("hidden", "weight")}
    expected = outcome(reference.objective, exact, variant)
    given_dtype = torch.float32 if how == "autocast" else dtype
    made = exact | {key: exact[key].to(given_dtype) for key in ("hidden", "weight")}
    # As a loss scaler would: without it the reference's float16 gradients underflow.
    scale = 1024.0 if how == "float16" else 1.0
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
        # In the few sums errors cancel by chance, so only the other values are compared.
        if key not in ("loss", "sums"):
            assert errors[0] <= 1.05 * errors[1], (key, errors)


@pytest.mark.parametrize("name", ["pure_ce", "mixed"])
def test_the_objective_can_be_compiled(name):
    made, variant = rows_of(9, 11), variant_of(name)
    expected = outcome(fused.objective, made, variant, chunk_rows=8)
    compiled = torch.compile(fused.objective, backend="aot_eager")
    assert_same(outcome(compiled, made, variant, chunk_rows=8), expected, 1e-12)


def test_chunk_sizes_follow_the_vocabulary():
    assert products.rows_at_once(152_670, "cpu", torch.float32) == 128
    assert products.rows_at_once(1 << 40, "cuda", torch.float32) == 1
    rows = products.rows_at_once(1392, "cpu", torch.float32)
    assert rows * 1392 * 4 <= products.CHUNK_BYTES["cpu"]
    assert products.chunk_bytes(100, 1392, "cpu", torch.float32) == 100 * 1392 * 4
    assert products.chunk_bytes(100, 1392, "cpu", torch.bfloat16) == 100 * 1392 * 6
