"""The base model: built tiny, or a pretrained one grown by the coordinate tokens; both leave by the same door."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from transformers import Qwen3VLForConditionalGeneration

from coordexp import processor as processors
from coordexp.coords import COORD_TOKENS, coord_token_ids
from coordexp.model import base_path, fourier_rows, grow_pretrained, load_base, parts, prepare_base, save_pretrained
from coordexp.schema import UserError


@pytest.fixture
def released(tiny, tmp_path, monkeypatch):
    """A Qwen3-VL directory as a release would lie there: 999 coordinate tokens missing, room left in the embeddings."""
    monkeypatch.setattr(processors, "COORD_TOKENS", COORD_TOKENS[:1])
    tokenizer = processors.build_tokenizer(320)
    model, _ = tiny.vlm, tiny.processor
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.text_config.vocab_size = len(tokenizer) + 7
    bare = Qwen3VLForConditionalGeneration(config)
    save_pretrained(bare, processors.build_processor(tokenizer, config.vision_config.patch_size), tmp_path / "release")
    return tmp_path / "release", bare


def test_growing_adds_the_coordinate_tokens_and_leaves_every_other_row_alone(released):
    path, bare = released
    model, processor = grow_pretrained(OmegaConf.create({"path": str(path), "coord_init_frequencies": 16}))
    ids = coord_token_ids(processor.tokenizer)
    assert [processor.tokenizer.tokenize(token) for token in COORD_TOKENS] == [[token] for token in COORD_TOKENS]
    assert model.get_input_embeddings().num_embeddings > max(ids)
    old = bare.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: min(ids)], old[: min(ids)])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_grown_model_reloads_with_the_same_bytes(released, tmp_path):
    path, _ = released
    model, processor = grow_pretrained(OmegaConf.create({"path": str(path), "coord_init_frequencies": 16}))
    save_pretrained(model, processor, tmp_path / "grown")
    again, reloaded = load_base(tmp_path / "grown", torch.float32)
    assert coord_token_ids(reloaded.tokenizer) == coord_token_ids(processor.tokenizer)
    for (name, before), after in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after), name


def test_a_model_that_has_the_tokens_keeps_their_rows(tiny, tmp_path):
    model, processor = tiny.vlm, tiny.processor
    save_pretrained(model, processor, tmp_path / "has")
    grown, _ = grow_pretrained(OmegaConf.create({"path": str(tmp_path / "has"), "coord_init_frequencies": 16}))
    assert torch.equal(grown.get_input_embeddings().weight, model.get_input_embeddings().weight.to(torch.float32))


def test_a_path_that_holds_no_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^model\.path=.*nowhere: no Qwen3-VL could be loaded") as refused:
        grow_pretrained(OmegaConf.create({"path": str(tmp_path / "nowhere"), "coord_init_frequencies": 16}))
    assert "\n" not in str(refused.value)


def test_coordinate_rows_are_smooth_and_as_large_as_the_others(tiny):
    model, processor = tiny.vlm, tiny.processor
    weight = model.get_input_embeddings().weight.detach().float()
    rows = weight[coord_token_ids(processor.tokenizer)]
    near = torch.cosine_similarity(rows[:-1], rows[1:]).mean()
    far = torch.cosine_similarity(rows[:500], rows[500:]).mean()
    assert near > 0.99
    assert far < 0.5
    assert rows.std() == pytest.approx(float(weight[:200].std()), rel=0.2)


def test_fourier_rows_depend_on_their_seed_alone():
    assert torch.equal(fourier_rows(50, 8, 4), fourier_rows(50, 8, 4))
    assert not torch.equal(fourier_rows(50, 8, 4), fourier_rows(50, 8, 4, seed=1))


def test_every_parameter_has_one_part(tiny):
    model, _ = tiny.vlm, tiny.processor
    found = [id(p) for group in parts(model).values() for p in group]
    assert len(found) == len(set(found)) == sum(1 for _ in model.parameters())
    assert all(parts(model).values())


def test_preparing_again_leaves_the_bytes_alone(tmp_path, monkeypatch):
    from coordexp.config import compose

    monkeypatch.chdir(tmp_path)
    cfg = compose(["model.text_layers=1", "model.vision_layers=2"])
    manifest = prepare_base(cfg)
    weights = base_path(cfg) / "model" / "model.safetensors"
    before = (manifest.read_bytes(), weights.stat().st_mtime_ns)
    assert prepare_base(cfg) == manifest
    assert (manifest.read_bytes(), weights.stat().st_mtime_ns) == before
