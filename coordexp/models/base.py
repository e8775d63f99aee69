"""The base model: built tiny and offline, or loaded and extended by the coordinate tokens.

Either way it is saved once, as a Hugging Face directory in results/base/<name>-<hash8>/. Every
variant starts from those bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from coordexp.config.checks import is_missing_directory
from coordexp.config.schema import (
    Config,
    CoordInit,
    PretrainedQwen3VLConfig,
    TinyQwen3VLConfig,
)
from coordexp.coords import COORD_TOKENS, coord_token_ids
from coordexp.data.chat import IMAGE_TOKEN
from coordexp.data.coco.annotations import annotated_names
from coordexp.data.scenes import CATEGORIES
from coordexp.errors import UserError, first_line
from coordexp.models.base_manifest import BaseManifest, write_base_manifest
from coordexp.models.checkpoints import save_pretrained
from coordexp.models.embeddings import set_coordinate_rows, set_position_rows
from coordexp.models.processor import ImageProcessor, build_processor, build_tokenizer
from coordexp.models.processor_files import find_video_settings
from coordexp.models.weight_files import (
    COMPLETE,
    refuse_not_finite,
    refuse_unknown_weights,
    refuse_unusable_files,
)
from coordexp.storage.digest_store import known_sha256_directory
from coordexp.storage.files import locked
from coordexp.storage.identity import (
    Sources,
    base_contents,
    base_path,
    source_sha256,
    write_sources,
)

HEAD_ROWS_MULTIPLE = (
    64  # an extended vocabulary is padded to a multiple of this: full tiles make products faster
)


def prepare_base(cfg: Config) -> Path:
    """Make the base model of `cfg.model` if it does not exist; returns its manifest's path.

    Raises:
        UserError: the pretrained model cannot be found, is not a Qwen3-VL, or is incomplete.
    """
    out = base_path(cfg)
    with locked(out / ".lock", "being prepared", wait=True):
        if (out / "base.json").exists():
            return out / "base.json"
        model, processor = build(cfg)
        save_pretrained(model, processor, out / "model")
        if isinstance(cfg.model, PretrainedQwen3VLConfig):
            release = source_sha256(cfg.model.path, is_release=True)
            write_sources(out, Sources({cfg.model.path: release} if release else {}))
        write_base_manifest(
            out / "base.json",
            BaseManifest(
                model=base_contents(cfg),
                sha256=known_sha256_directory(out / "model"),
                parameters=sum(p.numel() for p in model.parameters()),
                vocabulary=len(processor.tokenizer),
            ),
        )
    return out / "base.json"


def build(cfg: Config) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Build the base model that the configuration describes: tiny, or from a pretrained one."""
    if isinstance(cfg.model, TinyQwen3VLConfig):
        names = annotated_names(cfg.data) if cfg.model.names_of_data else CATEGORIES
        return build_tiny(cfg.model, names)
    if isinstance(cfg.model, PretrainedQwen3VLConfig):
        return grow_pretrained(cfg.model)
    raise TypeError(f"no base model is built from {type(cfg.model).__name__}")


def build_tiny(
    cfg: TinyQwen3VLConfig, names: Sequence[str] = CATEGORIES
) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """A randomly initialised Qwen3-VL of the configured size, with smooth coordinate rows.

    `names` of objects train its tokenizer.
    """
    tokenizer = build_tokenizer(cfg.vocabulary_size, names)
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
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
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


def grow_pretrained(
    cfg: PretrainedQwen3VLConfig,
) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Load a Qwen3-VL in its published precision, and add the coordinate tokens that it lacks.

    The embedding of a release has more rows than its tokenizer has tokens (151,936 for 151,669).
    New tokens take these spare rows first.

    Raises:
        UserError: `model.path` is neither a local directory nor a reachable hub name, or does not
            hold a complete Qwen3-VL.
    """
    model, tokenizer = load_whole(f"model.path={cfg.path}", cfg.path, "auto")
    vocabulary = tokenizer.get_vocab()  # call it once: each call copies the vocabulary
    missing = [token for token in COORD_TOKENS if token not in vocabulary]
    tokenizer.add_tokens(missing, special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        torch.manual_seed(0)  # for the rows that pad the vocabulary
        model.resize_token_embeddings(
            len(tokenizer), pad_to_multiple_of=HEAD_ROWS_MULTIPLE, mean_resizing=False
        )
    if missing:
        digit_ids = tokenizer.convert_tokens_to_ids(list("0123456789"))
        digits = digit_ids if cfg.coord_init is CoordInit.digits else None
        set_coordinate_rows(model, coord_token_ids(tokenizer), cfg.coord_init_frequencies, digits)
    _set_generation_tokens(model, tokenizer)
    processor = build_processor(tokenizer, model.config.vision_config.patch_size)
    processor.videos = find_video_settings(cfg.path)
    return model, processor


# What transformers raises for a file that is damaged, or not what its name says.
BROKEN_FILES = (
    OSError,
    ValueError,
    RuntimeError,
    SafetensorError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    StrictDataclassError,
)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a directory or hub name; no code of it is run.

    A directory is read alone, whatever hub its files name.

    Raises:
        UserError: a file of it is damaged.
    """
    local = Path(path).is_dir()
    damaged = f"{path}: its tokenizer cannot be read"
    try:
        if (file := Path(path) / "tokenizer.json").is_file():
            # ValueError where it is damaged; what transformers calls raises a bare Exception.
            Tokenizer.from_buffer(file.read_bytes())
        tokenizer = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        )
    except BROKEN_FILES as error:
        raise UserError(f"{damaged} ({first_line(error)}): {COMPLETE}") from error
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(f"{damaged} (model_max_length is no number): {COMPLETE}")
    return tokenizer


def load_whole(
    named: str, path: str, dtype: torch.dtype | str
) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """Model and tokenizer that another program wrote; error messages call them `named`.

    No code of the directory is run, and no pickle is read. A directory is read alone: an attention
    kernel that its configuration names would be fetched from a hub, so attention is PyTorch's own.

    Raises:
        UserError: there is no Qwen3-VL, or it is incomplete (transformers would initialise missing
            weights at random), or its weights are not finite.
    """
    if is_missing_directory(path):
        raise UserError(f"{named}: no such directory")
    try:
        local = Path(path).is_dir()
        if local:
            refuse_unusable_files(named, Path(path))
        kind = AutoConfig.from_pretrained(
            path, trust_remote_code=False, local_files_only=local
        ).model_type
        if kind != Qwen3VLConfig.model_type:
            raise UserError(f"{named}: a {kind}, not a {Qwen3VLConfig.model_type}")
        model, loading = Qwen3VLForConditionalGeneration.from_pretrained(
            path,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=local,
            use_safetensors=True,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
        tokenizer = load_tokenizer(path)
    except BROKEN_FILES as error:
        reason = first_line(error)
        if isinstance(error, KeyError):
            reason = f"a file lacks the key {reason}"
        advice = COMPLETE if Path(path).is_dir() else "give a local directory"
        raise UserError(f"{named}: no Qwen3-VL could be loaded ({reason}): {advice}") from error
    if mismatched := sorted(str(entry[0]) for entry in loading["mismatched_keys"]):
        told = f"{len(mismatched)} of its weights have another shape than config.json says"
        raise UserError(f"{named}: {told}, such as {mismatched[0]}: are its files of one model?")
    if missing := sorted(loading["missing_keys"]):
        told = f"{len(missing)} of its weights are not there, such as {missing[0]}"
        raise UserError(f"{named}: {told}: {COMPLETE}")
    refuse_unknown_weights(named, loading["unexpected_keys"])
    refuse_not_finite(named, model)
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) != model.config.image_token_id:
        told = (
            f"its tokenizer does not have {IMAGE_TOKEN} as token {model.config.image_token_id}, "
            "as its configuration says"
        )
        raise UserError(f"{named}: {told}: {COMPLETE}")
    return model, tokenizer


def _mrope_section(head_dim: int) -> list[int]:
    """Numbers of rotary frequencies of time, height and width: a third each; time gets the rest."""
    third = head_dim // 6
    return [head_dim // 2 - 2 * third, third, third]


def _set_generation_tokens(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Set the generation defaults: greedy decoding that stops at the end of the turn."""
    model.generation_config.do_sample = False
    model.generation_config.temperature = model.generation_config.top_p = (
        model.generation_config.top_k
    ) = None
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
