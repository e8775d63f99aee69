"""A small random Qwen3-VL on disk, laid out like the 4B release: same fields, vocabulary, tokenizer
files and shards.

Only widths and depths are smaller. What the release has and a small model needs not: 151,643 BPE
tokens and 26 added ones in an embedding of 151,936 rows, grouped-query heads 128 wide, DeepStack, a
tied head, bfloat16.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

BPE_TOKENS, EMBEDDING_ROWS = 151_643, 151_936
ADDED_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
N_SPECIAL = ADDED_TOKENS.index("<tool_call>")  # the rest are added tokens, but not special ones

TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "dtype": "bfloat16",
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 262144,
    "model_type": "qwen3_vl_text",
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "rope_scaling": {
        "mrope_interleaved": True,
        "mrope_section": [24, 20, 20],
        "rope_type": "default",
    },
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": EMBEDDING_ROWS,
}
VISION = {
    "deepstack_visual_indexes": [0, 1, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "model_type": "qwen3_vl",
    "num_heads": 2,
    "num_position_embeddings": 2304,
    "out_hidden_size": 32,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": TEXT,
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 151656,
    "vision_config": VISION,
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}
GENERATION = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "repetition_penalty": 1.0,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "transformers_version": "4.56.0",
}
IMAGES = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "merge_size": 2,
    "patch_size": 16,
    "processor_class": "Qwen3VLProcessor",
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "temporal_patch_size": 2,
}


# What the published 4B model has instead of the small one's widths and depths.
PUBLISHED_4B = CONFIG | {
    "text_config": TEXT
    | {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
    },
    "vision_config": VISION
    | {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2560,
    },
}


def write_release(path: Path, config: dict = CONFIG) -> Path:
    """The whole directory: about 10 MB of weights in several shards (8.9 GB of PUBLISHED_4B), 10 MB
    of tokenizer.
    """
    path.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.device("cuda" if config is PUBLISHED_4B and torch.cuda.is_available() else "cpu"):
        model = Qwen3VLForConditionalGeneration._from_config(
            Qwen3VLConfig.from_dict(config), dtype=torch.bfloat16
        )
    model.save_pretrained(path, max_shard_size="4MB" if config is CONFIG else "5GB")
    write_tokenizer(path)
    for name, content in {
        "config": config,
        "generation_config": GENERATION,
        "preprocessor_config": IMAGES,
        "video_preprocessor_config": IMAGES | {"video_processor_type": "Qwen3VLVideoProcessor"},
        "chat_template": {"chat_template": CHAT_TEMPLATE},
    }.items():
        (path / f"{name}.json").write_text(json.dumps(content, indent=2))
    return path


def write_tokenizer(path: Path) -> None:
    """vocab.json, merges.txt, tokenizer.json and tokenizer_config.json of a byte-level BPE that
    knows no word.
    """
    vocab = {piece: i for i, piece in enumerate(bytes_to_unicode().values())}
    letters = [chr(c) for c in range(ord("A"), ord("z") + 1) if chr(c) != "`"]
    pairs = itertools.chain(
        itertools.product(letters, repeat=2),
        itertools.product(map("".join, itertools.product(letters, repeat=2)), letters),
    )
    merges = list(itertools.islice(pairs, BPE_TOKENS - len(vocab)))
    vocab |= {"".join(merge): len(vocab) + i for i, merge in enumerate(merges)}
    assert len(vocab) == BPE_TOKENS
    added = [
        {
            "id": BPE_TOKENS + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i < N_SPECIAL,
        }
        for i, token in enumerate(ADDED_TOKENS)
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": PRETOKENIZE_REGEX},
        "behavior": "Isolated",
        "invert": False,
    }
    pairs_of_bpe = [" ".join(merge) for merge in merges]
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": pairs_of_bpe,
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": bpe,
    }
    decoder = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in added
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": list(ADDED_TOKENS[1:N_SPECIAL]),
        "chat_template": CHAT_TEMPLATE,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (path / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (path / "merges.txt").write_text("\n".join(pairs_of_bpe) + "\n")
    (path / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))
    (path / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))


# One turn of the release's template; it has no `generation` block, so the project brings its own.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- for content in message.content %}"
    "{%- if content.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in content %}{{- content.text }}{%- endif %}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
