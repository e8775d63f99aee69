"""A tiny Qwen3-VL that knows two pictures by heart: it detects, after six seconds of training."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen3VLForConditionalGeneration

from coordexp.data.batches import Dataset
from coordexp.models.base import build_tiny

PICTURES = [0, 1]
STEPS = 240


def memorised(cfg: Any, dataset: Dataset) -> Qwen3VLForConditionalGeneration:
    """The tiny model of `cfg`, trained on the two first pictures of the dataset."""
    model, _ = build_tiny(cfg.model)
    batch = dataset.batch(PICTURES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        logits = model(**batch.inputs).logits.flatten(0, 1)[batch.rows]
        loss = cross_entropy(logits, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The two answers share a prefix: a loss that ignores the pictures stays above this.
    assert loss < 0.005
    return model.eval()
