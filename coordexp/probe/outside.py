"""Evaluate a checkpoint that was trained elsewhere: token table, eval row, Stage-2 probe.

results/evaluated/<name>-<hash8>/ is a run directory without train rows and without a manifest;
`coordexp compare` accepts it. hash8 is a digest of the checkpoint's bytes, the records, the step
and the temperature.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import digest
from coordexp.config.schema import Config, TokenGroups, VariantConfig
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Dataset
from coordexp.data.records import read_records
from coordexp.errors import UserError
from coordexp.models.base import load_whole
from coordexp.models.checkpoints import device_for, load_base, save_pretrained
from coordexp.models.processor import ImageProcessor, build_processor
from coordexp.probe.run import run_probe
from coordexp.storage.files import locked, sha256_directory, sha256_file, write_text
from coordexp.storage.logs.writer import LogWriter
from coordexp.storage.runs import RESULTS, RunDirectory, probe_directory
from coordexp.training.evaluate import evaluate
from coordexp.training.stage1_model import Stage1Model


def evaluate_checkpoint(
    checkpoint: Path, records: Path, name: str, step: int, temperature: float, cfg: Config
) -> RunDirectory:
    """Evaluate a checkpoint on a validation file, and probe it if training records exist.

    It is probed if the file is named val.jsonl and a train.jsonl is in the same directory.
    `temperature` is the one at which the checkpoint was trained (1 for plain cross-entropy).
    Finished parts are not repeated.

    Raises:
        UserError: the directory holds no Qwen3-VL with coordinate tokens, or the records are
            broken.
    """
    if not (records.is_file() and (checkpoint / "config.json").is_file()):
        raise UserError(
            f"{checkpoint if records.is_file() else records}: no such "
            f"{'checkpoint' if records.is_file() else 'file'}"
        )
    read_records(records)  # a broken line is told before a model of gigabytes is loaded
    identity = [sha256_directory(checkpoint), sha256_file(records), step, temperature]
    run = RunDirectory(RESULTS / "evaluated" / f"{name}-{digest(identity)[:8]}")
    torch.set_num_threads(cfg.runtime.threads)
    with locked(run.lock, "being evaluated", wait=True):
        if not run.checkpoint(step).exists():
            save_pretrained(*load_outside(checkpoint), run.checkpoint(step))
        log = LogWriter(run.log, step)
        if not (log.has_eval(step) and run.table(step).exists()):
            row = judge(
                run,
                records,
                VariantConfig(name, TokenGroups.joint, temperature=temperature),
                step,
                cfg,
            )
            settings = {
                "variant": {"name": name, "temperature": temperature},
                "seed": 0,
                "checkpoint": str(checkpoint),
            }
            groups = {"records": str(records), "model": {}, "data": {}, "optim": {}, "train": {}}
            write_text(run.config, OmegaConf.to_yaml(OmegaConf.create(settings | groups)))
            log.append("eval", step, row | {"time_unix_s": time.time()})
    if records.name == "val.jsonl" and records.with_name("train.jsonl").exists():
        out = probe_directory(run, step, cfg.probe)
        run_probe(run.checkpoint(step), records.parent, out, cfg.probe, device_for(cfg.runtime))
    return run


def judge(
    run: RunDirectory, records: Path, variant: VariantConfig, step: int, cfg: Config
) -> dict[str, float]:
    """Write the token table and return the eval row.

    The model is freed when this function returns, because the probe needs the memory.
    """
    vlm, processor = load_base(run.checkpoint(step), torch.float32)
    accelerator = Accelerator(cpu=device_for(cfg.runtime) == "cpu")
    model = Stage1Model(vlm, variant, coord_token_ids(processor.tokenizer)).to(accelerator.device)
    row = evaluate(
        model, Dataset(records, processor), cfg.train.eval_micro_batch, accelerator, run.table(step)
    )
    assert row is not None
    return row


def load_outside(checkpoint: Path) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Model and processor of a directory that plain transformers wrote.

    Weights and tokens are those of the directory; the chat template is this project's.

    Raises:
        UserError: it is not a complete Qwen3-VL, or has no coordinate tokens.
    """
    model, tokenizer = load_whole(str(checkpoint), str(checkpoint), torch.float32)
    coord_token_ids(tokenizer)
    return model, build_processor(tokenizer, model.config.vision_config.patch_size)
