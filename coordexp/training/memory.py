"""An estimate of the memory of a training step, printed before training starts.

Weights, gradients and AdamW's moments are counted from the parameters. Activations are counted in
one forward pass of the model on a real micro-batch: saved_tensors_hooks records the size of each
tensor saved for backward and drops it, so the estimate takes no more memory than evaluation. Not
included: workspaces of kernels, fragmentation of the allocator, and the CUDA context (about 1 GB).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.modeling_layers import GradientCheckpointingLayer

from coordexp.data.batches import Batch
from coordexp.losses.products import chunk_bytes
from coordexp.models.adapters import head_weights, hidden_states


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int  # with DistributedDataParallel's buckets, which are copies of them
    moments: int  # of AdamW
    activations: int  # kept from forward to backward, of one micro-batch
    head: int  # a chunk of logits, and the head's float32 gradient if the head is trained
    update: int  # temporaries of AdamW's step; the activations are freed by then

    @property
    def peak(self) -> int:
        """The larger of two moments: start of the backward pass, and the optimizer step."""
        return (
            self.weights
            + self.gradients
            + self.moments
            + max(self.activations + self.head, self.update)
        )

    def told(self) -> str:
        parts = [
            f"{name} {amount(size)}" for name, size in asdict(self).items() if name != "update"
        ]
        return f"memory a process: about {amount(self.peak)} ({', '.join(parts)})"


def amount(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def estimate(vlm: Any, batch: Batch, ranks: int, tokens: int = 0) -> Memory:
    """The memory of a training step on one device.

    Args:
        vlm: the model, on its training device. It is not changed.
        batch: the largest micro-batch, on the same device.
        ranks: number of ranks; with more than one, DistributedDataParallel copies the gradients.
        tokens: scale the activations up to this many tokens, if a micro-batch may be larger than
            `batch`.
    """
    trained = [p for p in vlm.parameters() if p.requires_grad]
    gradients = sum(size(p) for p in trained)
    head, _ = head_weights(vlm)
    vocabulary, width = head.shape
    logits = chunk_bytes(len(batch.rows), vocabulary, vlm.device.type, head.dtype)
    longer = max(1.0, tokens / batch.inputs["input_ids"].numel())
    return Memory(
        weights=sum(size(p) for p in vlm.parameters()),
        gradients=gradients * (2 if ranks > 1 else 1),
        moments=2 * gradients,
        activations=round(longer * activation_bytes(vlm, batch)),
        head=logits + (4 * vocabulary * width if head.requires_grad else 0),
        update=gradients,
    )


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def activation_bytes(vlm: Any, batch: Batch) -> int:
    """Bytes of activations in memory at the start of the backward pass, without the logits.

    With gradient checkpointing: the inputs of every layer, plus all activations of the largest
    layer, which exist while that layer is recomputed.
    """
    kept = saved_bytes(vlm, batch)
    outside = kept.pop(None, 0)
    if not vlm.is_activation_checkpointing:
        return outside + sum(full for _, full in kept.values())
    return (
        outside
        + sum(inputs for inputs, _ in kept.values())
        + max(full for _, full in kept.values())
    )


def saved_bytes(vlm: Any, batch: Batch) -> dict[Any, Any]:
    """Bytes that autograd saves for backward, by layer.

    Storage shared by several tensors counts once, in the layer that saves it first. Weights and
    buffers do not count.

    Returns:
        {layer: (bytes of its input, bytes saved in it)}, and {None: bytes saved outside of layers}.
    """
    inputs: dict[nn.Module, int] = {}
    kept: dict[nn.Module | None, int] = defaultdict(int)
    met = {
        p.untyped_storage().data_ptr(): StorageWeakRef(p.untyped_storage())
        for p in (*vlm.parameters(), *vlm.buffers())
    }
    within: list[nn.Module | None] = [None]
    nothing = torch.empty(0)  # saved instead of the recorded tensor, which is then freed

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        same = met.get(storage.data_ptr())
        # An expired storage was freed: another tensor now has its address.
        if same is None or same.expired():
            met[storage.data_ptr()] = StorageWeakRef(storage)
            kept[within[0]] += storage.nbytes()
        return nothing

    def enter(layer: nn.Module, arguments: tuple) -> None:
        within[0], inputs[layer] = layer, size(arguments[0])

    def leave(*_: Any) -> None:
        within[0] = None

    layers = [module for module in vlm.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [
        hook
        for layer in layers
        for hook in (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave))
    ]
    try:
        with (
            without_checkpointing(layers),
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            hidden_states(vlm, **batch.inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: (inputs[layer], kept[layer]) for layer in layers} | {None: kept[None]}


@contextmanager
def without_checkpointing(layers: list[GradientCheckpointingLayer]) -> Iterator[None]:
    before = [layer.gradient_checkpointing for layer in layers]
    try:
        for layer in layers:
            layer.gradient_checkpointing = False
        yield
    finally:
        for layer, on in zip(layers, before, strict=True):
            layer.gradient_checkpointing = on
