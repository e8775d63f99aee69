"""The Triton kernel against PyTorch, on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from conftest import VARIANTS
from test_fused import outcome, rows_of, variant_of

from coordexp.losses import chunk, fused, products, reference

pytest.importorskip(
    "triton",
    reason="triton is not installed: it comes with torch's CUDA builds, and .ci/run installs it",
)
kernel = pytest.importorskip("coordexp.losses.kernel")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = (torch.bfloat16, torch.float16)


def logits_of(
    n: int, n_columns: int, dtype: torch.dtype, bins_at: slice, stride: int | None = None
):
    """Words' logits in rows `stride` apart, -inf at the bins; the bins' logits; and targets."""
    g = torch.Generator().manual_seed(n_columns)
    room = torch.full((n, stride or n_columns), torch.nan)
    room[:, :n_columns] = 6 * torch.randn(n, n_columns, generator=g)
    room[:, bins_at] = -torch.inf
    s = 6 * torch.randn(n, 1000, generator=g)
    targets = torch.full((n, 1), n_columns - 1) - torch.arange(n)[:, None]
    return room.to(DEVICE, dtype)[:, :n_columns], s.to(DEVICE), targets.to(DEVICE)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("shape", [(3, 1300, None), (2, 9000, 9024), (1, 4096, None)], ids=str)
def test_the_kernel_equals_pytorch_row_by_row(shape, dtype, temperature, targeted):
    n, n_columns, stride = shape
    z, s, targets = logits_of(n, n_columns, dtype, slice(0, 1000), stride)
    between = (n, (stride or n_columns) - n_columns)  # shape of the memory between the rows
    before = torch.as_strided(z, between, (z.stride(0), 1), n_columns).clone()
    scale = torch.tensor(0.31, device=DEVICE)
    targets = targets if targeted else None
    exact_z, exact_s = z.double().cpu(), s.double().cpu()
    exact_targets = targets.cpu() if targeted else None
    expected = chunk.words_to_gradient_(
        exact_z, exact_s, scale.double().cpu(), temperature, exact_targets
    )
    bins = [torch.logsumexp(s / t, -1, keepdim=True) for t in (1.0, temperature)]
    found = kernel.words_to_gradient_(z, *bins, scale, temperature, targets)

    # x / T - lse is rounded before it is exponentiated, which multiplies its error by lse.
    exponent = 3 * torch.finfo(torch.float32).eps * float(expected[2].abs().max())
    tolerances = (torch.finfo(dtype).eps + exponent, 0.0, 1e-6, 1e-6)
    pairs = zip((z, *found), (exact_z, *expected), tolerances, strict=True)
    for values, right, allowed in pairs:
        assert (values.double().cpu() - right).abs().max() <= allowed * right.abs().max()
    assert not z[:, :1000].any(), "the columns of the bins are written elsewhere"
    after = torch.as_strided(z, between, (z.stride(0), 1), n_columns)
    assert torch.equal(after.isnan(), before.isnan()), "nothing is written between the rows"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_logits_stay_non_finite(bad):
    z, s, targets = logits_of(2, 5000, torch.float32, slice(2000, 3000))
    z[0, 17] = bad
    bins = torch.logsumexp(s, -1, keepdim=True)
    _, lse, _ = kernel.words_to_gradient_(
        z, bins, bins, torch.tensor(1.0, device=DEVICE), 1.0, targets
    )
    assert lse[:, 0].isfinite().tolist() == [False, True]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_objective_with_the_kernel_keeps_precision(name, dtype, monkeypatch):
    """Logits stay in half precision between the products, as on a GPU; elsewhere by patching."""
    monkeypatch.setattr(chunk, "has_kernel", lambda *_: True)
    monkeypatch.setattr(products, "has_kernel", lambda *_: True)
    assert products.buffer(4, 1300, torch.device(DEVICE), dtype).stride() == (1344, 1)
    exact = {key: value.to(DEVICE) for key, value in rows_of(20, 30).items()}
    exact |= {key: exact[key].to(dtype).double() for key in ("hidden", "weight")}
    variant, scale = variant_of(name), 1024.0
    expected = outcome(reference.objective, exact, variant)
    made = exact | {key: exact[key].to(dtype) for key in ("hidden", "weight")}
    found = outcome(fused.objective, made, variant, scale=scale, chunk_rows=32)
    full = outcome(reference.objective, made, variant, scale=scale)
    for key in ("loss", "sums", "abs_err", "coord_mass", "d hidden", "d weight"):
        against = expected[key] * (scale if key.startswith("d ") else 1.0)
        errors = [
            float((result[key] - against).norm() / against.norm()) for result in (found, full)
        ]
        assert errors[0] <= 1e-2, (key, errors)
        if key not in ("loss", "sums"):
            assert errors[0] <= 1.05 * errors[1], (key, errors)
