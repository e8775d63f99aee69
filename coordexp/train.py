"""The Stage-1 loop: one run of one variant, from the base model to a finished run directory.

    python -m coordexp.train variant=pure_ce optim.lr=5e-4        (= coordexp-train …)

Killed at any moment and started again it continues, bit for bit: learning rate, data order and randomness are
functions of (seed, step), and what is not lies in one state file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm
from transformers.utils import logging as hf_logging

from coordexp.config import CONF_DIR, check, compose, digest, run_hash
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Batch, Dataset, step_indices
from coordexp.data.prepare import data_path
from coordexp.estimate import estimate
from coordexp.evaluate import average_losses, evaluate, evenly_spaced, forward_only
from coordexp.files import locked, read_json, sha256_file
from coordexp.logs import LogWriter
from coordexp.losses.objective import Stage1Model
from coordexp.losses.terms import SUMS, loss_values, watched_values
from coordexp.model import base_path, load_for_training, restore_weights, save_checkpoint, takes_packs, trained_weights
from coordexp.optim import build_optimizer, learning_rate_factor, step_optimizer
from coordexp.processor import ImageProcessor
from coordexp.runs import (
    RunDirectory,
    holds_results,
    module_digests,
    preflight_tolerance,
    remove_leftovers,
    run_directory,
    set_aside,
    verify_finished,
    write_config,
    write_manifest,
)
from coordexp.schema import UserError
from coordexp.state import load_state, save_state


class Diverged(Exception):
    """A loss or a gradient is not finite; raised before the optimizer step is taken."""


@dataclass
class Progress:
    """What the trainer remembers beside weights and optimizer. `window_*` cover the steps since the last train row."""

    step: int = 0
    tokens_seen: int = 0
    supervised_seen: int = 0
    train_wall_s: float = 0.0
    eval_wall_s: float = 0.0
    preflight: dict[str, float] = field(default_factory=dict)
    window_sums: Tensor = field(default_factory=lambda: torch.zeros(len(SUMS), dtype=torch.float64))
    window_abs_errs: list[float] = field(default_factory=list)  # bins, of every coordinate token, T = 1
    window_tokens: int = 0
    window_wall_s: float = 0.0

    def reset_window(self) -> None:
        self.window_sums = torch.zeros_like(self.window_sums)
        self.window_abs_errs, self.window_tokens, self.window_wall_s = [], 0, 0.0


@dataclass
class Training:
    """Everything one run needs, put together once by `set_up`."""

    cfg: DictConfig
    run: RunDirectory
    digests: dict[str, str]
    accelerator: Accelerator
    model: Stage1Model
    wrapped: torch.nn.Module  # the same, as the accelerator wraps it for several ranks
    optimizer: torch.optim.Optimizer
    processor: ImageProcessor
    train: Dataset
    val: Dataset
    progress: Progress
    modules: dict[str, str] = field(default_factory=module_digests)  # as imported, not as they are when it ends


def train(cfg: DictConfig) -> RunDirectory:
    """Train the run this configuration describes; returns its directory, finished (complete or diverged).

    Raises:
        UserError: data or base model are missing, another trainer holds the run, or what lies there is damaged.
    """
    digests = input_digests(cfg)
    run = run_directory(cfg.variant.name, cfg.seed, run_hash(cfg))
    AcceleratorState._reset_state(reset_partial_state=True)  # --multirun trains several times in one process
    accelerator = Accelerator(cpu=cfg.runtime.device == "cpu")
    if accelerator.num_processes != cfg.runtime.processes:
        raise UserError(
            f"runtime.processes={cfg.runtime.processes}, but {accelerator.num_processes} were started: start with "
            f"`python -m torch.distributed.run --standalone --nproc-per-node {cfg.runtime.processes} -m coordexp.train …`"
        )
    lock = locked(run.lock, "being trained", cfg.runtime.wait) if accelerator.is_main_process else nullcontext()
    with lock:
        if accelerator.is_main_process:
            remove_leftovers(run)
        done = torch.tensor(int(accelerator.is_main_process and verify_finished(run, digests)), device=accelerator.device)
        if not accelerator.reduce(done, reduction="sum"):
            train_to_end(set_up(cfg, run, digests, accelerator))
        accelerator.wait_for_everyone()
    return run


def input_digests(cfg: DictConfig) -> dict[str, str]:
    """sha256 of the data (its manifest and the records as they are now) and of the base model.

    Raises:
        UserError: they are not there yet, with the command that makes them.
    """
    data, base = [data_path(cfg) / name for name in ("data.json", "train.jsonl", "val.jsonl")], base_path(cfg) / "base.json"
    for needed in (*data, base):
        if not needed.exists():
            choices = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
            raise UserError(f"{needed}: not there yet: make it with `{shlex.join(['coordexp', 'prepare', *choices])}`")
    return {"data": digest([sha256_file(path) for path in data]), "base": read_json(base)["sha256"]}


def set_up(cfg: DictConfig, run: RunDirectory, digests: dict[str, str], accelerator: Accelerator) -> Training:
    """Model, optimizer, data and progress: fresh from the base model, or as the state file left them."""
    hf_logging.disable_progress_bar()
    torch.set_num_threads(cfg.runtime.threads)
    vlm, processor = load_for_training(cfg, accelerator.device)
    variant: Any = OmegaConf.to_object(cfg.variant)
    model = Stage1Model(vlm, variant, coord_token_ids(processor.tokenizer))
    wrapped, optimizer = accelerator.prepare(model, build_optimizer(vlm, cfg.optim))
    train_set, val_set = (Dataset(data_path(cfg) / f"{split}.jsonl", processor) for split in ("train", "val"))
    t = Training(cfg, run, digests, accelerator, model, wrapped, optimizer, processor, train_set, val_set, Progress())
    if accelerator.is_main_process:
        largest = max(load_window(t, step=1), key=lambda batch: batch.inputs["input_ids"].numel()).to(accelerator.device)
        print(estimate(vlm, largest, accelerator.num_processes, cfg.train.micro_batch_tokens).told(), flush=True)

    state = load_state(run.state) if run.state.exists() else None
    accelerator.wait_for_everyone()
    if state is not None and state["digests"] != digests:
        state = None
    if state is None and accelerator.is_main_process and holds_results(run):
        set_aside(run)  # of other data or another base model, or its state was removed: a new run inherits nothing
    if state is not None:
        restore_weights(model.vlm, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        t.progress = Progress(**state["progress"])
        return t
    t.progress.preflight = preflight(t)
    if accelerator.is_main_process:
        write_config(run, cfg)
        remember(t)
    return t


def remember(t: Training) -> None:
    """Write the state from which a killed run continues."""
    progress = {name: getattr(t.progress, name) for name in Progress.__dataclass_fields__}
    weights, optimizer = trained_weights(t.model.vlm), t.optimizer.state_dict()
    save_state(t.run.state, {"digests": t.digests, "progress": progress, "weights": weights, "optimizer": optimizer})


def preflight(t: Training) -> dict[str, float]:
    """The first accumulation window through the training path and the evaluation path, dropout off.

    Raises:
        UserError: the two losses differ by more than `preflight_tolerance`: the normalisation is broken.
    """
    window = load_window(t, step=1)
    denominators = count_tokens(t, window)
    t.model.eval()
    with torch.no_grad():
        losses = [t.wrapped(batch.to(t.accelerator.device), denominators, t.accelerator.num_processes).loss for batch in window]
    t.model.train()
    trained = float(t.accelerator.reduce(torch.stack(losses).double().sum(), "sum")) / t.accelerator.num_processes
    indices = step_indices(len(t.train), t.cfg.train.images_per_step, t.cfg.seed, step=1)
    passes = forward_only(t.model, t.train, indices, t.cfg.train.eval_micro_batch, t.accelerator.device)
    sums = torch.stack([output.sums for _, output in passes]).sum(0)
    evaluated = loss_values(sums, t.model.variant)["loss"]
    difference = abs(trained - evaluated) / abs(evaluated)
    allowed = preflight_tolerance(t.cfg.train.dtype)
    if not difference <= allowed:
        raise UserError(
            f"pre-flight: the training path gives loss {trained:.8g}, the evaluation path {evaluated:.8g} on the same images "
            f"({difference:.1e} apart, allowed {allowed:.0e}): the loss normalisation is broken"
        )
    return {"train_loss": trained, "eval_loss": evaluated, "relative_difference": difference}


def train_to_end(t: Training) -> None:
    """Every step that is left, then the manifest; a run that diverges gets one too."""
    status, reason = "complete", None
    try:
        loop(t)
    except Diverged as error:
        status, reason = "diverged", str(error)
        print(f"{t.cfg.variant.name} s{t.cfg.seed}: {reason}", flush=True)
    if t.accelerator.is_main_process:
        progress = asdict(t.progress)
        facts = {name: value for name, value in progress.items() if not name.startswith("window_")}
        facts |= {"processes": t.accelerator.num_processes, "device": str(t.accelerator.device), "modules_sha256": t.modules}
        facts |= picture_facts(t)
        write_manifest(t.run, t.cfg, t.digests, status, reason, facts)
        shutil.rmtree(t.run.state.parent)


def picture_facts(t: Training) -> dict[str, Any]:
    """What turns bins into pixels and pixels into visual tokens: the side of the square that a token covers, and the
    sides of the validation pictures as [smallest, median, largest]."""
    images, records = t.processor.image_processor, t.val.records
    sides = {"width": [r.width for r in records], "height": [r.height for r in records]}
    return {
        "cell_px": images.patch_size * images.merge_size,
        "val_images": len(records),
        "val_sides_px": {side: [min(px), float(np.median(px)), max(px)] for side, px in sides.items()},
    }


def loop(t: Training) -> None:
    """Each step: prefetched window, counts, micro-batches, clip, step; then whatever is due."""
    cfg, p, main = t.cfg.train, t.progress, t.accelerator.is_main_process
    log = LogWriter(t.run.log, cfg.max_steps) if main else None
    bar = tqdm(total=cfg.max_steps, initial=p.step, desc=t.cfg.variant.name, unit="step", mininterval=2.0, disable=not main)
    with bar, ThreadPoolExecutor(max_workers=1) as prefetcher:
        upcoming = prefetcher.submit(load_window, t, p.step + 1)
        for step in range(p.step + 1, cfg.max_steps + 1):
            started, last = time.perf_counter(), step == cfg.max_steps
            window = upcoming.result()
            if not last:
                upcoming = prefetcher.submit(load_window, t, step + 1)
            row = optimizer_step(t, window, step)
            p.step = step
            p.window_wall_s += time.perf_counter() - started
            p.train_wall_s += time.perf_counter() - started
            bar.update()
            if step % cfg.logging_steps == 0 or last:
                row |= train_row(t)
                p.reset_window()
                bar.set_postfix_str(f"loss {row['loss']:.3f}, {row['tokens_per_s']:.0f} tokens/s", refresh=False)
                if log:
                    log.append("train", step, row)
            if step % cfg.eval_steps == 0 or last:
                evaluate_step(t, log, step)
            if main and (step % cfg.checkpoint_steps == 0 or last):
                what = f"{t.cfg.variant.name}, seed {t.cfg.seed}, step {step}"
                save_checkpoint(t.model.vlm, t.processor, t.run.checkpoint(step), what)
            if main and step % cfg.state_steps == 0 and not last:
                remember(t)


def load_window(t: Training, step: int) -> list[Batch]:
    """This process's micro-batches of optimizer step `step`, cut by tokens or by images; then neighbours are alike in length."""
    cfg, ranks, rank = t.cfg.train, t.accelerator.num_processes, t.accelerator.process_index
    indices = step_indices(len(t.train), cfg.images_per_step, t.cfg.seed, step).tolist()
    if cfg.micro_batch_tokens:
        return t.train.micro_batches(indices, ranks, rank, cfg.micro_batch_tokens, takes_packs(t.model.vlm))
    mine = sorted(indices[rank::ranks], key=t.train.length)
    return [t.train.batch(mine[i : i + cfg.micro_batch]) for i in range(0, len(mine), cfg.micro_batch)]


def count_tokens(t: Training, window: list[Batch]) -> Tensor:
    """Text and coordinate tokens of the whole optimizer step, over every rank  # [2]"""
    counts = torch.tensor([[batch.n_text, batch.n_coord] for batch in window], dtype=torch.float32).sum(0)
    return t.accelerator.reduce(counts.to(t.accelerator.device), "sum")


def optimizer_step(t: Training, window: list[Batch], step: int) -> dict[str, float]:
    """One AdamW step over an accumulation window; returns its learning rate and gradient norm before clipping.

    Raises:
        Diverged: the loss or the gradient is not finite. No weight has changed then.
    """
    p, ranks = t.progress, t.accelerator.num_processes
    denominators = count_tokens(t, window)
    losses, sums = [], torch.zeros(len(SUMS), dtype=torch.float64, device=t.accelerator.device)
    for i, batch in enumerate(window):
        seed_randomness(t, step, i)
        is_last = i == len(window) - 1
        with nullcontext() if is_last else t.accelerator.no_sync(t.wrapped):
            output = t.wrapped(batch.to(t.accelerator.device), denominators, ranks)
            t.accelerator.backward(output.loss)
        losses.append(output.loss.detach())
        sums += output.sums
        p.window_abs_errs += output.columns["abs_err"].tolist()
    grad_norm = float(t.accelerator.clip_grad_norm_(t.model.parameters(), t.cfg.optim.clip_norm))
    n_tokens = torch.tensor([sum(batch.n_tokens for batch in window)], device=t.accelerator.device)
    mine = torch.cat([torch.stack(losses).sum()[None].double(), n_tokens.double(), sums])
    whole = t.accelerator.reduce(mine, "sum").cpu()  # of every rank, so that a window survives in one state file
    loss, tokens = float(whole[0]) / ranks, int(whole[1])
    p.window_sums += whole[2:]
    p.window_tokens += tokens
    if not (np.isfinite(loss) and np.isfinite(grad_norm)):
        raise Diverged(f"diverged at step {step} (loss {loss}, gradient norm {grad_norm}): the step was not taken")
    optim = t.cfg.optim
    factor = learning_rate_factor(step, t.cfg.train.max_steps, optim.warmup_fraction, optim.floor_fraction)
    step_optimizer(t.optimizer, t.model.vlm, t.model.coord_ids, optim, factor)
    t.optimizer.zero_grad()
    p.tokens_seen += tokens
    p.supervised_seen += int(denominators.sum())
    return {"learning_rate": optim.lr * factor, "grad_norm": grad_norm, "accum/grad_steps": float(len(window))}


def seed_randomness(t: Training, step: int, micro_batch: int) -> None:
    """Dropout and the like are a function of (seed, step, micro-batch, rank), never of what ran before."""
    entropy = [t.cfg.seed, step, micro_batch, t.accelerator.process_index]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def train_row(t: Training) -> dict[str, float]:
    """The window since the last row, token-weighted over every rank: the same quantities as an eval row."""
    p = t.progress
    p90 = float(np.quantile(p.window_abs_errs, 0.9)) if p.window_abs_errs else None
    ranks = t.accelerator.num_processes
    return {
        **loss_values(p.window_sums, t.model.variant),
        **watched_values(p.window_sums, p90 if ranks == 1 else None, t.model.variant),
        "tokens_per_s": p.window_tokens / max(p.window_wall_s, 1e-9),
        "time_unix_s": time.time(),
    }


def evaluate_step(t: Training, log: LogWriter | None, step: int) -> None:
    """Eval row and token table of this step, unless an earlier life of this run has written both."""
    there = torch.tensor(int(log is not None and log.has_eval(step) and t.run.table(step).exists()), device=t.accelerator.device)
    if t.accelerator.reduce(there, "sum"):
        return
    started, cfg = time.perf_counter(), t.cfg.train
    row = evaluate(t.model, t.val, cfg.eval_micro_batch, t.accelerator, t.run.table(step))
    subset = average_losses(t.model, t.train, evenly_spaced(len(t.train), cfg.audit_images), cfg.eval_micro_batch, t.accelerator)
    t.progress.eval_wall_s += time.perf_counter() - started
    loss = float(t.accelerator.reduce(torch.tensor(row["loss"] if row else 0.0, device=t.accelerator.device), "sum"))
    if not np.isfinite([loss, subset.get("loss", 0.0)]).all():
        losses = f"eval_loss {loss}" + (f", on train images {subset['loss']}" if subset else "")
        raise Diverged(f"diverged at step {step} ({losses}): this step's weights are of no use")
    if log is None or row is None:
        return
    row |= {f"train_subset/{key}": value for key, value in subset.items()}
    log.append("eval", step, row | {"time_unix_s": time.time()})
    left_s = (t.progress.train_wall_s + t.progress.eval_wall_s) / step * (cfg.max_steps - step)
    print(
        f"{t.cfg.variant.name} s{t.cfg.seed}  step {step}/{cfg.max_steps}  eval_loss {row['loss']:.3f}  "
        f"MAE {row['coord_diag/expected_bin_mae']:.1f} bins  coord acc {row['coord_token_acc']:.3f}  "
        f"{left_s / 60:.1f} min left",
        flush=True,
    )


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def hydra_main(cfg: DictConfig) -> None:
    try:
        OmegaConf.resolve(cfg)
        check(cfg)
        run = train(cfg)
    except UserError as error:
        sys.exit(f"coordexp-train: {error}")
    print(f"{run.path}: {read_json(run.manifest)['status']}")


def main() -> None:
    """Entry point. Plain overrides are checked first, so that a slip costs one line and not Hydra's dozen."""
    if not any(argument.startswith("-") for argument in sys.argv[1:]) and not any("," in a for a in sys.argv[1:]):
        try:
            compose(sys.argv[1:])
        except UserError as error:
            sys.exit(f"coordexp-train: {error}")
    hydra_main()


if __name__ == "__main__":
    main()
