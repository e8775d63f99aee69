"""Attention over packs: the values of each sample alone, with one kernel call per layer.

On a GPU with PyTorch's kernels; elsewhere plain attention over one sample after the other replaces
them.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from coordexp.models import attention
from coordexp.models.attention import has_flash, takes_packs, use_flash

ON_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if ON_GPU else ("cpu", torch.float64)
CLOSE = {"rtol": 0, "atol": 0.03} if ON_GPU else {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, int]]:
    """(samples, heads) of each call of the variable-length kernel."""
    seen: list[tuple[int, int]] = []
    real = attention.varlen_attn

    def in_turn(q, k, v, ends, ends_k, longest, longest_k, scale, window_size):
        assert torch.equal(ends, ends_k)
        assert ends.dtype == torch.int32
        assert longest == longest_k >= int(ends.diff().max())
        seen.append((len(ends) - 1, q.shape[1]))
        if ON_GPU:
            return real(
                q, k, v, ends, ends_k, longest, longest_k, scale=scale, window_size=window_size
            )
        causal = {(-1, 0): True, (-1, -1): False}[window_size]
        pieces = [x.transpose(0, 1).split(ends.diff().tolist(), dim=1) for x in (q, k, v)]
        found = [
            scaled_dot_product_attention(*of, is_causal=causal, scale=scale)
            for of in zip(*pieces, strict=True)
        ]
        return torch.cat(found, dim=1).transpose(0, 1)

    monkeypatch.setattr(attention, "varlen_attn", in_turn)
    return seen


@pytest.fixture(scope="module")
def both(tiny):
    """The same small model with SDPA and with this attention."""
    plain = copy.deepcopy(tiny.vlm).to(DEVICE, DTYPE).eval()
    flash = copy.deepcopy(plain)
    use_flash(flash)
    assert (takes_packs(plain), takes_packs(flash)) == (False, True)
    assert (
        flash.model.visual.config._attn_implementation
        == flash.model.language_model.config._attn_implementation
    )
    return plain, flash


def hidden_of(vlm, batch) -> torch.Tensor:
    batch = batch.to(torch.device(DEVICE))
    return vlm.model(**batch.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[batch.rows]


@pytest.mark.parametrize("indices", [[3, 0, 4, 1, 2], [5], [6, 6]])
def test_a_packed_sample_equals_the_sample_alone(both, tiny, scenes, calls, indices):
    plain, flash = both
    dataset = scenes.dataset("val", tiny.processor)
    with torch.no_grad():
        alone = torch.cat([hidden_of(plain, dataset.batch([i])) for i in indices])
        found = hidden_of(flash, dataset.pack(indices))
    torch.testing.assert_close(found, alone, **CLOSE)
    layers = len(plain.model.visual.blocks) + len(plain.model.language_model.layers)
    assert calls == [(len(indices), 2)] * layers, "one call per layer, for images and for texts"


def test_a_pack_has_the_gradients_of_its_samples(both, tiny, scenes, calls):
    plain, flash = both
    dataset, weights = scenes.dataset("val", tiny.processor), []
    for vlm, batches in (
        (plain, [dataset.batch([i]) for i in (0, 1, 2)]),
        (flash, [dataset.pack([0, 1, 2])]),
    ):
        vlm.zero_grad()
        sum(hidden_of(vlm, batch).square().sum() for batch in batches).backward()
        weights.append(torch.cat([p.grad.flatten() for p in vlm.model.parameters()]))
    assert calls
    assert (weights[1] - weights[0]).norm() <= (0.02 if ON_GPU else 1e-12) * weights[0].norm()


def test_padded_batches_use_sdpa(both, tiny, scenes, calls):
    plain, flash = both
    batch = scenes.dataset("val", tiny.processor).batch(range(5))
    assert not batch.inputs["attention_mask"].all()
    with torch.no_grad():
        expected, found = hidden_of(plain, batch), hidden_of(flash, batch)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert calls == [(5, 2)] * len(plain.model.visual.blocks), "images are never padded"


@pytest.mark.parametrize("indices", [[0, 1], [2]])
def test_both_attentions_generate_the_same_answers(both, tiny, scenes, calls, indices):
    dataset, answers = scenes.dataset("val", tiny.processor), []
    for vlm in both:
        prompts = {name: x.to(DEVICE) for name, x in dataset.prompts(indices).items()}
        answers.append(vlm.generate(**prompts, max_new_tokens=12).tolist())
    assert answers[0] == answers[1]
    pictures = [(len(indices), 2)] * len(both[1].model.visual.blocks)
    texts = [(1, 2)] * len(both[1].model.language_model.layers)  # one prompt alone needs no mask
    assert calls == (pictures + texts if len(indices) == 1 else pictures)


def test_grouped_query_heads_share_their_key_heads(calls):
    """Two key heads for four query heads, in the order transformers groups them."""
    g = torch.Generator().manual_seed(0)
    dtype = DTYPE if ON_GPU else torch.float64
    q, k, v = (torch.randn(1, heads, 7, 16, generator=g).to(DEVICE, dtype) for heads in (4, 2, 2))
    ends = torch.tensor([0, 3, 7], dtype=torch.int32, device=DEVICE)
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 2
    found, _ = attention.attend(module, q, k, v, ends[None, None, None], scaling=0.3)
    for a, b in ((0, 3), (3, 7)):
        expected = scaled_dot_product_attention(
            *(x[:, :, a:b] for x in (q, k, v)), is_causal=True, scale=0.3, enable_gqa=True
        ).transpose(1, 2)
        torch.testing.assert_close(found[:, a:b], expected, **CLOSE)
    assert calls == [(2, 4)]


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "runs"),
    [
        ("cuda", torch.bfloat16, (9, 0), True),
        ("cuda", torch.float16, (8, 0), True),
        ("cuda", torch.float32, (9, 0), False),
        ("cuda", torch.bfloat16, (7, 5), False),
        ("cpu", torch.bfloat16, (9, 0), False),
    ],
)
def test_flash_needs_half_precision_on_ampere_or_newer(
    monkeypatch, device, dtype, capability, runs
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_flash(torch.device(device), dtype) == runs
