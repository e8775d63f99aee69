"""Low-rank adapters on every linear layer, and trainable coordinate rows.

LoRA keeps W frozen and trains B A: W + (alpha / r) B A (Hu et al., 2021). DoRA also trains the
norm m of each row of that sum: m (W + (alpha / r) B A) / its row norms (Liu et al., 2024). The
adapted model keeps its class and methods. Of the embedding and the head, only the coordinate rows
are trained; if the two are tied, they share one trained copy.

Only adapters.py, lora.py and merging.py use peft. It is imported when adapters are added, not
before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.schema import AdapterConfig

ADAPTER_NAME = "default"  # the name under which peft keeps an adapter's weights

# The linear layers of the language model, of the vision tower and of its mergers (DeepStack's too);
# not the head.
_LINEAR_LAYERS = (
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    r"|model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
    r"|model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
)


def add_adapters(
    vlm: Qwen3VLForConditionalGeneration, cfg: AdapterConfig, coord_ids: list[int], seed: int
) -> None:
    """Freeze `vlm`; add adapters and trainable coordinate rows, in place. Outputs stay the same.

    Trained weights are kept in float32 or wider, because an AdamW update is smaller than the
    spacing of bfloat16 numbers. With a bfloat16 base, use `hidden_states` or `autocast_for`, so
    that the adapters' matrix products run in bfloat16 too.

    Args:
        vlm: the base model.
        cfg: rank (at least 1), alpha, dropout, and whether to use DoRA.
        coord_ids: [K] token ids of the bins, in order.
        seed: of the adapters' initial values.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from coordexp.models.lora import LoraLinear

    if vlm.config.tie_word_embeddings:
        modules_with_rows = ["embed_tokens"]
    else:
        modules_with_rows = ["embed_tokens", "lm_head"]
    config = LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        use_dora=cfg.dora,
        target_modules=_LINEAR_LAYERS,
        trainable_token_indices={name: list(coord_ids) for name in modules_with_rows},
    )
    if not cfg.dora:
        config._register_custom_module({nn.Linear: LoraLinear})

    torch.manual_seed(seed)
    inject_adapter_in_model(config, vlm, ADAPTER_NAME)
    for parameter in vlm.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()

    # peft computes DoRA's row norms in the base's dtype. In bfloat16 they are rounded, so the
    # adapted model would not start from the base's outputs. Recompute them in the dtype in which
    # they are trained.
    if cfg.dora:
        for _, layer in adapted_layers(vlm):
            magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight
            magnitude.data = layer.get_base_layer().weight.data.to(magnitude.dtype).norm(dim=1)


def merge_saved_adapter(vlm: Qwen3VLForConditionalGeneration, directory: Path) -> list[str]:
    """Merge an adapter that peft saved, of any kind, into the weights of `vlm`, in place.

    Returns:
        Names of weights of the adapter that `vlm` has no place for, or that are missing; if there
        are some, nothing is merged.
    """
    from peft import PeftConfig, PeftModel

    adapted = PeftModel(vlm, PeftConfig.from_pretrained(str(directory)), ADAPTER_NAME)
    loading = adapted.load_adapter(
        str(directory), ADAPTER_NAME, torch_device="cpu", use_safetensors=True
    )
    missing = [name for name in loading.missing_keys if ADAPTER_NAME in name.split(".")]
    unfit = sorted([*loading.unexpected_keys, *missing])
    if not unfit:
        adapted.merge_and_unload()
    return unfit


def is_adapted(vlm: nn.Module) -> bool:
    """Whether `add_adapters` changed this model (and `merging.fold_in` has not changed it back)."""
    return hasattr(vlm, "peft_config")


def autocast_for(vlm: Any) -> AbstractContextManager:
    """The autocast a forward pass needs: bfloat16 for adapters around a bfloat16 base, else none.

    The adapters are float32 there. Without autocast their matrix products would run in float32, or
    fail because of mixed dtypes.
    """
    if is_adapted(vlm) and vlm.dtype == torch.bfloat16:
        return torch.autocast(vlm.device.type, torch.bfloat16)
    return nullcontext()


def hidden_states(vlm: Any, **inputs: Any) -> Tensor:
    """The last layer's hidden states of a plain or adapted model, before the head  # [B, L, d]

    `inputs` are the arguments of the model without its head (`vlm.model`).
    """
    with autocast_for(vlm):
        return vlm.model(**inputs).last_hidden_state


def head_weights(vlm: Any) -> tuple[Tensor, Tensor | None]:
    """The head's weight [V, d], and the trained rows [K, d] that replace its rows of the bins.

    The trained rows are in the order of bins. Without adapters the second value is None: the weight
    contains the coordinate rows, and all of it is trained.
    """
    head = vlm.get_output_embeddings()
    if not is_adapted(vlm):
        return head.weight, None
    return head.token_adapter.base_layer.weight, head.token_adapter.trainable_tokens_delta[
        ADAPTER_NAME
    ]


def adapted_layers(vlm: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each linear layer that has an adapter."""
    from peft.tuners.lora import Linear

    for name, module in vlm.named_modules():
        if isinstance(module, Linear):
            yield name, module
