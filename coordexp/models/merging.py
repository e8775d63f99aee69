"""Merge adapters into the weights: for a checkpoint on disk, or in the model itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from coordexp.models.adapters import ADAPTER_NAME, adapted_layers

_EMBEDDING = "model.language_model.embed_tokens"
_HEAD = "lm_head"


def merged_weight(layer: Any) -> Tensor:
    """The weight of a plain layer equal to the adapted one, in the base's dtype  # [out, in]

    Products and norms are computed in the adapter's dtype (float32 or wider) and rounded once, at
    the end.
    """
    base = layer.get_base_layer().weight
    down = layer.lora_A[ADAPTER_NAME].weight  # [r, in]
    up = layer.lora_B[ADAPTER_NAME].weight  # [out, r]
    weight = base.to(up.dtype) + layer.scaling[ADAPTER_NAME] * (up @ down)
    if ADAPTER_NAME in layer.lora_magnitude_vector:  # DoRA trains the norm of each row
        weight *= (layer.lora_magnitude_vector[ADAPTER_NAME].weight / weight.norm(dim=1))[:, None]
    return weight.to(base.dtype)


def merged_rows(wrapper: Any) -> Tensor:
    """The embedding's or head's weight with the trained rows in it, in its dtype  # [V, d]"""
    adapter = wrapper.token_adapter
    merged = adapter.base_layer.weight.detach().clone()
    rows = adapter.trainable_tokens_delta[ADAPTER_NAME].detach()  # [K, d]
    merged[adapter.token_indices[ADAPTER_NAME]] = rows.to(merged)
    return merged


@torch.no_grad()
def merged_state(vlm: Qwen3VLForConditionalGeneration) -> dict[str, Tensor]:
    """The plain model's state dict with the adapters merged in, on the CPU. `vlm` does not change.

    It merges layer by layer: the device holds the adapted model and one merged matrix at a time.
    """
    state = {f"{name}.weight": merged_weight(layer).cpu() for name, layer in adapted_layers(vlm)}
    embedding = merged_rows(vlm.get_input_embeddings()).cpu()
    state[f"{_EMBEDDING}.weight"] = embedding
    if vlm.config.tie_word_embeddings:
        state[f"{_HEAD}.weight"] = embedding
    else:
        state[f"{_HEAD}.weight"] = merged_rows(vlm.get_output_embeddings()).cpu()

    # All other weights are frozen. Remove the name parts that peft's wrappers have added.
    for name, parameter in vlm.named_parameters():
        if not parameter.requires_grad:
            plain_name = name.replace(".token_adapter", "").replace(".base_layer", "")
            state.setdefault(plain_name, parameter.detach().cpu())
    return state


@torch.no_grad()
def fold_in(vlm: Qwen3VLForConditionalGeneration) -> None:
    """Merge the adapters into the weights, in place and in their dtype: `vlm` is plain again."""
    for name, layer in list(adapted_layers(vlm)):
        plain = layer.get_base_layer()
        plain.weight.copy_(merged_weight(layer))
        vlm.set_submodule(name, plain)
    for name in (_EMBEDDING, _HEAD):
        wrapper = vlm.get_submodule(name)
        plain = wrapper.token_adapter.base_layer
        plain.weight.copy_(merged_rows(wrapper))
        vlm.set_submodule(name, plain)
    del vlm.peft_config


def save_adapted(vlm: Qwen3VLForConditionalGeneration, path: Path) -> None:
    """Write the merged model, which loads without peft, and the trained weights in `path`/adapter.

    `peft.PeftModel.from_pretrained(base, path / "adapter")` reads the latter.
    """
    # transformers refuses to build a model with our attention (attention.py), so the copy has
    # PyTorch's SDPA in its configuration.
    config = copy.deepcopy(vlm.config)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):  # allocates no weights: the merged weights are assigned below
        plain = type(vlm)(config)
    plain.load_state_dict(merged_state(vlm), assign=True)
    plain.tie_weights()
    plain.generation_config = vlm.generation_config
    plain.save_pretrained(path)

    # Use the names of PeftModel.save_pretrained: below base_model.model, without the adapter's
    # name.
    adapter_weights = {}
    for name, parameter in vlm.named_parameters():
        if parameter.requires_grad:
            peft_name = f"base_model.model.{name.replace(f'.{ADAPTER_NAME}', '')}"
            adapter_weights[peft_name] = parameter.detach().contiguous().cpu()
    vlm.peft_config[ADAPTER_NAME].save_pretrained(path / "adapter")
    save_file(adapter_weights, path / "adapter" / "adapter_model.safetensors")
