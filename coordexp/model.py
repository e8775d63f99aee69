"""The base model: built tiny and offline, or loaded and grown by the coordinate tokens; saved once, loaded by all.

Whatever its origin, it lies as one Hugging Face directory in results/base/<name>-<hash8>/, and every variant
starts from those bytes.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp.config import group_hash, plain
from coordexp.coords import COORD_TOKENS, N_BINS, coord_token_ids
from coordexp.files import locked, replacing_directory, sha256_directory, write_json
from coordexp.processor import ImageProcessor, build_processor, build_tokenizer, load_processor
from coordexp.runs import base_directory
from coordexp.schema import UserError

MODEL_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# CoordExp Stage-1 checkpoint: {what}

Writes detections as JSON whose coordinates are the tokens `<|coord_0|>` … `<|coord_999|>` (bin k = coordinate k/999).
Prompt: one picture, then "Detect every object.". Pictures are not resized; both sides must be multiples of 32 px.

    from pathlib import Path
    from transformers import Qwen3VLForConditionalGeneration
    from coordexp.processor import load_processor
    model = Qwen3VLForConditionalGeneration.from_pretrained(".")
    processor = load_processor(Path("."))
"""


def base_path(cfg: DictConfig) -> Path:
    """Where the base model of this configuration lies."""
    return base_directory(cfg.model.name, group_hash(cfg.model))


def prepare_base(cfg: DictConfig) -> Path:
    """Build or grow the base model of `cfg.model`, where it is not there yet; returns its manifest's path.

    Raises:
        UserError: the pretrained model cannot be found.
    """
    out = base_path(cfg)
    with locked(out / ".lock", "being prepared", wait=True):
        if (out / "base.json").exists():
            return out / "base.json"
        model, processor = build_tiny(cfg.model) if "init_seed" in cfg.model else grow_pretrained(cfg.model)
        save_pretrained(model, processor, out / "model")
        write_json(
            out / "base.json",
            {
                "model": plain(cfg.model),
                "sha256": sha256_directory(out / "model"),
                "parameters": sum(p.numel() for p in model.parameters()),
                "vocabulary": len(processor.tokenizer),
            },
        )
    return out / "base.json"


def build_tiny(cfg: DictConfig) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """A randomly initialised Qwen3-VL of the configured size, with smooth coordinate rows."""
    tokenizer = build_tokenizer(cfg.vocabulary_size)
    processor = build_processor(tokenizer, cfg.patch_size)
    head_dim = cfg.text_hidden_size // cfg.text_heads
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": cfg.text_hidden_size,
            "intermediate_size": cfg.text_intermediate_size,
            "num_hidden_layers": cfg.text_layers,
            "num_attention_heads": cfg.text_heads,
            "num_key_value_heads": cfg.text_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 32768,
            "initializer_range": cfg.init_std,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
                "mrope_section": _mrope_section(head_dim),
            },
        },
        vision_config={
            "depth": cfg.vision_layers,
            "initializer_range": cfg.init_std,
            "hidden_size": cfg.vision_hidden_size,
            "intermediate_size": cfg.vision_intermediate_size,
            "num_heads": cfg.vision_heads,
            "patch_size": cfg.patch_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": cfg.text_hidden_size,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [cfg.vision_layers - 2],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(cfg.init_seed)
    model = Qwen3VLForConditionalGeneration(config)
    _set_coordinate_rows(model, coord_token_ids(tokenizer), cfg.coord_init_frequencies)
    _set_position_rows(model, cfg.coord_init_frequencies)
    _set_generation_tokens(model, tokenizer)
    return model, processor


def grow_pretrained(cfg: DictConfig) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Load a Qwen3-VL and add the coordinate tokens it does not have yet.

    Raises:
        UserError: `model.path` is neither a local directory nor a reachable hub name.
    """
    try:
        model = Qwen3VLForConditionalGeneration.from_pretrained(cfg.path)
        tokenizer = AutoTokenizer.from_pretrained(cfg.path)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"model.path={cfg.path}: no Qwen3-VL could be loaded ({first}): give a local directory") from error
    missing = [token for token in COORD_TOKENS if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(missing, special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if missing:
        _set_coordinate_rows(model, coord_token_ids(tokenizer), cfg.coord_init_frequencies)
    _set_generation_tokens(model, tokenizer)
    return model, build_processor(tokenizer, model.config.vision_config.patch_size)


def _mrope_section(head_dim: int) -> list[int]:
    """Rotary frequencies of time, height and width: a third each, time takes the rest."""
    third = head_dim // 6
    return [head_dim // 2 - 2 * third, third, third]


def _set_coordinate_rows(model: Qwen3VLForConditionalGeneration, ids: list[int], n_frequencies: int) -> None:
    """Smooth rows: neighbouring bins start alike, so that a gradient at one bin teaches the bins around it."""
    for weight in {id(w): w for w in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}.values():
        std = weight.detach().float().std()
        rows = fourier_rows(N_BINS, weight.shape[1], n_frequencies)
        weight.data[ids] = (rows / rows.std() * std).to(weight)


def _set_position_rows(model: Qwen3VLForConditionalGeneration, n_frequencies: int) -> None:
    """Where a patch lies, as strong as what it shows: noise of std 0.02 would take hundreds of steps to be heard."""
    weight = model.model.visual.pos_embed.weight  # [side * side, d]
    side = math.isqrt(weight.shape[0])
    down, across = (fourier_rows(side, weight.shape[1], n_frequencies, seed) for seed in (1, 2))
    rows = (down[:, None] + across[None]).flatten(0, 1)
    weight.data[:] = rows / rows.std() * 0.5


def fourier_rows(n_rows: int, width: int, n_frequencies: int, seed: int = 0) -> Tensor:
    """`n_rows` points on a smooth random curve in `width` dimensions  # [n_rows, width]

    sin and cos of pi j k / (n_rows - 1), j = 1 … n_frequencies, amplitude 1/j, through a fixed random projection.
    """
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(n_rows) / (n_rows - 1)
    j = torch.arange(1, n_frequencies + 1)
    waves = math.pi * j * k[:, None]  # [n_rows, n_frequencies]
    features = torch.cat([waves.sin() / j, waves.cos() / j], dim=1)
    return features @ torch.randn(2 * n_frequencies, width, generator=generator)


def _set_generation_tokens(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Greedy by default, ending at the end of the turn."""
    model.generation_config.do_sample = False
    model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")


def load_base(path: Path, dtype: torch.dtype) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Model and processor from a Hugging Face directory of this project."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    return model, load_processor(path)


def save_pretrained(model: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path) -> None:
    """Write a complete Hugging Face directory, whole or not at all."""
    with replacing_directory(path) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by part: vision, aligner (the mergers) and language (with the embeddings)."""
    found: dict[str, list[nn.Parameter]] = {"vision": [], "aligner": [], "language": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "language" if "visual." not in name else "aligner" if "merger" in name else "vision"
        found[part].append(parameter)
    return found


def save_checkpoint(vlm: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path, what: str) -> None:
    """A complete Hugging Face directory, with a model card; one that is there already is left as it is."""
    if path.exists():
        return
    with replacing_directory(path) as temporary:
        vlm.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        (temporary / "README.md").write_text(MODEL_CARD.format(what=what))
