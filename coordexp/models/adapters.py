"""Low-rank adapters on every linear layer, and trainable coordinate rows. The only file that imports peft.

LoRA trains B A beside a frozen W: W + (alpha / r) B A (Hu et al., 2021). DoRA also trains the length of each row:
m (W + (alpha / r) B A) / its row norms (Liu et al., 2024). The adapted model keeps its class and methods; a tied
embedding and head share one copy of the coordinate rows, and nothing else of either is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.schema import AdapterConfig

_NAME = "default"  # under which peft keeps an adapter's weights

# The linear layers of the language model, the vision tower and its mergers (DeepStack's too); not the head.
_LINEAR_LAYERS = (
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
    r"|model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
)


def add_adapters(
    vlm: Qwen3VLForConditionalGeneration, cfg: AdapterConfig, coord_ids: list[int], seed: int
) -> None:
    """Freeze `vlm` and add adapters of `cfg.rank` and trainable coordinate rows, in place; its outputs stay as they were.

    What is trained is held in float32 at least: an AdamW update is smaller than a bfloat16 can tell from nothing. Around
    a bfloat16 base the products run under autocast, so that the adapters' are as fast as the base's.
    """
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    tied = vlm.config.tie_word_embeddings
    config = LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        use_dora=cfg.dora,
        target_modules=_LINEAR_LAYERS,
        trainable_token_indices={
            name: list(coord_ids) for name in ("embed_tokens", "lm_head")[: 1 if tied else 2]
        },
    )
    inject_adapter_in_model(config, vlm, _NAME)
    for parameter in vlm.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    for _, layer in _adapted_layers(vlm):
        if not cfg.dora:
            layer.forward = partial(_lora_forward, layer)
        else:  # peft takes the norms in the base's dtype: in bfloat16 the first output would not be the base's
            magnitude = layer.lora_magnitude_vector[_NAME].weight
            magnitude.data = layer.get_base_layer().weight.data.to(magnitude.dtype).norm(dim=1)
    if vlm.dtype == torch.bfloat16:
        vlm.model.forward = _autocast(vlm.model.forward, vlm)


def _lora_forward(layer: Any, x: Tensor) -> Tensor:
    """W x + (alpha / r) B A x, as peft's own forward, which widens x to float32 for an autocast that narrows it again, keeps
    both for the backward pass, and goes over the sum three times; here the second product adds to the first.

    # [..., in] -> [..., out]
    """
    plain = layer.base_layer(x)
    low = layer.lora_A[_NAME](layer.lora_dropout[_NAME](x)) * layer.scaling[_NAME]  # [..., r]
    summed = torch.addmm(plain.flatten(0, -2), low.flatten(0, -2), layer.lora_B[_NAME].weight.T)
    return summed.view(plain.shape)


def _autocast(forward: Any, vlm: nn.Module) -> Any:
    """`forward` under bfloat16 autocast on whatever device the model lies by then."""

    def autocast_forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(next(vlm.parameters()).device.type, torch.bfloat16):
            return forward(*args, **kwargs)

    return autocast_forward


def is_adapted(vlm: nn.Module) -> bool:
    return hasattr(vlm, "peft_config")


def head_weights(vlm: Any) -> tuple[Tensor, Tensor | None]:
    """The head's weight [V, d], and the coordinate rows [K, d] that stand in for its rows, in the order of bins.

    The second is None where there are no adapters: then the weight holds every row itself, as the trained parameter.
    """
    head = vlm.get_output_embeddings()
    if not is_adapted(vlm):
        return head.weight, None
    return head.token_adapter.base_layer.weight, head.token_adapter.trainable_tokens_delta[_NAME]


def _adapted_layers(vlm: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import Linear

    return ((name, module) for name, module in vlm.named_modules() if isinstance(module, Linear))


def merged_weight(layer: Any) -> Tensor:
    """The plain weight that does what the adapted layer does, in the base's dtype  # [out, in]

    The products and norms are taken in the adapter's dtype, float32 at least, and rounded once, at the end.
    """
    base, down, up = (
        layer.get_base_layer().weight,
        layer.lora_A[_NAME].weight,
        layer.lora_B[_NAME].weight,
    )
    weight = base.to(up.dtype) + layer.scaling[_NAME] * (up @ down)
    if _NAME in layer.lora_magnitude_vector:
        weight *= (layer.lora_magnitude_vector[_NAME].weight / weight.norm(dim=1))[:, None]
    return weight.to(base.dtype)


def merged_rows(wrapper: Any) -> Tensor:
    """The embedding (or head) with the trained coordinate rows written into it, in its dtype  # [V, d]"""
    adapter = wrapper.token_adapter
    merged = adapter.base_layer.weight.detach().clone()
    merged[adapter.token_indices[_NAME]] = adapter.trainable_tokens_delta[_NAME].detach().to(merged)
    return merged


@torch.no_grad()
def merged_state(vlm: Qwen3VLForConditionalGeneration) -> dict[str, Tensor]:
    """The weights of the plain model with the adapters folded in, on the CPU; `vlm` is not touched.

    It goes tensor by tensor: beside the adapted model its device holds one merged matrix at a time.
    """
    state = {f"{name}.weight": merged_weight(layer).cpu() for name, layer in _adapted_layers(vlm)}
    embedding, head = "model.language_model.embed_tokens.weight", "lm_head.weight"
    state[embedding] = merged_rows(vlm.get_input_embeddings()).cpu()
    state[head] = (
        state[embedding]
        if vlm.config.tie_word_embeddings
        else merged_rows(vlm.get_output_embeddings()).cpu()
    )
    for name, parameter in vlm.named_parameters():
        if not parameter.requires_grad:
            state.setdefault(
                name.replace(".token_adapter", "").replace(".base_layer", ""),
                parameter.detach().cpu(),
            )
    return state


@torch.no_grad()
def fold_in(vlm: Qwen3VLForConditionalGeneration) -> None:
    """Make the adapted model plain again, in place: what was trained becomes part of its weights, in their dtype."""
    for name, layer in list(_adapted_layers(vlm)):
        plain = layer.get_base_layer()
        plain.weight.copy_(merged_weight(layer))
        vlm.set_submodule(name, plain)
    for name in ("model.language_model.embed_tokens", "lm_head"):
        wrapper = vlm.get_submodule(name)
        plain = wrapper.token_adapter.base_layer
        plain.weight.copy_(merged_rows(wrapper))
        vlm.set_submodule(name, plain)
    vars(vlm.model).pop("forward", None)  # the autocast around a bfloat16 base
    del vlm.peft_config


def save_adapted(vlm: Qwen3VLForConditionalGeneration, path: Path) -> None:
    """The merged model, to be loaded without peft, and in adapter/ what was trained alone.

    `peft.PeftModel.from_pretrained(base, path / "adapter")` reads the latter.
    """
    config = copy.deepcopy(vlm.config)
    config._attn_implementation = (
        "sdpa"  # transformers builds no model with an attention that it has no package for
    )
    with torch.device("meta"):
        plain = type(vlm)(config)
    plain.load_state_dict(merged_state(vlm), assign=True)
    plain.tie_weights()
    plain.generation_config = vlm.generation_config
    plain.save_pretrained(path)
    trained = {
        name: p.detach().contiguous().cpu() for name, p in vlm.named_parameters() if p.requires_grad
    }
    named = {
        f"base_model.model.{name.replace(f'.{_NAME}', '')}": weight
        for name, weight in trained.items()
    }
    vlm.peft_config[_NAME].save_pretrained(path / "adapter")
    save_file(named, path / "adapter" / "adapter_model.safetensors")
