"""The formulas of the objective against independent ones in plain Python, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import N_BINS
from coordexp.losses import reference
from coordexp.losses.reference import coordinate_sums
from coordexp.losses.terms import total_loss

V = N_BINS + 7  # the bins are tokens 3 … 1002, with text tokens on both sides
SLICE = slice(3, 3 + N_BINS)

cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed of the logits
    st.floats(0.01, 40.0),  # their spread
    st.lists(
        st.integers(0, N_BINS - 1) | st.sampled_from([0, 1, 998, 999]), min_size=1, max_size=3
    ),
    st.floats(0.2, 5.0),  # temperature
    st.floats(0.3, 20.0),  # sigma
    st.integers(0, 40),  # radius
)


def logits_of(seed: int, spread: float, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, V, generator=generator, dtype=torch.float64) * spread


def normalised(weights: list[float]) -> list[float]:
    total = math.fsum(weights)
    return [w / total for w in weights]


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def target_of(t: int, sigma: float, radius: int) -> list[float]:
    weights = [0.0] * N_BINS
    for k in range(max(0, t - radius), min(N_BINS, t + radius + 1)):
        weights[k] = math.exp(-((k - t) ** 2) / (2 * sigma**2))
    return normalised(weights)


def close(found: torch.Tensor, expected: list[float], relative: float = 1e-10) -> None:
    np.testing.assert_allclose(found.numpy(), np.array(expected), rtol=relative, atol=1e-12)


@settings(max_examples=50)
@given(cases)
def test_each_term_equals_its_formula(case):
    seed, spread, bins, temperature, sigma, radius = case
    z, t = logits_of(seed, spread, len(bins)), torch.tensor(bins)
    q = reference.soft_target(t, sigma, radius, torch.float64)
    s = z[:, SLICE]
    targets, soft_ce, gate, slice_ce, token_ce = [], [], [], [], []
    for row, k in zip(z.tolist(), bins, strict=True):
        cooled = [v / temperature for v in row]
        lse = log_sum_exp(cooled[SLICE])
        target = target_of(k, sigma, radius)
        targets.append(target)
        soft_ce.append(
            -math.fsum(w * (v - lse) for w, v in zip(target, cooled[SLICE], strict=True))
        )
        gate.append(log_sum_exp(cooled) - lse)
        slice_ce.append(log_sum_exp(row[SLICE]) - row[SLICE][k])
        token_ce.append(log_sum_exp(row) - row[SLICE][k])
    close(q, targets)
    close(reference.soft_ce(s, q, temperature), soft_ce)
    close(reference.gate(z, s, temperature), gate)
    close(reference.slice_ce(s, t), slice_ce)
    close(reference.token_ce(z, t + SLICE.start), token_ce)


@settings(max_examples=50)
@given(cases)
def test_w1_equals_scipys_wasserstein_distance(case):
    seed, spread, bins, temperature, sigma, radius = case
    s = logits_of(seed, spread, len(bins))[:, SLICE]
    q = reference.soft_target(torch.tensor(bins), sigma, radius, torch.float64)
    coordinates = np.arange(N_BINS) / (N_BINS - 1)
    found = reference.w1(s, q, temperature)
    for i in range(len(bins)):
        p = normalised([math.exp((v - float(s[i].max())) / temperature) for v in s[i].tolist()])
        assert float(found[i]) == pytest.approx(
            wasserstein_distance(coordinates, coordinates, p, q[i].numpy()), rel=1e-9, abs=1e-12
        )


def test_w1_of_two_point_masses_is_their_distance():
    s = torch.full((1, N_BINS), -1e4, dtype=torch.float64)
    s[0, 100] = 0
    q = reference.soft_target(torch.tensor([400]), 1.0, 0, torch.float64)
    assert float(reference.w1(s, q, 1.0)) == pytest.approx(300 / 999, rel=1e-12)


@given(
    st.integers(0, N_BINS - 1),
    st.floats(0.05, 50),
    st.integers(0, 60),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_soft_target_is_symmetric_and_zero_beyond_radius(t, sigma, radius, dtype):
    (q,) = reference.soft_target(torch.tensor([t]), sigma, radius, dtype)
    assert q.dtype == dtype
    assert float(q.double().sum()) == pytest.approx(
        1, abs=1e-6 if dtype == torch.float32 else 1e-12
    )
    low, high = max(0, t - radius), min(N_BINS - 1, t + radius)
    assert (q[:low] == 0).all()
    assert (q[high + 1 :] == 0).all()
    assert int(q.argmax()) == t
    reach = min(t - low, high - t)
    torch.testing.assert_close(q[t - reach : t + reach + 1], q[t - reach : t + reach + 1].flip(0))


def test_a_soft_target_of_radius_zero_is_one_hot():
    assert torch.equal(
        reference.soft_target(torch.tensor([7, 999]), 1.0, 0), torch.eye(N_BINS)[[7, 999]]
    )


@settings(max_examples=40)
@given(cases)
def test_full_ce_equals_slice_ce_plus_gate_at_temperature_1(case):
    seed, spread, bins, *_ = case
    z, t = logits_of(seed, spread, len(bins)), torch.tensor(bins)
    two_parts = reference.slice_ce(z[:, SLICE], t) + reference.gate(z, z[:, SLICE], 1.0)
    torch.testing.assert_close(
        reference.token_ce(z, t + SLICE.start), two_parts, rtol=1e-10, atol=1e-10
    )


@settings(max_examples=40)
@given(cases)
def test_gate_is_minus_log_mass_and_soft_ce_exceeds_entropy(case):
    seed, spread, bins, temperature, sigma, radius = case
    z = logits_of(seed, spread, len(bins))
    q = reference.soft_target(torch.tensor(bins), sigma, radius, torch.float64)
    mass = torch.softmax(z / temperature, -1)[:, SLICE].sum(-1)
    torch.testing.assert_close(
        reference.gate(z, z[:, SLICE], temperature), -mass.log(), rtol=1e-9, atol=1e-9
    )
    entropy = torch.special.entr(q).sum(-1)
    assert (reference.soft_ce(z[:, SLICE], q, temperature) >= entropy - 1e-10).all()
    distance = reference.w1(z[:, SLICE], q, temperature)
    assert ((distance >= 0) & (distance <= 1)).all()


@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_and_gradients_are_finite_for_peaked_logits(spread, dtype):
    z = logits_of(0, spread, 2).to(dtype).requires_grad_()
    s, t = z[:, SLICE], torch.tensor([0, 999])
    q = reference.soft_target(t, 1.0, 8, dtype)
    for value in (
        reference.soft_ce(s, q, 0.7),
        reference.w1(s, q, 0.7),
        reference.gate(z, s, 0.7),
        reference.slice_ce(s, t),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), z, retain_graph=True)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


TERMS = {
    "soft_ce": lambda z, _, q: reference.soft_ce(z[:, SLICE], q, 0.7),
    "w1": lambda z, _, q: reference.w1(z[:, SLICE], q, 0.7),
    "gate": lambda z, *_: reference.gate(z, z[:, SLICE], 0.7),
    "slice_ce": lambda z, t, _: reference.slice_ce(z[:, SLICE], t),
    "token_ce": lambda z, t, _: reference.token_ce(z, t + SLICE.start),
}


@pytest.mark.parametrize("term", TERMS)
def test_term_gradients_equal_finite_differences(term):
    t = torch.tensor([2, 700])
    q = reference.soft_target(t, 3.0, 8, torch.float64)
    torch.manual_seed(0)
    z = logits_of(1, 2.0, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: TERMS[term](x, t, q), z, fast_mode=True)


WEIGHTS = st.fixed_dictionaries(
    {name: st.sampled_from([0.0, 0.5, 2.0]) for name in ("soft_ce", "w1", "gate", "ce")}
)


@settings(max_examples=40)
@given(cases, WEIGHTS, st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_the_loss_is_weighted_terms_over_group_counts(case, weights, counts):
    seed, spread, bins, temperature, sigma, radius = case
    variant = VariantConfig(
        "any",
        TokenGroups.split,
        **weights,
        temperature=temperature,
        sigma_bins=sigma,
        radius_bins=radius,
    )
    z, t = logits_of(seed, spread, len(bins)), torch.tensor(bins)
    terms = coordinate_sums(z, z[:, SLICE], t + SLICE.start, t, variant)
    assert set(terms) == {name for name, weight in weights.items() if weight}
    q, s = reference.soft_target(t, sigma, radius, torch.float64), z[:, SLICE]
    values = {
        "soft_ce": reference.soft_ce(s, q, temperature),
        "w1": reference.w1(s, q, temperature),
        "gate": reference.gate(z, s, temperature),
        "ce": reference.slice_ce(s, t),
    }
    coordinates = sum(w * float(values[n].sum()) for n, w in weights.items())
    expected = 5.0 / max(counts[0], 1) + coordinates / max(counts[1], 1)
    found = total_loss(
        {"text_ce": torch.tensor(5.0).double(), **terms}, torch.tensor(counts).double(), variant
    )
    assert float(found) == pytest.approx(expected, rel=1e-10)
