"""The Stage-2 probe of one checkpoint: rollouts, a short geometric fine-tune, rollouts again.

<out>/before/, <out>/after/   rollouts of the checkpoint, and of the fine-tuned weights
<out>/probe.jsonl             one row per step of the fine-tune
<out>/images.parquet          image_id, n_boxes, geo_loss_before, geo_loss_after
<out>/probe.json              settings, digests, losses, seconds; written last: marks it finished

Every candidate gets the same settings: the same images in the same order, the same temperature,
float32, dropout off. The fine-tuned weights are not kept: the probe only measures how well a
checkpoint learns continuous losses.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import plain
from coordexp.config.schema import ProbeConfig
from coordexp.data.batches import Dataset
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
from coordexp.probe.generation import Generate, greedy, token_budget
from coordexp.probe.rollout import of_what, roll_out
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

# (model, dataset, token budget) -> image ids to answers
Generator = Callable[[Qwen3VLForConditionalGeneration, Dataset, int], Generate]


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
        inputs = ProbeInputs(
            checkpoint_sha256=sha256_directory(checkpoint),
            data_sha256={split: sha256_file(data / f"{split}.jsonl") for split in ("train", "val")},
            settings=plain(cfg),
        )
        if is_finished(manifest, inputs):
            manifest.touch()
            return manifest
        manifest.unlink(missing_ok=True)
        started = time.perf_counter()
        vlm, processor = load_base(checkpoint, torch.float32)
        train, val = (Dataset(data / f"{split}.jsonl", processor) for split in ("train", "val"))
        wall_s = {"load": time.perf_counter() - started}
        sha256 = inputs.checkpoint_sha256
        result = probe(vlm.to(device), sha256, train, val, out, cfg, wall_s, generator)
        finished = ProbeManifest(
            checkpoint=str(checkpoint),
            records=str(data / "val.jsonl"),
            **vars(inputs),
            **vars(result),
            device=device,
            finished_at=utc_now(),
            versions=installed_versions(),
            artifacts=artifacts(out),
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
    sha256: str,
    train: Dataset,
    val: Dataset,
    out: Path,
    cfg: ProbeConfig,
    wall_s: dict[str, float],
    generator: Generator = greedy,
) -> ProbeResult:
    """Roll out and validate, fine-tune `vlm` in place, roll out and validate again.

    Everything but probe.json is written to `out`; seconds by part are added to `wall_s`.
    `sha256` identifies the weights of `vlm`.
    """
    images, budget = evenly_spaced(len(val), cfg.images).tolist(), token_budget(val)

    def rollouts(moment: str, model_sha256: str) -> None:
        with timed(wall_s, f"rollouts_{moment}"):
            what = of_what(model_sha256, val.path, budget, len(images))
            generate = generator(vlm, val, budget)
            roll_out(out / moment, what, val, images, generate, cfg.rollout_batch)

    rollouts("before", sha256)
    with timed(wall_s, "validation_before"):
        table, before = validate(vlm, val, images, cfg)
    with timed(wall_s, "fine_tune"):
        rows, reason = fine_tune(vlm, train, cfg, out / "probe.jsonl")
    with timed(wall_s, "validation_after"):
        table_after, after = validate(vlm, val, images, cfg)
    if reason is None and not np.isfinite(list(after.values())).all():
        reason = f"after step {len(rows)}: the validation loss is not finite"
    after_sha256 = None if reason else weights_sha256(vlm)
    if after_sha256:
        rollouts("after", after_sha256)
    else:
        shutil.rmtree(out / "after", ignore_errors=True)  # of earlier settings
        table_after["geo_loss"] = np.nan
    n_boxes = write_image_losses(out / "images.parquet", table, table_after)
    return ProbeResult(
        status="diverged" if reason else "complete",
        reason=reason,
        images=len(images),
        boxes=n_boxes,
        budget_tokens=budget,
        steps=len(rows),
        before=before,
        after=None if reason else after,
        geo_loss_slope_per_step=slope_per_step([row["geo_loss"] for row in rows]),
        after_sha256=after_sha256,
        wall_s={part: round(seconds, 2) for part, seconds in wall_s.items()},
    )


def write_image_losses(path: Path, before: pd.DataFrame, after: pd.DataFrame) -> int:
    """Write each image's losses before and after the fine-tune; returns the number of boxes."""
    suffixes = ("_before", "_after")
    table = before.merge(after, on=["image_id", "n_boxes"], suffixes=suffixes, validate="1:1")
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
    return int(table["n_boxes"].sum())


def slope_per_step(losses: Sequence[float]) -> float | None:
    """Slope of the least-squares line through the losses of successive steps; None below two."""
    if len(losses) < 2:
        return None
    return float(np.polyfit(range(len(losses)), losses, 1)[0])


@contextmanager
def timed(wall_s: dict[str, float], part: str) -> Iterator[None]:
    """Note the seconds of the block in `wall_s`, under the name `part`."""
    started = time.perf_counter()
    yield
    wall_s[part] = time.perf_counter() - started


def weights_sha256(model: nn.Module) -> str:
    """One digest over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        total.update(
            weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()
