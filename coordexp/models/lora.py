"""The LoRA layer that adapters.py puts around a linear layer.

peft builds it through `LoraConfig._register_custom_module`, its extension point for other LoRA
layers (peft 0.21, developer guide "Custom models"). Importing this file imports peft, so
adapters.py imports it only when it adds adapters.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor


class LoraLinear(Linear):
    """W x + b + (alpha / r) B A x, for one adapter, active and not merged (Hu et al., 2021).

    peft's own forward casts x to float32, autocast casts it back, both copies are saved for the
    backward pass, and the sum is read three times. Here autocast casts the weights of A and B
    instead, and one `addmm` adds the product with B to W x. The values are the same up to the
    rounding of that sum; a test compares the two.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] -> [..., out]. `args` and `kwargs` go to the wrapped layer, as in peft."""
        (name,) = self.active_adapters
        base = self.base_layer(x, *args, **kwargs)
        low_rank = self.lora_A[name](self.lora_dropout[name](x)) * self.scaling[name]  # [..., r]
        up: Any = self.lora_B[name].weight  # [out, r]
        return torch.addmm(base.flatten(0, -2), low_rank.flatten(0, -2), up.T).view(base.shape)
