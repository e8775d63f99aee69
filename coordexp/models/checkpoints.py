"""Load the base model for training, list its weights by part, and save checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.schema import Config, Device, RuntimeConfig
from coordexp.coords import coord_token_ids
from coordexp.models.adapters import add_adapters, is_adapted
from coordexp.models.attention import has_flash, use_flash
from coordexp.models.merging import save_adapted
from coordexp.models.processor import ImageProcessor, load_processor
from coordexp.models.usage import detect_code, picture_messages
from coordexp.storage.files import replacing_directory
from coordexp.storage.identity import base_path

MODEL_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# CoordExp Stage-1 checkpoint: {what}

Writes detections as JSON whose coordinates are the tokens `<|coord_0|>` … `<|coord_999|>` (bin k
of a side of n px is pixel k / 999 * (n - 1)). Both sides of a picture must be multiples of
{cell} px: `coordexp export` writes a copy that takes any picture, with a whole model card. Here:

```python
{code}```
"""


def device_for(runtime: RuntimeConfig) -> str:
    """`cuda` if a GPU is available and the settings allow it, else `cpu`.

    Other accelerators are not used, because they lack float64, which the sums need.
    """
    return "cuda" if runtime.device is Device.auto and torch.cuda.is_available() else "cpu"


def load_base(
    path: Path, dtype: torch.dtype
) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Model and processor from a Hugging Face directory of this project."""
    # Switch cuDNN attention off: it builds kernels for each new shape, and every batch has another.
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        path,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    patch_embedding = model.model.visual.patch_embed
    patch_embedding.proj = PatchProjection(patch_embedding.proj)
    return model, load_processor(path)


class PatchProjection(nn.Module):
    """The vision tower's first layer, computed as a matrix product instead of a convolution.

    The values are the same, because the convolution's kernel covers the whole patch; PyTorch's
    convolution is many times slower. The parameters keep their names, so state dicts and
    checkpoints do not change.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """[n, channels, time, height, width] -> [n, d, 1, 1, 1]"""
        projected = nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return projected[:, :, None, None, None]


def load_for_training(
    cfg: Config, device: torch.device
) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """The base model prepared for training by `cfg.optim` and `cfg.train`.

    It is in training mode and still on the CPU.
    """
    dtype = getattr(torch, cfg.train.dtype.name)
    vlm, processor = load_base(base_path(cfg) / "model", dtype)
    if has_flash(device, dtype):
        use_flash(vlm)
    if cfg.optim.adapter.rank:
        add_adapters(vlm, cfg.optim.adapter, coord_token_ids(processor.tokenizer), cfg.seed)
    if cfg.train.gradient_checkpointing:
        vlm.activation_checkpointing_enable({"use_reentrant": False})
    return vlm.train(), processor


def trained_weights(vlm: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name; a shared weight occurs once."""
    return {
        name: parameter.detach()
        for name, parameter in vlm.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def restore_weights(vlm: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights from `trained_weights` back into the model."""
    for name, weight in trained_weights(vlm).items():
        weight.copy_(weights[name])


def save_pretrained(
    model: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path
) -> None:
    """Write a complete Hugging Face directory, atomically."""
    with replacing_directory(path) as temporary:
        write_pretrained(model, processor, temporary)


def write_pretrained(
    model: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path
) -> None:
    model.save_pretrained(path)
    processor.save_pretrained(path)


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by part: vision, aligner (the mergers), language (with the embeddings).

    With adapters also the coordinate rows, which are then separate parameters (see adapters.py).
    """
    found: dict[str, list[nn.Parameter]] = {
        "vision": [],
        "aligner": [],
        "language": [],
        "coord": [],
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "trainable_tokens" in name:
            part = "coord"
        else:
            part = (
                "language" if "visual." not in name else "aligner" if "merger" in name else "vision"
            )
        found[part].append(parameter)
    return found


def save_checkpoint(
    vlm: Qwen3VLForConditionalGeneration, processor: ImageProcessor, path: Path, what: str
) -> None:
    """Write a complete Hugging Face directory with a model card. An existing one is not changed.

    Adapters are merged into the weights, so that the checkpoint loads like any other. The adapter
    weights are also saved, in the subdirectory adapter/.
    """
    if path.exists():
        return
    with replacing_directory(path) as temporary:
        save_adapted(vlm, temporary) if is_adapted(vlm) else vlm.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        images = processor.image_processor
        code = detect_code(".", picture_messages(processor.prompt))
        cell = images.patch_size * images.merge_size
        (temporary / "README.md").write_text(MODEL_CARD.format(what=what, cell=cell, code=code))
