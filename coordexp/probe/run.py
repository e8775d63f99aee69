"""The Stage-2 probe of one checkpoint: rollouts, a short geometric fine-tune, rollouts again.

<out>/before/, <out>/after/   rollouts (see rollout.py) of the checkpoint, and of the weights the fine-tune ends with
<out>/probe.jsonl             a row a step of the fine-tune
<out>/images.parquet          image_id, n_boxes, geo_loss_before, geo_loss_after
<out>/probe.json              settings, digests, losses, seconds; written last, so where it stands all of it does

Every candidate gets the same recipe: the same images in the same order, one temperature, float32, dropout off. The
fine-tuned weights are dropped: they only show how well a checkpoint takes to continuous losses.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import plain
from coordexp.config.schema import ProbeConfig
from coordexp.data.batches import Dataset
from coordexp.errors import UserError
from coordexp.models.checkpoints import load_base
from coordexp.probe.finetune import fine_tune, validate
from coordexp.probe.rollout import Generate, greedy, of_what, roll_out, token_budget
from coordexp.storage.files import (
    locked,
    read_json,
    replacing,
    sha256_directory,
    sha256_file,
    write_json,
)
from coordexp.storage.manifest import installed_versions, utc_now
from coordexp.storage.runs import RunDirectory
from coordexp.training.evaluate import evenly_spaced

Generator = Callable[
    [Qwen3VLForConditionalGeneration, Dataset, int], Generate
]  # model, images, token budget


def run_probe(
    source: Path, data: Path, out: Path, cfg: ProbeConfig, device: str = "cpu", wait: bool = False,
    generator: Generator = greedy,
) -> Path:  # fmt: skip
    """Probe a checkpoint directory (or the last checkpoint of a run directory); returns `<out>/probe.json`.

    `data` holds train.jsonl and val.jsonl. A finished probe of the same bytes and settings is recognised and its
    manifest touched; a killed one keeps the rollouts it has and repeats the fine-tune, on a CPU bit for bit.

    Raises:
        UserError: there is no checkpoint, another process probes into `out` (unless `wait`), or the data are at fault.
    """
    checkpoint, manifest = checkpoint_of(source), out / "probe.json"
    with locked(out / ".lock", "being probed", wait):
        sha256 = sha256_directory(checkpoint)
        inputs = {
            "checkpoint_sha256": sha256,
            "data_sha256": {
                split: sha256_file(data / f"{split}.jsonl") for split in ("train", "val")
            },
            "settings": plain(cfg),
        }
        if is_finished(manifest, inputs):
            manifest.touch()
            return manifest
        manifest.unlink(missing_ok=True)
        started = time.perf_counter()
        vlm, processor = load_base(checkpoint, torch.float32)
        train, val = (Dataset(data / f"{split}.jsonl", processor) for split in ("train", "val"))
        wall_s = {"load": time.perf_counter() - started}
        found = probe(vlm.to(device), sha256, train, val, out, cfg, wall_s, generator)
        facts = {
            "device": device,
            "finished_at": utc_now(),
            "versions": installed_versions(),
            "artifacts": artifacts(out),
        }
        write_json(
            manifest,
            {
                "checkpoint": str(checkpoint),
                "records": str(data / "val.jsonl"),
                **inputs,
                **found,
                **facts,
            },
        )
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


def is_finished(manifest: Path, inputs: dict[str, Any]) -> bool:
    """Whether a probe of these inputs has been written, and its files are still what the manifest vouches for."""
    if not manifest.exists():
        return False
    found = read_json(manifest)
    return all(found.get(key) == value for key, value in inputs.items()) and found[
        "artifacts"
    ] == artifacts(manifest.parent)


def artifacts(out: Path) -> dict[str, str]:
    """sha256 of each file the manifest vouches for."""
    files = [*out.glob("*/rollouts-*.jsonl"), *out.glob("probe.jsonl"), *out.glob("images.parquet")]
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(files)}


def probe(
    vlm: Qwen3VLForConditionalGeneration, sha256: str, train: Dataset, val: Dataset, out: Path, cfg: ProbeConfig,
    wall_s: dict[str, float], generator: Generator = greedy,
) -> dict[str, Any]:  # fmt: skip
    """Look, fine-tune `vlm` in place, look again; everything but the manifest is written to `out`.

    `sha256` stands for the weights of `vlm`; seconds by part are added to `wall_s`. Returns the losses before and
    after, the slope of `geo_loss` over the steps (least squares), what it cost, and `status`: complete, or diverged, and
    then there is nothing after.
    """
    images, budget = evenly_spaced(len(val), cfg.images).tolist(), token_budget(val)

    def rollouts(when: str, model_sha256: str) -> None:
        with timed(wall_s, f"rollouts_{when}"):
            what = of_what(model_sha256, val.path, budget, len(images))
            roll_out(out / when, what, val, images, generator(vlm, val, budget), cfg.rollout_batch)

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
    table = table.merge(
        table_after, on=["image_id", "n_boxes"], suffixes=("_before", "_after"), validate="1:1"
    )
    with replacing(out / "images.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    geo_loss = [row["geo_loss"] for row in rows]
    return {
        "status": "diverged" if reason else "complete",
        "reason": reason,
        "images": len(images),
        "boxes": int(table["n_boxes"].sum()),
        "budget_tokens": budget,
        "steps": len(rows),
        "before": before,
        "after": None if reason else after,
        "geo_loss_slope_per_step": float(np.polyfit(range(len(rows)), geo_loss, 1)[0])
        if len(rows) > 1
        else None,
        "after_sha256": after_sha256,
        "wall_s": {part: round(seconds, 2) for part, seconds in wall_s.items()},
    }


@contextmanager
def timed(wall_s: dict[str, float], part: str) -> Iterator[None]:
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
