"""A checkpoint with exchanged pictures: does it look at the picture at all?

The coordinates of the ground truth are predicted twice with teacher forcing, with the right picture
and with another image's picture of the same size. Everything else is the same, so the difference of
the two errors is what the picture contributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from coordexp.coords import N_BINS
from coordexp.data.batches import Dataset
from coordexp.detection.probe_manifest import SwappedResult
from coordexp.losses.diagnostics import distribution_columns, fit_temperature
from coordexp.models.adapters import hidden_states
from coordexp.probe.finetune import coordinate_logits
from coordexp.storage.token_tables import in_fit_half
from coordexp.training.evaluate import evenly_spaced

# Images whose exchanged pictures are also rolled out. Rollouts are the slow part; the errors above
# cover every exchanged image.
ROLLED_OUT = 64


class ExchangedPictures(Dataset):
    """The records of a dataset, each with the picture of another record of its size."""

    def __init__(self, dataset: Dataset, picture_of: Mapping[int, int]) -> None:
        # Records, encoded samples and lookup tables are shared with `dataset`, not read again.
        vars(self).update(vars(dataset))
        self.dataset, self.picture_of = dataset, picture_of

    def picture(self, index: int) -> Image.Image:
        return self.dataset.picture(self.picture_of[index])

    @property
    def rolled_out(self) -> list[int]:
        """At most ROLLED_OUT of the exchanged images, evenly spaced."""
        images = list(self.picture_of)
        return [images[i] for i in evenly_spaced(len(images), ROLLED_OUT)]


@dataclass(frozen=True)
class Predicted:
    """The coordinates of some images as a checkpoint predicts them with teacher forcing."""

    image_ids: np.ndarray  # [C]
    logits: Tensor  # [C, K] of the bins, float32 on the CPU
    bins: Tensor  # [C] ground truth


def swapped_errors(
    vlm: Qwen3VLForConditionalGeneration, shown: ExchangedPictures, n_images: int, micro_batch: int
) -> tuple[pd.DataFrame, SwappedResult | None]:
    """The MAE of each image with its own and with another picture, over the same coordinates.

    The softmax temperature is fitted, with the right pictures, on one half of the images for the
    other half (the halves of the token tables); 1 where there is nothing to fit on.

    Args:
        n_images: of the probe, with those that keep their picture.

    Returns:
        A table (image_id, swapped_with, n_coord, mae_right, mae_swapped), in bins, of the images
        with coordinates; and what probe.json says of it, None if there are no such images.
    """
    picture_of = shown.picture_of
    halves = [[i for i in picture_of if in_fit_half(i) == fits] for fits in (True, False)]
    right = [predict(vlm, shown.dataset, half, micro_batch) for half in halves]
    tables, temperatures = [], []
    for half, own, other in zip(halves, right, reversed(right), strict=True):
        temperature = 1.0
        if len(other.bins):
            temperature = fit_temperature(other.logits, other.bins, vlm.device)
        swapped = predict(vlm, shown, half, micro_batch)
        errors = {
            "image_id": own.image_ids,
            "mae_right": abs_errors(own, temperature),
            "mae_swapped": abs_errors(swapped, temperature),
        }
        tables.append(pd.DataFrame(errors))
        temperatures.append(temperature)
    tokens = pd.concat(tables)
    table = tokens.groupby("image_id", as_index=False).agg(
        n_coord=("mae_right", "size"),
        mae_right=("mae_right", "mean"),
        mae_swapped=("mae_swapped", "mean"),
    )
    table.insert(1, "swapped_with", [picture_of[int(i)] for i in table["image_id"]])
    if table.empty:
        return table, None
    return table, SwappedResult(
        images=len(picture_of),
        without_partner=n_images - len(picture_of),
        coordinates=len(tokens),
        temperatures=temperatures,
        mae_right=float(tokens["mae_right"].mean()),
        mae_swapped=float(tokens["mae_swapped"].mean()),
        rolled_out=len(shown.rolled_out),
    )


@torch.no_grad()
def predict(
    vlm: Qwen3VLForConditionalGeneration, dataset: Dataset, images: Sequence[int], micro_batch: int
) -> Predicted:
    """Teacher-forced logits of every coordinate of these images, in their order."""
    vlm.eval()
    ids: list[int] = []
    logits, bins = [torch.empty(0, N_BINS)], [torch.empty(0, dtype=torch.long)]
    for first in range(0, len(images), micro_batch):
        batch = dataset.batch(images[first : first + micro_batch]).to(vlm.device)
        hidden = hidden_states(vlm, **batch.inputs, use_cache=False).flatten(0, 1)
        on_coord = batch.bins >= 0
        of_batch = coordinate_logits(vlm, hidden[batch.rows[on_coord]], dataset)  # [C, K]
        ids += [token.image_id for token in batch.coord_tokens]
        logits.append(of_batch.float().cpu())
        bins.append(batch.bins[on_coord].cpu())
    return Predicted(np.array(ids, dtype=np.int64), torch.cat(logits), torch.cat(bins))


def abs_errors(predicted: Predicted, temperature: float) -> np.ndarray:
    """|expected bin - GT bin| of each coordinate  # [C]"""
    columns = distribution_columns(predicted.logits, predicted.bins, temperature)
    errors = (columns["expected_bin"] - predicted.bins).abs()
    return np.asarray(errors.double().numpy())
