"""Evaluation on the whole validation set: an eval row for the log, and a token table.

The analysis computes intervals and slices from the token table.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from coordexp.config.schema import VariantConfig
from coordexp.data.batches import Batch, Dataset
from coordexp.errors import UserError
from coordexp.losses.diagnostics import (
    ROWS_AT_ONCE,
    columns_and_scores,
    fit_temperature,
)
from coordexp.losses.terms import SUMS, Output, loss_values, watched_values
from coordexp.metrics import TEMPERATURE_LABEL, TEMPERATURE_PREFIX
from coordexp.storage.token_tables import in_fit_half, write_table
from coordexp.training.stage1_model import Stage1Model


def forward_only(
    model: Stage1Model,
    dataset: Dataset,
    indices: np.ndarray,
    micro_batch: int,
    device: torch.device,
) -> Iterator[tuple[Batch, Output]]:
    """The objective without gradients, over `indices` in order. Dropout is off while it runs."""
    ones = torch.ones(2, device=device)
    training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, len(indices), micro_batch):
            batch = dataset.batch(indices[first : first + micro_batch].tolist()).to(device)
            yield batch, model(batch, ones)
    model.train(training)


def evaluate(
    model: Stage1Model,
    dataset: Dataset,
    micro_batch: int,
    accelerator: Accelerator,
    table_path: Path,
) -> dict[str, float] | None:
    """Evaluate on every image, write the token table, return the eval row (on the main process,
    else None).

    Raises:
        UserError: no image of the set holds an object.
    """
    if not any(record.objects for record in dataset.records):  # the same on every rank
        raise UserError(f"{dataset.path}: no picture holds an object: there is nothing to evaluate")
    started = time.perf_counter()
    mine = np.arange(len(dataset))[accelerator.process_index :: accelerator.num_processes]
    sums = torch.zeros(len(SUMS), dtype=torch.float64)
    columns: list[pd.DataFrame] = []
    slices: list[Tensor] = []
    for batch, output in forward_only(model, dataset, mine, micro_batch, accelerator.device):
        sums += output.sums.cpu()
        columns.append(_rows(batch, output))
        assert output.coord_logits is not None, "kept by a pass that forms no gradients"
        slices.append(output.coord_logits.float().cpu())
    parts = gathered((sums, columns, slices), accelerator)
    if not accelerator.is_main_process:
        return None
    sums = torch.stack([part[0] for part in parts]).sum(0)
    table = pd.concat([rows for part in parts for rows in part[1]], ignore_index=True)
    logits = torch.cat([rows for part in parts for rows in part[2]])
    order = (
        table.reset_index()
        .sort_values(["image_id", "index"], kind="stable")["index"]
        .to_numpy(copy=True)
    )
    table, logits = table.iloc[order].reset_index(drop=True), logits[order]
    table, fitted = add_distributions(table, logits, model.variant, accelerator.device)
    write_table(
        table,
        table_path,
        own_temperature=model.variant.temperature,
        fitted_temperature=fitted,
    )
    return {
        **loss_values(sums, model.variant),
        **watched_values(sums, float(np.quantile(abs_err(table, "t1"), 0.9)), model.variant),
        **_judged_at(table, fitted, model.variant),
        "runtime_s": time.perf_counter() - started,
    }


def gathered(part: Any, accelerator: Accelerator) -> list[Any]:
    """The parts of all ranks, on the main process; empty elsewhere, so only it needs the memory."""
    if accelerator.num_processes == 1:
        return [part]
    parts = [None] * accelerator.num_processes if accelerator.is_main_process else None
    torch.distributed.gather_object(part, parts)
    return parts or []


def evenly_spaced(n_records: int, n_images: int) -> np.ndarray:
    """Indices of `n_images` records, evenly spaced over the set; all records if there are fewer.

    Returns: [min(n_images, n_records)]
    """
    n = min(n_images, n_records)
    return np.arange(n) * n_records // max(n, 1)


def average_losses(
    model: Stage1Model,
    dataset: Dataset,
    indices: np.ndarray,
    micro_batch: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Losses and MAE of these images in eval mode, averaged over tokens; the same on every rank.

    Empty if there are no images.
    """
    if not len(indices):
        return {}
    sums = torch.zeros(len(SUMS), dtype=torch.float64, device=accelerator.device)
    mine = indices[accelerator.process_index :: accelerator.num_processes]
    for _, output in forward_only(model, dataset, mine, micro_batch, accelerator.device):
        sums += output.sums
    sums = accelerator.reduce(sums, "sum")
    mae = "coord_diag/expected_bin_mae"
    return {**loss_values(sums, model.variant), mae: watched_values(sums, None, model.variant)[mae]}


def _rows(batch: Batch, output: Output) -> pd.DataFrame:
    """The token table's columns that need no temperature."""
    return pd.DataFrame(
        {
            "image_id": np.array([t.image_id for t in batch.coord_tokens], dtype=np.int64),
            "object_index": np.array([t.object_index for t in batch.coord_tokens], dtype=np.int32),
            "slot": [t.slot for t in batch.coord_tokens],
            "box_area_px": np.array([t.box_area_px for t in batch.coord_tokens], dtype=np.float32),
            "gt_bin": batch.bins[batch.bins >= 0].cpu().numpy().astype(np.int16),
            "argmax_bin": output.columns["argmax_bin"].cpu().numpy().astype(np.int16),
            "hit": output.columns["hit"].cpu().numpy(),
            "coord_mass": output.columns["coord_mass"].float().cpu().numpy(),
        }
    )


def add_distributions(
    table: pd.DataFrame, logits: Tensor, variant: VariantConfig, device: torch.device | str = "cpu"
) -> tuple[pd.DataFrame, float]:
    """Add the distribution columns at T = 1, own and fitted; returns table and fitted temperature.

    `logits` [C, K] are the bins' logits in the order of the table, float32 on the CPU. They are
    moved to `device` one part at a time.
    """
    bins = torch.tensor(table["gt_bin"].to_numpy(), dtype=torch.long)
    fit_half = {image_id: in_fit_half(image_id) for image_id in table["image_id"].unique()}
    table = table.assign(fit_half=table["image_id"].map(fit_half))
    chosen = torch.tensor(table["fit_half"].to_numpy(dtype=bool))
    fitted = fit_temperature(logits[chosen], bins[chosen], device) if chosen.any() else 1.0
    temperatures = {"t1": 1.0, "own": variant.temperature, "fitted": fitted}
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for z, at in zip(logits.split(ROWS_AT_ONCE), bins.split(ROWS_AT_ONCE), strict=True):
        z, at = z.to(device), at.to(device)
        for label, temperature in temperatures.items():
            of_label = columns_and_scores(z, at, temperature)
            for name, values in of_label.items():
                columns[f"{name}_{label}"].append(values.cpu())
    return table.assign(
        **{name: torch.cat(parts).numpy() for name, parts in columns.items()}
    ), fitted


def abs_err(table: pd.DataFrame, label: str) -> np.ndarray:
    """|expected bin - GT bin| at a temperature label (t1, own, fitted), in bins  # [C]"""
    return np.abs(
        table[f"expected_bin_{label}"].to_numpy(np.float64) - table["gt_bin"].to_numpy(np.float64)
    )


def _proper_scores(table: pd.DataFrame, temperature: str) -> dict[str, float]:
    """Mean NLL (nats) and CRPS (bins) over the tokens of a table."""
    prefix, label = TEMPERATURE_PREFIX[temperature], TEMPERATURE_LABEL[temperature]
    columns = {name: table[f"{name}_{label}"].to_numpy(np.float64) for name in ("nll", "crps")}
    return {f"{prefix}/{name}": float(values.mean()) for name, values in columns.items()}


def _judged_at(table: pd.DataFrame, fitted: float, variant: VariantConfig) -> dict[str, float]:
    """What the sums over tokens lack: proper scores, p90 at the own temperature, and metrics at
    the fitted temperature.

    The last cover only the half of the images that the temperature was not fitted on.
    """
    row = {
        **_proper_scores(table, "1"),
        **_proper_scores(table, "own"),
        "coord_diag_own_t/expected_bin_abs_err_p90": float(np.quantile(abs_err(table, "own"), 0.9)),
        "coord_diag_own_t/temperature": float(variant.temperature),
        "coord_diag_fitted_t/temperature": fitted,
    }
    judged = table[~table["fit_half"]]
    if judged.empty:
        return row
    errors = abs_err(judged, "fitted")
    return {
        **row,
        **_proper_scores(judged, "fitted"),
        "coord_diag_fitted_t/expected_bin_mae": float(errors.mean()),
        "coord_diag_fitted_t/expected_bin_abs_err_p90": float(np.quantile(errors, 0.9)),
        "coord_diag_fitted_t/w1_to_delta": float(judged["w1_to_delta_fitted"].mean()),
        "coord_diag_fitted_t/p_gt_mean": float(judged["p_gt_fitted"].mean()),
        "coord_diag_fitted_t/entropy_mean": float(judged["entropy_fitted"].mean()),
    }
