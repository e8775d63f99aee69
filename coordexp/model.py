"""The base model: built tiny and offline, or loaded and grown by the coordinate tokens; saved once, loaded by all.

Whatever its origin, it lies as one Hugging Face directory in results/base/<name>-<hash8>/, and every variant
starts from those bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp.adapters import add_adapters, is_adapted, save_adapted
from coordexp.attention import has_flash, use_flash
from coordexp.config import group_hash, plain
from coordexp.coords import COORD_TOKENS, coord_token_ids
from coordexp.embeddings import set_coordinate_rows, set_position_rows
from coordexp.files import locked, replacing_directory, sha256_directory, write_json
from coordexp.processor import ImageProcessor, build_processor, build_tokenizer, load_processor
from coordexp.runs import base_directory
from coordexp.schema import CoordInit, UserError

HEAD_ROWS_MULTIPLE = 64  # a grown vocabulary is padded to it: matrix products are faster on whole tiles

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
    set_coordinate_rows(model, coord_token_ids(tokenizer), cfg.coord_init_frequencies)
    set_position_rows(model.model.visual.pos_embed.weight, cfg.coord_init_frequencies)
    _set_generation_tokens(model, tokenizer)
    return model, processor


def grow_pretrained(cfg: DictConfig) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Load a Qwen3-VL, in the precision it was published in, and add the coordinate tokens it does not have yet.

    A release's embedding has more rows than its tokenizer has tokens (151,936 for 151,669); those are used up first.

    Raises:
        UserError: `model.path` is neither a local directory nor a reachable hub name.
    """
    try:
        model = Qwen3VLForConditionalGeneration.from_pretrained(cfg.path, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(cfg.path)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"model.path={cfg.path}: no Qwen3-VL could be loaded ({first}): give a local directory") from error
    vocabulary = tokenizer.get_vocab()  # a copy of all of it, each time
    missing = [token for token in COORD_TOKENS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=HEAD_ROWS_MULTIPLE, mean_resizing=False)
    if missing:
        digit_ids = tokenizer.convert_tokens_to_ids(list("0123456789"))
        digits = digit_ids if cfg.coord_init is CoordInit.digits else None
        set_coordinate_rows(model, coord_token_ids(tokenizer), cfg.coord_init_frequencies, digits)
    _set_generation_tokens(model, tokenizer)
    return model, build_processor(tokenizer, model.config.vision_config.patch_size)


def _mrope_section(head_dim: int) -> list[int]:
    """Rotary frequencies of time, height and width: a third each, time takes the rest."""
    third = head_dim // 6
    return [head_dim // 2 - 2 * third, third, third]


def _set_generation_tokens(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Greedy by default, ending at the end of the turn."""
    model.generation_config.do_sample = False
    model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")


def device_for(runtime: DictConfig) -> str:
    """`cuda` where CUDA sees a GPU that may be used, else `cpu`; sums are float64, which other accelerators lack."""
    return "cuda" if runtime.device == "auto" and torch.cuda.is_available() else "cpu"


def load_base(path: Path, dtype: torch.dtype) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Model and processor from a Hugging Face directory of this project."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # its kernels are built anew for each shape, and no two batches have one
    model = Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
    model.model.visual.patch_embed.proj.__class__ = PatchProjection
    return model, load_processor(path)


class PatchProjection(nn.Conv3d):
    """Where a kernel covers its whole patch a convolution is a matrix product, and much slower when it is not told so."""

    def forward(self, patches: Tensor) -> Tensor:
        """[n, channels, time, height, width] -> [n, d, 1, 1, 1]"""
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def load_for_training(cfg: DictConfig, device: torch.device) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """The base model as `cfg.optim` and `cfg.train` want it trained, still on the CPU, in training mode."""
    dtype = getattr(torch, cfg.train.dtype)
    vlm, processor = load_base(base_path(cfg) / "model", dtype)
    if has_flash(device, dtype):
        use_flash(vlm)
    if cfg.optim.adapter.rank:
        add_adapters(vlm, cfg.optim.adapter, coord_token_ids(processor.tokenizer), cfg.seed)
    if cfg.train.gradient_checkpointing:
        vlm.activation_checkpointing_enable({"use_reentrant": False})
    return vlm.train(), processor


def trained_weights(vlm: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name; a shared one once."""
    return {name: parameter.detach() for name, parameter in vlm.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def restore_weights(vlm: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what `trained_weights` gave."""
    for name, weight in trained_weights(vlm).items():
        weight.copy_(weights[name])


def save_pretrained(model: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path) -> None:
    """Write a complete Hugging Face directory, whole or not at all."""
    with replacing_directory(path) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by part: vision, aligner (the mergers), language (with the embeddings), and the coordinate
    rows where they are parameters of their own (see adapters.py)."""
    found: dict[str, list[nn.Parameter]] = {"vision": [], "aligner": [], "language": [], "coord": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "trainable_tokens" in name:
            part = "coord"
        else:
            part = "language" if "visual." not in name else "aligner" if "merger" in name else "vision"
        found[part].append(parameter)
    return found


def save_checkpoint(vlm: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path, what: str) -> None:
    """A complete Hugging Face directory, with a model card; one that is there already is left as it is.

    Adapters are folded into it, so that it loads like any other; they are kept beside, in adapter/.
    """
    if path.exists():
        return
    with replacing_directory(path) as temporary:
        save_adapted(vlm, temporary) if is_adapted(vlm) else vlm.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        (temporary / "README.md").write_text(MODEL_CARD.format(what=what))
