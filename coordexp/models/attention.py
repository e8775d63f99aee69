"""Attention over samples laid end to end, with the FlashAttention kernels that are part of PyTorch.

transformers knows attention by name, and takes a name with "flash" in it for one that tells samples apart by where they
end: it hands over a batch's pictures in one piece. For text its mask function is asked once a forward, and what it gives
reaches every layer; here that is where the samples of a pack end, [1, 1, 1, n + 1] int32, instead of a mask over all of its
tokens. Padded batches, and answers as they are generated, go the usual way.
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


def ends_or_mask(batch_size: int, q_length: int, kv_length: int, mask_function: Any, attention_mask: Tensor | None = None,
                 device: torch.device | str = "cpu", **kwargs: Any) -> Tensor | None:  # fmt: skip
    """Where samples end, 0 first, for one row of tokens that nothing masks; else the mask that SDPA takes.

    # -> [1, 1, 1, n + 1] int32, or [B, 1, L, L] bool, or None
    """
    if batch_size > 1 or q_length != kv_length or attention_mask is not None:
        how = {
            "mask_function": mask_function,
            "attention_mask": attention_mask,
            "device": device,
            **kwargs,
        }
        return sdpa_mask(batch_size, q_length, kv_length, **how)
    at = torch.arange(1, q_length, device=device)
    begins: Tensor = ~mask_function(
        torch.zeros_like(at), torch.zeros_like(at), at, at - 1
    )  # not seeing the token before it
    edges = [at.new_zeros(1), at[begins], at.new_full((1,), q_length)]
    return torch.cat(edges).int()[None, None, None]


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
    """What transformers calls in each layer  # [B, heads, L, d] -> [B, L, heads, d]"""
    ends, longest = cu_seq_lens_q, max_length_q
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        ends, longest = (
            attention_mask.flatten(),
            query.shape[2],
        )  # a bound will do: blocks behind a sample's end return at once
    if ends is None or longest is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, d]
    window = (-1, 0) if module.is_causal else (-1, -1)
    found: Any = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scaling, window_size=window
    )
    return found[None], None


AttentionInterface.register(FLASH, attend)
AttentionMaskInterface.register(FLASH, ends_or_mask)


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether these kernels run there: in half precision, from NVIDIA's Ampere on."""
    half = dtype in (torch.bfloat16, torch.float16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def use_flash(vlm: Any) -> None:
    """Use this attention from now on, in the language model and the vision tower.

    transformers' own setter, `set_attn_implementation`, refuses it: for every name that contains "flash" it looks for an
    installed package or a hub kernel of that name (5.23), also where the name is registered, and without "flash" in the
    name the vision tower is not told where images end. So the name is set where the setter would have put it.
    """
    vlm.config._attn_implementation = FLASH


def takes_packs(vlm: Any) -> bool:
    """Whether samples may be laid end to end: this attention skips what lies between them, others would compute it."""
    return vlm.config._attn_implementation == FLASH
