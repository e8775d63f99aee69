"""The Stage-2 probe of one checkpoint: rollouts, a short geometric fine-tune, rollouts again.

<out>/before/, <out>/after/   rollouts of the checkpoint, and of the fine-tuned weights
<out>/swapped/                rollouts of the checkpoint, of images with the picture of another one
<out>/probe.jsonl             one row per step of the fine-tune
<out>/images.parquet          image_id, n_boxes, geo_loss_before, geo_loss_after; and of images with
                              an exchanged picture swapped_with, n_coord, mae_right, mae_swapped
<out>/probe.json              settings, digests, losses, seconds; written last: marks it finished

Every candidate gets the same settings: the same images in the same order, float32, dropout off.
Expected coordinates are decoded at the candidate's fitted temperature (temperature.py). The
fine-tuned weights are not kept: the probe only measures how well a checkpoint learns continuous
losses.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from msgspec import UNSET
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import plain
from coordexp.config.schema import ProbeConfig
from coordexp.data.batches import Dataset
from coordexp.data.prompt_file import read_prompt_file
from coordexp.detection.exchange import exchanged_pictures
from coordexp.detection.probe_manifest import (
    PROBE_FILE,
    MissingProbe,
    ProbeInputs,
    ProbeManifest,
    ProbeResult,
    read_probe_manifest,
)
from coordexp.errors import UserError
from coordexp.models.checkpoints import load_base
from coordexp.probe.finetune import fine_tune, validate
from coordexp.probe.generation import greedy, token_budget
from coordexp.probe.moments import Generator, Rollouts, timed
from coordexp.probe.swapped import ExchangedPictures, swapped_errors
from coordexp.probe.temperature import decode_temperature
from coordexp.storage.files import (
    locked,
    replacing,
    sha256_directory,
    sha256_file,
)
from coordexp.storage.manifest import installed_versions, utc_now
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_typed
from coordexp.training.evaluate import evenly_spaced


def run_probe(
    source: Path,
    data: Path,
    out: Path,
    cfg: ProbeConfig,
    device: str = "cpu",
    wait: bool = False,
    generator: Generator = greedy,
) -> Path:
    """Probe a checkpoint directory (or the last checkpoint of a run directory).

    If `out` holds a finished probe of the same bytes and settings, its probe.json is touched and
    nothing is repeated. A killed probe keeps its rollouts and repeats the fine-tune (on a CPU bit
    for bit).

    Args:
        source: a checkpoint or run directory.
        data: directory with train.jsonl and val.jsonl.
        out: directory of the probe.
        wait: wait while another process probes into `out`.
        generator: makes the function that generates answers.

    Returns:
        The path of probe.json.

    Raises:
        UserError: there is no checkpoint, another process probes into `out` (unless `wait`), or
            the data are damaged or missing.
    """
    checkpoint, manifest = checkpoint_of(source), out / PROBE_FILE
    with locked(out / ".lock", "being probed", wait):
        decode = decode_temperature(cfg.temperature, checkpoint)
        inputs = ProbeInputs(
            checkpoint_sha256=sha256_directory(checkpoint),
            data_sha256={split: sha256_file(data / f"{split}.jsonl") for split in ("train", "val")},
            settings=plain(cfg),
            temperature=decode.value,
            temperature_source=decode.source,
        )
        if is_finished(manifest, inputs):
            manifest.touch()
            return manifest
        manifest.unlink(missing_ok=True)
        started = time.perf_counter()
        vlm, processor = load_base(checkpoint, torch.float32)
        train, val = (Dataset(data / f"{split}.jsonl", processor) for split in ("train", "val"))
        wall_s = {"load": time.perf_counter() - started}
        result = probe(vlm.to(device), inputs, train, val, out, cfg, wall_s, generator)
        finished = ProbeManifest(
            checkpoint=str(checkpoint),
            records=str(data / "val.jsonl"),
            **vars(inputs),
            **vars(result),
            device=device,
            finished_at=utc_now(),
            versions=installed_versions(),
            artifacts=artifacts(out),
            prompt=read_prompt_file(checkpoint) or UNSET,
        )
        write_typed(manifest, finished)
    return manifest


def checkpoint_of(source: Path) -> Path:
    """`source` itself, or the last checkpoint of a run directory."""
    if (source / "config.json").exists():
        return source
    run = RunDirectory(source)
    if steps := run.checkpoint_steps():
        return run.checkpoint(steps[-1])
    raise UserError(
        f"{source}: neither a checkpoint nor a run directory with checkpoints: train the run first"
    )


def is_finished(manifest: Path, inputs: ProbeInputs) -> bool:
    """Whether a finished probe of these inputs exists and its files are unchanged."""
    if not manifest.exists():
        return False
    try:
        found = read_probe_manifest(manifest)
    except UserError:  # damaged, or of another version: repeat the probe and replace it
        return False
    if isinstance(found, MissingProbe):
        return False
    return found.inputs == inputs and found.artifacts == artifacts(manifest.parent)


def artifacts(out: Path) -> dict[str, str]:
    """sha256 of each file that a probe leaves beside probe.json."""
    files = [*out.glob("*/rollouts-*.jsonl"), *out.glob("probe.jsonl"), *out.glob("images.parquet")]
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(files)}


def probe(
    vlm: Qwen3VLForConditionalGeneration,
    inputs: ProbeInputs,
    train: Dataset,
    val: Dataset,
    out: Path,
    cfg: ProbeConfig,
    wall_s: dict[str, float],
    generator: Generator = greedy,
) -> ProbeResult:
    """Roll out and validate, also with exchanged pictures; fine-tune `vlm`; roll out and validate.

    Everything but probe.json is written to `out`; seconds by part are added to `wall_s`.
    `inputs` identifies the weights of `vlm`, and gives the temperature of the decode.
    """
    temperature = inputs.temperature
    images, budget = evenly_spaced(len(val), cfg.images).tolist(), token_budget(val)
    rollouts = Rollouts(vlm, out, cfg.rollout_batch, budget, generator, wall_s)
    rollouts.write("before", inputs.checkpoint_sha256, val, images)
    with timed(wall_s, "validation_before"):
        table, before = validate(vlm, val, images, cfg, temperature)
    exchanged = ExchangedPictures(val, exchanged_pictures(val.records, images))
    with timed(wall_s, "validation_swapped"):
        errors, swapped = swapped_errors(vlm, exchanged, len(images), cfg.micro_batch)
    if swapped:
        rollouts.write("swapped", inputs.checkpoint_sha256, exchanged, exchanged.rolled_out)
    else:
        shutil.rmtree(out / "swapped", ignore_errors=True)  # of earlier settings
    rows, reason, table_after, after = tune_and_validate(
        vlm, train, val, images, cfg, temperature, out / "probe.jsonl", wall_s
    )
    after_sha256 = None if reason else weights_sha256(vlm)
    if after_sha256:
        rollouts.write("after", after_sha256, val, images)
    else:
        shutil.rmtree(out / "after", ignore_errors=True)  # of earlier settings
        table_after["geo_loss"] = np.nan
    n_boxes = write_image_losses(out / "images.parquet", table, table_after, errors)
    return ProbeResult(
        status="diverged" if reason else "complete",
        reason=reason,
        images=len(images),
        boxes=n_boxes,
        budget_tokens=budget,
        steps=len(rows),
        before=before,
        after=None if reason else after,
        swapped=swapped,
        geo_loss_slope_per_step=slope_per_step([row["geo_loss"] for row in rows]),
        after_sha256=after_sha256,
        wall_s={part: round(seconds, 2) for part, seconds in wall_s.items()},
    )


def tune_and_validate(
    vlm: Qwen3VLForConditionalGeneration,
    train: Dataset,
    val: Dataset,
    images: Sequence[int],
    cfg: ProbeConfig,
    temperature: float,
    log: Path,
    wall_s: dict[str, float],
) -> tuple[list[dict[str, float]], str | None, pd.DataFrame, dict[str, float]]:
    """Fine-tune `vlm` in place and validate it.

    Returns:
        The logged rows, the reason of a divergence (else None), and both results of `validate`.
    """
    with timed(wall_s, "fine_tune"):
        rows, reason = fine_tune(vlm, train, cfg, log, temperature)
    with timed(wall_s, "validation_after"):
        table, losses = validate(vlm, val, images, cfg, temperature)
    if reason is None and not np.isfinite(list(losses.values())).all():
        reason = f"after step {len(rows)}: the validation loss is not finite"
    return rows, reason, table, losses


def write_image_losses(
    path: Path, before: pd.DataFrame, after: pd.DataFrame, swapped: pd.DataFrame
) -> int:
    """Write each image's losses before and after the fine-tune, and its errors with both pictures.

    An image that kept its picture has n_coord 0 and no errors. Returns the number of boxes.
    """
    suffixes = ("_before", "_after")
    table = before.merge(after, on=["image_id", "n_boxes"], suffixes=suffixes, validate="1:1")
    table = table.merge(swapped, on="image_id", how="left", validate="1:1")
    table["swapped_with"] = table["swapped_with"].astype("Int64")
    table["n_coord"] = table["n_coord"].fillna(0).astype(np.int64)
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
    return int(table["n_boxes"].sum())


def slope_per_step(losses: Sequence[float]) -> float | None:
    """Slope of the least-squares line through the losses of successive steps; None below two."""
    if len(losses) < 2:
        return None
    return float(np.polyfit(range(len(losses)), losses, 1)[0])


def weights_sha256(model: nn.Module) -> str:
    """One digest over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        total.update(
            weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()
