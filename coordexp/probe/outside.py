"""Evaluate a checkpoint that was trained elsewhere: token table, eval row, Stage-2 probe.

results/evaluated/<name>-<hash8>/ is a run directory without train rows and without a manifest;
`coordexp compare` accepts it. hash8 is a digest of the checkpoint's bytes, the records, the prompt,
the step and the temperature.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import digest, plain
from coordexp.config.schema import Config, TokenGroups, VariantConfig
from coordexp.coords import COORD_TOKENS, coord_token_ids
from coordexp.data.batches import Dataset
from coordexp.data.chat import ChatEncoder
from coordexp.data.prompt_file import write_prompt_file
from coordexp.data.token_records import read_pixel_records, written_in_pixels
from coordexp.errors import UserError, require_regular
from coordexp.models.base import load_tokenizer, load_whole
from coordexp.models.checkpoints import device_for, load_base, write_pretrained
from coordexp.models.foreign_adapter import merge_adapter
from coordexp.models.foreign_pictures import OWN, find_normalisation
from coordexp.models.foreign_prompt import FoundPrompt, GivenPrompt, find_prompt
from coordexp.models.processor import ImageProcessor, build_processor
from coordexp.models.processor_files import find_video_settings
from coordexp.probe.run import run_probe
from coordexp.storage.files import (
    locked,
    replacing_directory,
    sha256_directory,
    sha256_file,
    write_text,
)
from coordexp.storage.logs.writer import LogWriter
from coordexp.storage.manifest import read_manifest, require_checkpoint
from coordexp.storage.runs import RESULTS, RunDirectory, probe_directory
from coordexp.training.evaluate import evaluate
from coordexp.training.stage1_model import Stage1Model


@dataclass(frozen=True)
class Outside:
    """A checkpoint that was trained elsewhere, and how it was trained."""

    checkpoint: Path
    name: str  # in a comparison
    step: int  # at which the training stopped
    temperature: float  # of the coordinate logits; 1 for plain cross-entropy
    adapter: Path | None = None  # of peft, merged into the checkpoint
    given: GivenPrompt = field(default_factory=GivenPrompt)

    @property
    def directories(self) -> list[Path]:
        """Where tokenizer and prompt are looked for, in this order."""
        return [self.adapter, self.checkpoint] if self.adapter else [self.checkpoint]


def evaluate_checkpoint(outside: Outside, records: Path, cfg: Config) -> RunDirectory:
    """Evaluate a checkpoint on a validation file, and probe it if training records exist.

    It is probed if the file is named val.jsonl and a train.jsonl is in the same directory. It is
    asked with its own chat template and prompt where it has them. Coordinates of the records may be
    pixels or coordinate tokens. Finished parts are not repeated.

    Raises:
        UserError: the directory holds no Qwen3-VL with coordinate tokens, or the records are
            broken.
    """
    step, checkpoint = outside.step, outside.checkpoint
    refuse_no_checkpoint(checkpoint)
    refuse_damaged(checkpoint)
    found = find_prompt(outside.directories, outside.given)
    print(f"{checkpoint}: {found}")
    # A broken line is told before a model of gigabytes is loaded.
    data = [read_pixel_records(path) for path in with_training_records(records)]
    identity = [
        *map(sha256_directory, outside.directories),
        *(sha256_file(split.path) for split in data),
        step,
        outside.temperature,
        found.template,
        plain(found.recorded),
    ]
    run = RunDirectory(RESULTS / "evaluated" / f"{outside.name}-{digest(identity)[:8]}")
    torch.set_num_threads(cfg.runtime.threads)
    with locked(run.lock, "being evaluated", wait=True), leaving_nothing(run):
        paths = written_in_pixels(data, run.path / "data")
        if not run.checkpoint(step).exists():
            model, processor = load_outside(outside, found)
            with replacing_directory(run.checkpoint(step)) as temporary:
                write_pretrained(model, processor, temporary)
                write_prompt_file(temporary, found.recorded)
            del model
        log = LogWriter(run.log, step)
        if not (log.has_eval(step) and run.table(step).exists()):
            variant = VariantConfig(
                outside.name, TokenGroups.joint, temperature=outside.temperature
            )
            row = judge(run, paths[0], variant, step, cfg)
            settings = run_settings(outside, records, found)
            write_text(run.config, OmegaConf.to_yaml(OmegaConf.create(settings)))
            log.append("eval", step, row | {"time_unix_s": time.time()})
    if len(paths) > 1:
        out = probe_directory(run, step, cfg.probe)
        run_probe(run.checkpoint(step), paths[0].parent, out, cfg.probe, device_for(cfg.runtime))
    return run


def run_settings(outside: Outside, records: Path, found: FoundPrompt) -> dict[str, Any]:
    """config.yaml of the run directory: what is known of a checkpoint's training and evaluation."""
    return {
        "variant": {"name": outside.name, "temperature": outside.temperature},
        "seed": 0,
        "checkpoint": str(outside.checkpoint),
        "adapter": str(outside.adapter) if outside.adapter else None,
        "prompt": plain(found.recorded),
        "records": str(records),
        **{group: {} for group in ("model", "data", "optim", "train")},
    }


@contextmanager
def leaving_nothing(run: RunDirectory) -> Iterator[None]:
    """Remove the directory of a checkpoint that is refused before anything of it is measured."""
    try:
        yield
    except UserError:
        if not run.log.exists():
            shutil.rmtree(run.path)
        raise


def refuse_no_checkpoint(checkpoint: Path) -> None:
    if (checkpoint / "config.json").is_file():
        return
    if (checkpoint / "adapter_config.json").is_file():
        raise UserError(
            f"{checkpoint}: an adapter without its base model: "
            f"evaluate the base model with --adapter {checkpoint}"
        )
    if checkpoint.is_dir():
        raise UserError(f"{checkpoint}: holds no config.json: give a Hugging Face directory")
    raise UserError(f"{checkpoint}: no such directory: give a local Hugging Face directory")


def refuse_damaged(checkpoint: Path) -> None:
    """Refuse a checkpoint of a finished run that is not the one that its run.json records."""
    whole = checkpoint.resolve()
    name = re.fullmatch(r"checkpoints/step-(\d+)", "/".join(whole.parts[-2:]))
    if name is None:
        return
    run = RunDirectory(whole.parents[1])
    if (manifest := read_manifest(run)) is not None:
        require_checkpoint(run, manifest, int(name[1]))


def with_training_records(records: Path) -> list[Path]:
    """The validation file, and the file of training records beside it if there is one.

    Raises:
        UserError: it is not a file.
    """
    require_regular(records)
    train = records.with_name("train.jsonl")
    return [records, train] if records.name == "val.jsonl" and train.exists() else [records]


def judge(
    run: RunDirectory, records: Path, variant: VariantConfig, step: int, cfg: Config
) -> dict[str, float]:
    """Write the token table and return the eval row.

    The model is freed when this function returns, because the probe needs the memory.

    Raises:
        UserError: a value is not finite, as of finite weights whose products overflow.
    """
    vlm, processor = load_base(run.checkpoint(step), torch.float32)
    accelerator = Accelerator(cpu=device_for(cfg.runtime) == "cpu")
    model = Stage1Model(vlm, variant, coord_token_ids(processor.tokenizer)).to(accelerator.device)
    row = evaluate(
        model, Dataset(records, processor), cfg.train.eval_micro_batch, accelerator, run.table(step)
    )
    assert row is not None
    if broken := [name for name, value in row.items() if not math.isfinite(value)]:
        raise UserError(
            f"{variant.name}: {broken[0]} is {row[broken[0]]} on {records}: the weights are "
            "finite, but what the model computes is not: was it saved whole? Did it diverge?"
        )
    return row


def load_outside(
    outside: Outside, found: FoundPrompt
) -> tuple[Qwen3VLForConditionalGeneration, ImageProcessor]:
    """Model and processor of a directory that another program wrote, its adapter merged.

    Raises:
        UserError: it is not a complete Qwen3-VL, has no coordinate tokens, or its chat template
            cannot be used.
    """
    named = str(outside.checkpoint)
    model, tokenizer = load_whole(named, named, torch.float32)
    if outside.adapter is not None:
        merge_adapter(model, outside.adapter)
        if (outside.adapter / "tokenizer_config.json").exists():
            tokenizer = load_tokenizer(str(outside.adapter))
    refuse_unusable_tokenizer(named, model, tokenizer)
    template_named = f"{named}: the chat template of {found.recorded.template_source}"
    ChatEncoder(tokenizer, found.template, found.recorded.prompt, template_named)
    tokenizer.chat_template = found.template
    vision = model.config.vision_config
    pictures = find_normalisation(outside.checkpoint, vision)
    if (pictures.mean, pictures.std) != (OWN, OWN):
        print(f"{named}: {pictures}")
    processor = build_processor(tokenizer, vision.patch_size, found.template)
    processor.image_processor.image_mean = list(pictures.mean)
    processor.image_processor.image_std = list(pictures.std)
    processor.videos = find_video_settings(named)
    return model, processor


def refuse_unusable_tokenizer(
    named: str, model: Qwen3VLForConditionalGeneration, tokenizer: Any
) -> None:
    """Raises UserError: a token has no embedding, or a coordinate is not one token."""
    rows, last = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if last >= rows:
        raise UserError(
            f"{named}: its tokenizer has tokens up to {last}, its embedding {rows} rows: "
            "the tokenizer is of another training, or an adapter lacks (--adapter)"
        )
    try:
        ids = coord_token_ids(tokenizer)
    except UserError as error:
        raise UserError(
            f"{named}: its tokenizer lacks some of <|coord_0|> … <|coord_999|>: "
            "only a checkpoint that writes coordinate tokens can be evaluated"
        ) from error
    if tokenizer("".join(COORD_TOKENS), add_special_tokens=False)["input_ids"] != ids:
        raise UserError(
            f"{named}: its tokenizer does not read each of <|coord_0|> … <|coord_999|> as one token"
        )
