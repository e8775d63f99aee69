"""Attention over packed samples, with the FlashAttention kernels that are part of PyTorch.

transformers looks attention functions up by their registered name. If the name contains "flash",
the vision tower passes the patches of all images of a batch at once, together with the offsets
between images. For text, transformers calls the registered mask function once per forward pass and
gives its result to every layer. For a pack, that result is the offsets between samples, [1, 1, 1,
n + 1] int32, instead of a mask over all tokens. Padded batches and generation use PyTorch's SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLASH = "torch_flash"


def ends_or_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """The mask function that transformers calls: offsets for a pack, else a mask for SDPA.

    Args:
        batch_size: a pack has one row.
        q_length: tokens of a row. A pack has no cache, so `kv_length` is the same.
        mask_function: (batch, head, query, key) indices -> whether the query sees the key.
        attention_mask: of a padded batch, else None.

    Returns:
        Offsets at which samples begin and end, 0 first, [1, 1, 1, n + 1] int32; or [B, 1, L, L]
        bool; or None.
    """
    if batch_size > 1 or q_length != kv_length or attention_mask is not None:
        return sdpa_mask(
            batch_size,
            q_length,
            kv_length,
            mask_function=mask_function,
            attention_mask=attention_mask,
            device=device,
            **kwargs,
        )
    # A sample begins at each token that does not see the token before it.
    token = torch.arange(1, q_length, device=device)
    zero = torch.zeros_like(token)
    begins: Tensor = ~mask_function(zero, zero, token, token - 1)
    offsets = [token.new_zeros(1), token[begins], token.new_full((1,), q_length)]
    return torch.cat(offsets).int()[None, None, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that each layer calls  # [B, heads, L, d] -> [B, L, heads, d]

    `attention_mask` is what `ends_or_mask` returned; the vision tower has none and passes the
    offsets as `cu_seq_lens_q`.
    """
    ends, longest = cu_seq_lens_q, max_length_q
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        # The kernel needs only an upper bound on the longest sample: blocks beyond a sample's end
        # return at once.
        ends, longest = attention_mask.flatten(), query.shape[2]
    if ends is None or longest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )

    # The kernel expects as many key and value heads as query heads, and tokens before heads.
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, d]
    window = (-1, 0) if module.is_causal else (-1, -1)
    attended: Any = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scaling, window_size=window
    )
    return attended[None], None


AttentionInterface.register(FLASH, attend)
AttentionMaskInterface.register(FLASH, ends_or_mask)


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels support this device and dtype: NVIDIA Ampere or newer, half precision."""
    half = dtype in (torch.bfloat16, torch.float16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def use_flash(vlm: Any) -> None:
    """Use this attention from now on, in the language model and the vision tower.

    transformers' own setter, `set_attn_implementation`, refuses the name (5.23): for each name that
    contains "flash", registered or not, it looks for an installed package or a hub kernel of that
    name. So this function writes the name to the attribute that the setter would have set.
    """
    vlm.config._attn_implementation = FLASH


def takes_packs(vlm: Any) -> bool:
    """Whether samples can be packed: only this attention skips pairs of different samples."""
    return vlm.config._attn_implementation == FLASH
