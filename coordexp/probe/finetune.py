"""A short geometric fine-tune with teacher forcing, and the same losses on the validation set.

At each coordinate slot of the ground truth the expected coordinate is decoded, at the candidate's
temperature (temperature.py). The loss of a box is L1 + (1 - GIoU) in normalised coordinates,
that of a polygon is L1 alone, and that of text is the cross-entropy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration
from transformers.modeling_layers import GradientCheckpointingLayer

from coordexp.config.schema import AdapterConfig, ProbeConfig, TokenGroups, VariantConfig
from coordexp.coords import LAST_BIN, coord_token_ids
from coordexp.data.batches import Batch, Dataset, step_indices
from coordexp.data.records import RecordObject
from coordexp.losses import fused
from coordexp.losses.diagnostics import at_least_float32
from coordexp.models.adapters import add_adapters, head_weights, hidden_states
from coordexp.models.merging import fold_in
from coordexp.probe.geometry import expected_coordinates, object_losses
from coordexp.storage.files import naming_full_disk

# In AdamW's first steps the second moments are poor estimates, and every update has full length.
WARMUP_STEPS = 5
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
ALPHA_OVER_RANK = 2  # of the adapters, if adapters are trained
TEXT_ONLY = VariantConfig("text", TokenGroups.split)  # for text tokens only


@dataclass
class Losses:
    """The losses of one batch with N objects."""

    image_ids: list[int]  # [N]
    l1: Tensor  # [N] summed over the four coordinates; of a polygon, 4 times its mean
    giou: Tensor  # [N] 1 - GIoU; 0 for a polygon
    text_ce: Tensor  # summed over the text tokens

    @property
    def sums(self) -> Tensor:
        """Sums [3], to be divided by `count` of a whole step, whatever its batches are."""
        return torch.stack([self.l1.sum(), self.giou.sum(), self.text_ce])


def fine_tune(
    vlm: Qwen3VLForConditionalGeneration,
    train: Dataset,
    cfg: ProbeConfig,
    log: Path,
    temperature: float = 1.0,
) -> tuple[list[dict[str, float]], str | None]:
    """Fine-tune `vlm` in place by `cfg.steps` steps of AdamW.

    It trains every weight, or new adapters that are merged into the weights at the end. Dropout is
    off, so a step depends only on (seed, step) and the weights. If a loss or gradient is not
    finite, that step is not taken and the fine-tune stops.

    Returns:
        The logged rows, and why it stopped early (None if it did not).
    """
    if cfg.adapter_rank:
        adapter = AdapterConfig(rank=cfg.adapter_rank, alpha=ALPHA_OVER_RANK * cfg.adapter_rank)
        add_adapters(vlm, adapter, coord_token_ids(train.processor.tokenizer), cfg.seed)
    vlm.eval()
    if cfg.gradient_checkpointing:
        checkpoint_layers(vlm)
    found = take_steps(vlm, train, cfg, log, temperature)
    if cfg.adapter_rank:
        fold_in(vlm)
    vlm.eval()
    return found


def checkpoint_layers(vlm: Qwen3VLForConditionalGeneration) -> None:
    """Switch gradient checkpointing on for each layer, until the next `eval()`.

    The modules inside a layer stay in eval mode, so there is no dropout.
    """
    vlm.activation_checkpointing_enable({"use_reentrant": False})
    for layer in vlm.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def take_steps(
    vlm: Qwen3VLForConditionalGeneration,
    train: Dataset,
    cfg: ProbeConfig,
    log: Path,
    temperature: float,
) -> tuple[list[dict[str, float]], str | None]:
    trained = [p for p in vlm.parameters() if p.requires_grad]
    # On a GPU, AdamW's default implementation holds a temporary copy of all weights; the fused one
    # does not.
    fused_on_gpu = vlm.device.type == "cuda" or None
    optimizer = torch.optim.AdamW(
        trained, lr=cfg.lr, betas=BETAS, weight_decay=0.0, fused=fused_on_gpu
    )
    rows: list[dict[str, float]] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(log), open(log, "w") as handle:
        for step in tqdm(range(1, cfg.steps + 1), desc="fine-tune", unit="step", mininterval=2.0):
            batches = step_batches(train, cfg, step)
            counts = torch.stack([count(train, batch) for batch in batches]).sum(0).to(vlm.device)
            sums = torch.zeros(3, device=vlm.device)
            for batch in batches:
                found = batch_losses(vlm, batch.to(vlm.device), train, temperature).sums
                objective(found, counts, cfg).backward()
                sums += found.detach()
            norm = float(torch.nn.utils.clip_grad_norm_(trained, CLIP_NORM))
            row = {
                "step": step,
                "loss": float(objective(sums, counts, cfg)),
                **means(sums, counts),
                "grad_norm": norm,
            }
            if not np.isfinite(list(row.values())).all():
                return rows, f"step {step}: the loss or its gradient is not finite"
            optimizer.param_groups[0]["lr"] = cfg.lr * min(1.0, step / WARMUP_STEPS)
            optimizer.step()
            optimizer.zero_grad()
            rows.append(row)
            handle.write(json.dumps(row) + "\n")
            handle.flush()
    return rows, None


@torch.no_grad()
def validate(
    vlm: Qwen3VLForConditionalGeneration,
    val: Dataset,
    images: Iterable[int],
    cfg: ProbeConfig,
    temperature: float = 1.0,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The losses of these images without gradients.

    Returns:
        A table (image_id, n_boxes, geo_loss) of the images with at least one object, and the means
        over all of them. n_boxes counts all objects of an image, also polygons: it is the weight of
        the image in the mean.
    """
    vlm.eval()
    images = list(images)
    sums, counts = torch.zeros(3, device=vlm.device), torch.zeros(3, device=vlm.device)
    ids: list[int] = []
    geo: list[float] = []
    for first in range(0, len(images), cfg.micro_batch):
        batch = val.batch(images[first : first + cfg.micro_batch]).to(vlm.device)
        losses = batch_losses(vlm, batch, val, temperature)
        sums += losses.sums
        counts += count(val, batch).to(vlm.device)
        ids += losses.image_ids
        geo += (losses.l1 + losses.giou).tolist()
    objects = pd.DataFrame(
        {"image_id": np.array(ids, dtype=np.int64), "geo_loss": np.array(geo, dtype=np.float64)}
    )
    table = objects.groupby("image_id", as_index=False).agg(
        n_boxes=("geo_loss", "size"), geo_loss=("geo_loss", "mean")
    )
    return table, means(sums, counts)


def step_batches(train: Dataset, cfg: ProbeConfig, step: int) -> list[Batch]:
    indices = step_indices(len(train), cfg.images_per_step, cfg.seed, step).tolist()
    return [
        train.batch(indices[i : i + cfg.micro_batch])
        for i in range(0, len(indices), cfg.micro_batch)
    ]


def objects_of(dataset: Dataset, batch: Batch) -> list[tuple[int, RecordObject]]:
    """(image_id, object) for each object of a batch, in the order of its coordinate tokens."""
    found, at = [], 0
    while at < batch.n_coord:
        token = batch.coord_tokens[at]
        found.append((token.image_id, dataset.records[token.image_id].objects[token.object_index]))
        at += len(found[-1][1].pixels)
    return found


def count(dataset: Dataset, batch: Batch) -> Tensor:
    """Objects, boxes and text tokens of a batch, the divisors of `Losses.sums`  # [3]"""
    kinds = [obj.kind for _, obj in objects_of(dataset, batch)]
    return torch.tensor([len(kinds), kinds.count("bbox_2d"), batch.n_text], dtype=torch.float32)


def coordinate_logits(
    vlm: Qwen3VLForConditionalGeneration, hidden: Tensor, dataset: Dataset
) -> Tensor:
    """Logits of the bins, in float32 at least  # [C, d] -> [C, K]"""
    head, coord_head = head_weights(vlm)  # [V, d], and with adapters [K, d]
    ids = torch.tensor(coord_token_ids(dataset.processor.tokenizer), device=hidden.device)
    rows = head[ids] if coord_head is None else coord_head
    return at_least_float32(hidden @ rows.T)


def batch_losses(
    vlm: Qwen3VLForConditionalGeneration, batch: Batch, dataset: Dataset, temperature: float
) -> Losses:
    hidden = hidden_states(vlm, **batch.inputs, use_cache=False)  # [B, L, d]
    hidden = hidden.flatten(0, 1)[batch.rows]  # [R, d]
    head, coord_head = head_weights(vlm)  # [V, d], and with adapters [K, d]
    on_coord = batch.bins >= 0
    ids = torch.tensor(coord_token_ids(dataset.processor.tokenizer), device=hidden.device)
    coord_logits = coordinate_logits(vlm, hidden[on_coord], dataset)  # [C, K]
    objects = objects_of(dataset, batch)
    l1, giou_loss = object_losses(
        expected_coordinates(coord_logits, temperature),
        (batch.bins[on_coord] / LAST_BIN).to(coord_logits),
        [len(obj.pixels) for _, obj in objects],
        torch.tensor(
            [obj.kind == "bbox_2d" for _, obj in objects], dtype=torch.bool, device=hidden.device
        ),
    )
    text = ~on_coord
    asked = (
        batch.targets[text],
        batch.bins[text],
        ids,
        TEXT_ONLY,
        torch.ones(2, device=hidden.device),
    )
    text_ce = fused.objective(hidden[text], head, *asked, coord_weight=coord_head).loss
    return Losses([image_id for image_id, _ in objects], l1, giou_loss, text_ce)


def objective(sums: Tensor, counts: Tensor, cfg: ProbeConfig) -> Tensor:
    """l1_weight L1 + giou_weight (1 - GIoU) + text_weight CE.

    The three are means over the objects, boxes and text tokens of the whole step.
    """
    weights = torch.tensor([cfg.l1_weight, cfg.giou_weight, cfg.text_weight], device=sums.device)
    return (weights * sums / counts.clamp(min=1)).sum()


def means(sums: Tensor, counts: Tensor) -> dict[str, float]:
    """Mean losses. `geo_loss` is L1 + (1 - GIoU) per object, independent of the weights.

    Candidates are compared by `geo_loss`.
    """
    l1, giou_loss, text_ce = (sums / counts.clamp(min=1)).tolist()
    geo_loss = float((sums[0] + sums[1]) / counts[0].clamp(min=1))
    return {"geo_loss": geo_loss, "l1": l1, "giou_loss": giou_loss, "text_ce": text_ce}
