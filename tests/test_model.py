"""The base model: built tiny, or a pretrained one with the coordinate tokens added."""

from __future__ import annotations

import copy
import os
import shutil

import pytest
import torch
from conftest import TINY_OVERRIDES, composed
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.compose import compose
from coordexp.config.schema import CoordInit, PretrainedQwen3VLConfig
from coordexp.coords import COORD_TOKENS, coord_token_ids
from coordexp.errors import UserError
from coordexp.models import processor as processors
from coordexp.models.base import grow_pretrained, prepare_base
from coordexp.models.checkpoints import (
    PatchProjection,
    device_for,
    load_base,
    load_for_training,
    parts,
    save_pretrained,
)
from coordexp.models.embeddings import digit_rows, fourier_rows
from coordexp.storage.identity import base_path


def settings(path, coord_init: CoordInit = CoordInit.fourier) -> PretrainedQwen3VLConfig:
    return PretrainedQwen3VLConfig("qwen3vl", str(path), coord_init, coord_init_frequencies=16)


@pytest.fixture
def released(tiny, tmp_path, monkeypatch):
    """A Qwen3-VL directory like a release: 999 coordinate tokens missing, spare embedding rows."""
    monkeypatch.setattr(processors, "COORD_TOKENS", COORD_TOKENS[:1])
    tokenizer = processors.build_tokenizer(320)
    model, _ = tiny.vlm, tiny.processor
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.text_config.vocab_size = len(tokenizer) + 7
    config.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    bare = Qwen3VLForConditionalGeneration(config)
    save_pretrained(
        bare,
        processors.build_processor(tokenizer, config.vision_config.patch_size),
        tmp_path / "release",
    )
    return tmp_path / "release", bare


@pytest.mark.parametrize("coord_init", list(CoordInit))
def test_growing_adds_tokens_and_keeps_every_other_row(released, coord_init):
    path, bare = released
    model, processor = grow_pretrained(settings(path, coord_init))
    ids = coord_token_ids(processor.tokenizer)
    assert [processor.tokenizer.tokenize(token) for token in COORD_TOKENS] == [
        [token] for token in COORD_TOKENS
    ]
    assert model.get_input_embeddings().num_embeddings > max(ids)
    old = bare.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: min(ids)], old[: min(ids)])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_grown_model_reloads_with_the_same_bytes(released, tmp_path):
    path, _ = released
    model, processor = grow_pretrained(settings(path))
    save_pretrained(model, processor, tmp_path / "grown")
    again, reloaded = load_base(tmp_path / "grown", torch.float32)
    assert coord_token_ids(reloaded.tokenizer) == coord_token_ids(processor.tokenizer)
    for (name, before), after in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after), name


def test_a_model_that_has_the_tokens_keeps_their_rows(tiny, tmp_path):
    model, processor = tiny.vlm, tiny.processor
    save_pretrained(model, processor, tmp_path / "has")
    grown, _ = grow_pretrained(settings(tmp_path / "has"))
    assert torch.equal(grown.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_growing_keeps_precision_and_uses_spare_rows_first(released, tmp_path):
    """An embedding with enough spare rows keeps its size; another grows to a multiple of 64."""
    path, bare = released
    bare.to(torch.bfloat16).resize_token_embeddings(1500)
    save_pretrained(bare, processors.load_processor(path), tmp_path / "roomy")
    model, processor = grow_pretrained(settings(tmp_path / "roomy", CoordInit.digits))
    assert model.dtype == torch.bfloat16
    assert (
        len(model.get_input_embeddings().weight) == 1500 > max(coord_token_ids(processor.tokenizer))
    )
    grown, _ = grow_pretrained(settings(path))
    assert len(grown.get_input_embeddings().weight) % 64 == 0


def test_digit_rows_interpolate_evenly_between_the_digits():
    digits = torch.randn(10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = digit_rows(1000, digits)
    assert all(torch.allclose(rows[111 * d], digits[d], rtol=0, atol=1e-12) for d in range(10))
    for d in range(9):
        steps = (rows[1:] - rows[:-1])[111 * d : 111 * (d + 1)]
        torch.testing.assert_close(
            steps, ((digits[d + 1] - digits[d]) / 111).expand(111, -1), rtol=0, atol=1e-12
        )


def test_rows_from_digits_are_smooth_and_never_collinear(released):
    path, _ = released
    model, processor = grow_pretrained(settings(path, CoordInit.digits))
    weight, tokenizer = model.get_input_embeddings().weight.detach().float(), processor.tokenizer
    rows, digits = (
        weight[coord_token_ids(tokenizer)],
        weight[tokenizer.convert_tokens_to_ids(list("0123456789"))],
    )
    assert rows.std() == pytest.approx(float(digits.std()), rel=0.01)
    assert torch.cosine_similarity(rows[:-1], rows[1:]).min() > 0.95
    nearest = torch.cosine_similarity(rows[::111][:, None], digits[None], dim=-1).argmax(1)
    assert nearest.tolist() == list(range(10)), "a digit's own bin is the most similar to it"
    second_difference = (rows[:-40] + rows[40:] - 2 * rows[20:-20]).norm(dim=1)
    bend = second_difference / (rows[40:] - rows[:-40]).norm(dim=1)
    assert bend.min() > 0.05, "nowhere straight, so every bin can be an argmax"


BROKEN = {
    "no such directory": lambda path: shutil.rmtree(path),
    "no Qwen3-VL could be loaded": lambda path: (path / "config.json").unlink(),
    "no Qwen3-VL could be loaded (": lambda path: os.truncate(path / "model.safetensors", 100_000),
    "its tokenizer does not have <|image_pad|> as token": lambda path: [
        f.unlink() for f in path.glob("tokenizer*")
    ],
    "1 of its weights are not there, such as model.visual.blocks.0.norm1.bias": lambda path: (
        without(path / "model.safetensors", "model.visual.blocks.0.norm1.bias")
    ),
}


def without(file, name: str) -> None:
    weights = load_file(file)
    del weights[name]
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("says", BROKEN)
def test_an_incomplete_release_is_refused_in_one_line(released, says):
    path, _ = released
    grow_pretrained(settings(path))
    BROKEN[says](path)
    with pytest.raises(UserError) as refused:
        grow_pretrained(settings(path))
    assert str(refused.value).startswith(f"model.path={path}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_another_architecture_is_refused(tmp_path):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 400,
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": 32,
    }
    ids = {
        "image_token_id": 301,
        "video_token_id": 302,
        "vision_start_token_id": 303,
        "vision_end_token_id": 304,
    }
    config = Qwen2_5_VLConfig(text_config=small, vision_config=vision, **ids)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path / "older")
    processors.build_tokenizer(320).save_pretrained(tmp_path / "older")
    with pytest.raises(UserError, match=r"older: a qwen2_5_vl, not a qwen3_vl$"):
        grow_pretrained(settings(tmp_path / "older"))


def test_new_coordinate_rows_are_smooth_and_of_usual_size(tiny):
    model, processor = tiny.vlm, tiny.processor
    weight = model.get_input_embeddings().weight.detach().float()
    rows = weight[coord_token_ids(processor.tokenizer)]
    near = torch.cosine_similarity(rows[:-1], rows[1:]).mean()
    far = torch.cosine_similarity(rows[:500], rows[500:]).mean()
    assert near > 0.99
    assert far < 0.5
    assert rows.std() == pytest.approx(float(weight[:200].std()), rel=0.2)


def test_fourier_rows_depend_only_on_the_seed():
    assert torch.equal(fourier_rows(50, 8, 4), fourier_rows(50, 8, 4))
    assert not torch.equal(fourier_rows(50, 8, 4), fourier_rows(50, 8, 4, seed=1))


@pytest.mark.parametrize(
    ("cuda", "asked", "found"),
    [(True, "auto", "cuda"), (True, "cpu", "cpu"), (False, "auto", "cpu")],
)
def test_device_auto_is_cuda_or_the_cpu(monkeypatch, cuda, asked, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_for(compose([f"runtime.device={asked}"]).runtime) == found


def test_every_parameter_belongs_to_one_part(tiny):
    model, _ = tiny.vlm, tiny.processor
    found = [id(p) for group in parts(model).values() for p in group]
    assert len(found) == len(set(found)) == sum(1 for _ in model.parameters())
    assert [part for part, parameters in parts(model).items() if not parameters] == ["coord"], (
        "without adapters the coordinate rows are part of the embedding"
    )


@pytest.mark.parametrize("optim", ["adamw", "lora"])
def test_gradient_checkpointing_keeps_the_gradients(tmp_path, monkeypatch, scenes, optim):
    monkeypatch.chdir(tmp_path)
    gradients = []
    for on in ("false", "true"):
        checkpointing = f"train.gradient_checkpointing={on}"
        cfg = composed(*TINY_OVERRIDES, f"optim={optim}", "train.dtype=float32", checkpointing)
        prepare_base(cfg)
        vlm, processor = load_for_training(cfg, torch.device("cpu"))
        assert vlm.is_activation_checkpointing == (on == "true")
        batch = scenes.dataset("val", processor).batch([0, 1])
        vlm.model(**batch.inputs, use_cache=False).last_hidden_state.square().mean().backward()
        gradients.append({name: p.grad for name, p in vlm.named_parameters() if p.requires_grad})
    assert len(gradients[0]) > 30
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_preparing_again_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose(["model.text_layers=1", "model.vision_layers=2"])
    manifest = prepare_base(cfg)
    weights = base_path(cfg) / "model" / "model.safetensors"
    before = (manifest.read_bytes(), weights.stat().st_mtime_ns)
    assert prepare_base(cfg) == manifest
    assert (manifest.read_bytes(), weights.stat().st_mtime_ns) == before


def test_the_patch_projection_equals_the_convolution(tiny):
    convolution = copy.deepcopy(tiny.vlm.model.visual.patch_embed.proj)
    patches = torch.randn(7, *convolution.weight.shape[1:], dtype=convolution.weight.dtype)
    product = PatchProjection(copy.deepcopy(convolution))
    assert set(product.state_dict()) == set(convolution.state_dict())
    with torch.no_grad():
        product.weight *= 2  # in place: the projection must read its own weights each time
        convolution.weight *= 2
    outcomes = []
    for module in (convolution, product):
        module.zero_grad()
        out = module(patches)
        out.square().sum().backward()
        outcomes.append((out, module.weight.grad, module.bias.grad))
    for a, b in zip(*outcomes, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
