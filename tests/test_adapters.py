"""Adapters: where they are, what they train, at which rate; merging them changes no output."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.compose import compose
from coordexp.config.schema import AdapterConfig
from coordexp.coords import coord_token_ids
from coordexp.models.adapters import (
    add_adapters,
    autocast_for,
    head_weights,
    hidden_states,
    is_adapted,
)
from coordexp.models.attention import takes_packs, use_flash
from coordexp.models.checkpoints import (
    load_base,
    parts,
    restore_weights,
    save_checkpoint,
    save_pretrained,
    trained_weights,
)
from coordexp.models.merging import fold_in, merged_state
from coordexp.probe.generation import decode
from coordexp.training.memory import estimate
from coordexp.training.optim import build_optimizer, step_optimizer

KINDS = [AdapterConfig(rank=4, alpha=8), AdapterConfig(rank=3, alpha=2, dora=True)]
REAL_PATHS = ("model.path", "data.train_annotations", "data.val_annotations", "data.images")
LORA = (
    "optim=lora",
    "optim.lr=0.01",
    "optim.lr_vision=0.02",
    "optim.lr_aligner=0.03",
    "optim.lr_coord=0.04",
)


@pytest.fixture(params=KINDS, ids=["lora", "dora"])
def cfg(request) -> AdapterConfig:
    return request.param


@pytest.fixture
def ids(tiny) -> list[int]:
    return coord_token_ids(tiny.processor.tokenizer)


@pytest.fixture
def adapted(tiny, ids, cfg):
    """A copy of the tiny model with adapters whose weights are not the initial ones."""
    return trained(copy.deepcopy(tiny.vlm), ids, cfg)


def trained(vlm, ids, cfg: AdapterConfig):
    """`vlm` with adapters, and noise on all trained weights in place of training."""
    add_adapters(vlm, cfg, ids, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained_weights(vlm).values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return vlm


@pytest.fixture
def inputs(tiny, scenes):
    return scenes.dataset("val", tiny.processor).batch([0, 1, 2]).inputs


@torch.no_grad()
def logits(vlm, inputs) -> torch.Tensor:
    with autocast_for(vlm):
        return vlm.eval()(**inputs).logits


def test_every_linear_layer_but_the_head_gets_an_adapter(tiny, ids, cfg):
    vlm = copy.deepcopy(tiny.vlm)
    linear = {name for name, module in vlm.named_modules() if isinstance(module, nn.Linear)}
    linear.remove("lm_head")
    assert len(linear) == 7 + 2 * 4 + 2 * 2
    add_adapters(vlm, cfg, ids, seed=0)
    names = trained_weights(vlm)
    assert {name.split(".lora_")[0] for name in names if ".lora_" in name} == linear
    kinds = {"A.default.weight", "B.default.weight"}
    if cfg.dora:
        kinds.add("magnitude_vector.default.weight")
    assert {name.split(".lora_")[1] for name in names if ".lora_" in name} == kinds
    assert [name for name in names if ".lora_" not in name] == [
        "model.language_model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_untrained_adapters_do_not_change_the_outputs(tiny, ids, cfg, inputs, dtype):
    vlm = copy.deepcopy(tiny.vlm).to(dtype)
    before = logits(vlm, inputs)
    add_adapters(vlm, cfg, ids, seed=0)
    torch.testing.assert_close(
        logits(vlm, inputs), before, rtol=0, atol=1e-12 if dtype == torch.float64 else 0.02
    )
    if cfg.dora:
        layer = vlm.model.language_model.layers[0].mlp.up_proj
        norms = layer.base_layer.weight.double().norm(dim=1)
        rtol = 1e-12 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(
            layer.lora_magnitude_vector["default"].weight.double(), norms, rtol=rtol, atol=0
        )


def test_the_same_seed_gives_the_same_adapters(tiny, ids, cfg):
    first, second, other = (copy.deepcopy(tiny.vlm) for _ in range(3))
    for vlm, seed in ((first, 5), (second, 5), (other, 6)):
        torch.rand(seed)
        add_adapters(vlm, cfg, ids, seed)
    for name, weight in trained_weights(first).items():
        assert torch.equal(weight, trained_weights(second)[name]), name
    a_of = "model.visual.merger.linear_fc1.lora_A.default.weight"
    assert not torch.equal(trained_weights(first)[a_of], trained_weights(other)[a_of])


def test_trained_weights_around_bfloat16_are_float32(tiny, ids, cfg, inputs):
    vlm = trained(copy.deepcopy(tiny.vlm).to(torch.bfloat16), ids, cfg)
    assert {weight.dtype for weight in trained_weights(vlm).values()} == {torch.float32}
    assert {p.dtype for p in vlm.parameters() if not p.requires_grad} == {torch.bfloat16}
    hidden = hidden_states(vlm, **inputs, use_cache=False)
    assert hidden.dtype == torch.bfloat16
    hidden.float().square().mean().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32
        for p in vlm.parameters()
        if p.requires_grad
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_lora_layer_has_pefts_values_and_gradients(tiny, ids, dtype, dropout):
    """Around bfloat16 both run under autocast, as in training."""
    from peft.tuners.lora import Linear as PeftLinear

    cfg = AdapterConfig(rank=4, alpha=8, dropout=dropout)
    vlm = trained(copy.deepcopy(tiny.vlm).to(dtype), ids, cfg).train()
    for layer in (
        vlm.model.language_model.layers[0].mlp.up_proj,
        vlm.model.visual.blocks[0].attn.qkv,
    ):
        x, found = torch.randn(2, 5, layer.in_features, dtype=dtype, requires_grad=True), []
        assert type(layer).forward is not PeftLinear.forward
        for forward in (type(layer).forward, PeftLinear.forward):
            torch.manual_seed(3)
            with autocast_for(vlm):
                out = forward(layer, x)
            leaves = (x, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            found.append([out.detach(), *torch.autograd.grad(out.double().square().sum(), leaves)])
        for a, b in zip(*found, strict=True):
            assert a.dtype == b.dtype
            assert (a - b).norm() <= (0.01 if dtype == torch.bfloat16 else 1e-12) * b.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_forward_of_bfloat16_adapters_is_autocast(tiny, scenes, ids, cfg, dtype):
    """Of the objective in training and evaluation, of the memory estimate, and of rollouts."""
    stage1 = copy.deepcopy(tiny.stage1("mixed")).to(dtype)
    vlm = trained(stage1.vlm, ids, cfg)
    seen: list[bool] = []
    vlm.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    dataset = scenes.dataset("val", tiny.processor)
    batch = dataset.batch([0, 1])
    stage1(batch, torch.ones(2)).loss.backward()
    estimate(vlm, batch, ranks=1)
    end_id = tiny.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    decode(vlm, dataset.prompts([0]), end_id, budget=1)
    assert len(seen) >= 3
    assert set(seen) == {dtype == torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")


def test_a_plain_model_keeps_the_callers_autocast(tiny):
    with torch.autocast("cpu", torch.bfloat16), autocast_for(tiny.vlm):
        assert torch.is_autocast_enabled("cpu")


def test_merged_weights_equal_pefts_own_merge(adapted, inputs):
    """Compared with peft's own merge."""
    from peft.tuners.lora import LoraModel

    before, state = logits(adapted, inputs), merged_state(adapted)
    again = logits(adapted, inputs)
    assert torch.equal(before, again), "merging leaves the adapted model unchanged"
    tuner = LoraModel.__new__(LoraModel)
    nn.Module.__init__(tuner)
    tuner.model, tuner.peft_config, tuner.targeted_module_names = adapted, adapted.peft_config, []
    plain = tuner.merge_and_unload()
    expected = plain.state_dict()
    assert set(state) == set(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(logits(plain, inputs), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_fold_in_makes_a_plain_model_with_merged_weights(tiny, ids, cfg, inputs, dtype, tied):
    config = copy.deepcopy(tiny.vlm.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    plain = Qwen3VLForConditionalGeneration(config).to(dtype)
    vlm = trained(copy.deepcopy(plain), ids, cfg)
    expected, state = logits(vlm, inputs), merged_state(vlm)
    fold_in(vlm)
    assert not is_adapted(vlm)
    assert [type(module) for module in vlm.modules()] == [
        type(module) for module in plain.modules()
    ]
    assert (vlm.lm_head.weight is vlm.get_input_embeddings().weight) == tied
    assert set(vlm.state_dict()) == set(state)
    assert all(torch.equal(weight, state[name]) for name, weight in vlm.state_dict().items())
    assert vlm.dtype == dtype
    atol = 1e-10 if dtype == torch.float64 else 0.05 * float(expected.float().abs().max())
    torch.testing.assert_close(logits(vlm, inputs), expected.to(dtype), rtol=0, atol=atol)


def test_merging_changes_linear_layers_and_coordinate_rows(tiny, adapted, ids):
    base, merged = tiny.vlm.state_dict(), merged_state(adapted)
    rows = ["lm_head.weight", "model.language_model.embed_tokens.weight"]
    changed = {name for name in base if not torch.equal(merged[name], base[name])}
    linear = {
        f"{name}.weight"
        for name, module in tiny.vlm.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert changed == linear | set(rows)
    for name in rows:
        moved = (merged[name] != base[name]).any(1).nonzero()[:, 0]
        assert moved.tolist() == sorted(ids)
    assert torch.equal(merged[rows[0]][ids], head_weights(adapted)[1])


def test_a_checkpoint_loads_plain_and_its_adapter_with_peft(tiny, adapted, inputs, ids, tmp_path):
    from peft import PeftModel

    expected = logits(adapted, inputs).float()
    save_pretrained(tiny.vlm, tiny.processor, tmp_path / "base")
    save_checkpoint(adapted, tiny.processor, tmp_path / "step", "a test")
    plain, _ = load_base(tmp_path / "step", torch.float32)
    assert type(plain) is Qwen3VLForConditionalGeneration
    assert not is_adapted(plain)
    assert not [
        name
        for name in load_file(tmp_path / "step" / "model.safetensors")
        if "lora" in name or "token_adapter" in name
    ]
    torch.testing.assert_close(logits(plain, inputs), expected, rtol=0, atol=1e-5)
    assert torch.equal(plain.get_input_embeddings().weight[ids], head_weights(adapted)[1].float())
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert plain.generation_config == tiny.vlm.generation_config
    base, _ = load_base(tmp_path / "base", torch.float64)
    with_adapter = PeftModel.from_pretrained(base, tmp_path / "step" / "adapter")
    torch.testing.assert_close(logits(with_adapter, inputs).float(), expected, rtol=0, atol=1e-5)
    assert (
        json.loads((tmp_path / "step" / "adapter" / "adapter_config.json").read_text())["peft_type"]
        == "LORA"
    )


@pytest.mark.parametrize("kind", [None, *KINDS], ids=["plain", "lora", "dora"])
def test_the_model_cards_code_loads_the_checkpoint(tiny, ids, kind, inputs, tmp_path, monkeypatch):
    vlm = copy.deepcopy(tiny.vlm)
    vlm = trained(vlm, ids, kind) if kind else vlm
    expected = logits(vlm, inputs).float()
    save_checkpoint(vlm, tiny.processor, tmp_path / "step", "a test")
    monkeypatch.chdir(tmp_path / "step")
    (code,) = re.findall(r"```python\n(.*\n.*\n)answer", Path("README.md").read_text())
    loaded = {}
    exec(code, loaded)
    detect = loaded["detect"]
    torch.testing.assert_close(logits(detect.model, inputs).float(), expected, rtol=0, atol=1e-5)
    assert detect.tokenizer.get_vocab() == tiny.processor.tokenizer.get_vocab()


def test_a_model_with_flash_attention_writes_a_checkpoint(tiny, ids, cfg, inputs, tmp_path):
    """As on a GPU. transformers refuses to build a model with the name of this attention."""
    vlm = trained(copy.deepcopy(tiny.vlm), ids, cfg)
    expected = logits(vlm, inputs).float()
    use_flash(vlm)
    save_checkpoint(vlm, tiny.processor, tmp_path / "step", "a test")
    assert takes_packs(vlm), "the trained model keeps its attention"
    plain, _ = load_base(tmp_path / "step", torch.float32)
    torch.testing.assert_close(logits(plain, inputs), expected, rtol=0, atol=1e-5)


def test_an_untied_head_has_its_own_coordinate_rows(tiny, ids, cfg, inputs, tmp_path):
    config = copy.deepcopy(tiny.vlm.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    untied = Qwen3VLForConditionalGeneration(config)
    untied.generation_config = tiny.vlm.generation_config
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
    vlm = trained(untied.double(), ids, cfg)
    weight, rows = head_weights(vlm)
    embedded = vlm.get_input_embeddings().token_adapter.trainable_tokens_delta["default"]
    assert rows is not embedded
    assert len(parts(vlm)["coord"]) == 2
    expected = logits(vlm, inputs)
    save_checkpoint(vlm, tiny.processor, tmp_path / "step", "a test")
    plain, _ = load_base(tmp_path / "step", torch.float64)
    torch.testing.assert_close(logits(plain, inputs), expected, rtol=0, atol=1e-10)
    assert torch.equal(plain.lm_head.weight[ids], rows)
    assert torch.equal(plain.get_input_embeddings().weight[ids], embedded)
    others = torch.ones(len(weight), dtype=torch.bool).index_fill_(0, torch.tensor(ids), False)
    assert torch.equal(plain.lm_head.weight[others], weight[others])


def test_head_weights_are_frozen_rows_and_trained_bin_rows(tiny, adapted, ids):
    weight, rows = head_weights(adapted)
    assert not weight.requires_grad
    assert rows.requires_grad
    hidden = torch.randn(5, weight.shape[1], dtype=weight.dtype)
    expected = adapted.lm_head(hidden)
    found = hidden @ weight.T
    found[:, ids] = hidden @ rows.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert head_weights(tiny.vlm) == (tiny.vlm.lm_head.weight, None)


def test_each_part_moves_at_its_rate_and_frozen_weights_stay(adapted, ids):
    """The first AdamW step is the learning rate, whatever the gradient."""
    optim = compose([*LORA, "optim.weight_decay=0"]).optim
    optimizer = build_optimizer(adapted, optim)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    for p in adapted.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p)
    step_optimizer(optimizer, adapted, torch.tensor(ids), optim, factor=0.5)
    for name, p in adapted.named_parameters():
        if not p.requires_grad:
            rate = 0.0
        elif "trainable_tokens" in name:
            rate = 0.04
        elif "merger" in name:
            rate = 0.03
        elif "visual." in name:
            rate = 0.02
        else:
            rate = 0.01
        step, expected = before[name] - p.detach(), torch.full_like(p, 0.5 * rate)
        torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-12, msg=name)


def test_weight_decay_skips_dora_magnitudes(adapted):
    groups = build_optimizer(adapted, compose([*LORA]).optim).param_groups
    assert {p.ndim for group in groups if group["weight_decay"] for p in group["params"]} == {2}
    assert {p.ndim for group in groups if not group["weight_decay"] for p in group["params"]} <= {1}
    assert sum(len(group["params"]) for group in groups) == len(trained_weights(adapted))


def test_a_resumed_run_needs_only_the_trained_weights(tiny, adapted, ids, cfg, inputs):
    weights = {name: weight.clone() for name, weight in trained_weights(adapted).items()}
    assert sum(w.numel() for w in weights.values()) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )
    fresh = copy.deepcopy(tiny.vlm)
    add_adapters(fresh, cfg, ids, seed=9)
    restore_weights(fresh, weights)
    assert torch.equal(logits(fresh, inputs), logits(adapted, inputs))


def test_the_lvis_study_has_the_published_recipe():
    cfg = compose(
        ["experiment=lvis_4b", *(f"{key}=x" for key in REAL_PATHS), "runtime.processes=8"]
    )
    optim, train = cfg.optim, cfg.train
    assert optim.lr * optim.floor_fraction == pytest.approx(1e-6)
    assert (optim.lr, optim.lr_vision, optim.lr_aligner, optim.lr_coord) == (2e-4, 1e-4, 4e-4, 1e-4)
    assert (optim.adapter.rank, optim.adapter.alpha) == (16, 32)
    assert (optim.weight_decay, optim.clip_norm, optim.warmup_fraction) == (0.1, 0.5, 0.1)
    assert (train.micro_batch_tokens, train.eval_steps) == (16000, 40)
    assert cfg.data.val_images == 1000
    assert (train.dtype.value, train.gradient_checkpointing) == ("bfloat16", True)
    assert train.max_steps * train.images_per_step == pytest.approx(
        4 * 100_170, abs=train.images_per_step
    ), "four epochs"


def test_token_budgets_need_images_divisible_by_processes(refused):
    compose(
        [
            "train.images_per_step=6",
            "train.micro_batch=4",
            "train.micro_batch_tokens=100",
            "runtime.processes=3",
        ]
    )
    with refused("train.images_per_step=6", "runtime.processes = 4"):
        compose(["train.images_per_step=6", "train.micro_batch_tokens=100", "runtime.processes=4"])
    with refused("train.micro_batch_tokens"):
        compose(["train.micro_batch_tokens=-1"])


@pytest.mark.parametrize("override", ["rank=-1", "alpha=0", "dropout=1", "dora=true"])
def test_impossible_adapters_are_refused(refused, override):
    with refused(f"optim.adapter.{override.split('=')[0]}"):
        compose([f"optim.adapter.{override}"])
