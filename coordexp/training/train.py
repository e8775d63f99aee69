"""Stage-1 training: one run of one variant, from the base model to a finished run directory.

    python -m coordexp.training.train variant=pure_ce optim.lr=5e-4        (= coordexp-train …)

A run that is killed at any moment continues bit for bit when it is started again: learning rate,
data order and randomness are functions of (seed, step), and one state file holds everything else.
"""

from __future__ import annotations

if __name__ == "__main__":
    # `python -m`: go on in a module that imports torch when it can end in one line.
    import sys

    from coordexp.training.launch import main

    main()
    sys.exit()

import datetime
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from coordexp.config.compose import typed
from coordexp.config.digests import digest
from coordexp.config.package import CONF_DIR, launcher
from coordexp.config.schema import Config
from coordexp.data.prepare import require_data
from coordexp.errors import UserError, one_line
from coordexp.models.base_manifest import require_base
from coordexp.models.checkpoints import device_for, save_checkpoint
from coordexp.storage.files import locked, sha256_file
from coordexp.storage.identity import base_path, data_path, run_hash
from coordexp.storage.logs.writer import LogWriter
from coordexp.storage.manifest import InputDigests, Status, read_manifest, verify_finished
from coordexp.storage.runs import (
    RunDirectory,
    remove_leftovers,
    run_directory,
)
from coordexp.training.evaluate import average_losses, evaluate, evenly_spaced
from coordexp.training.interruption import StopRequest, stop_if_asked, stop_request
from coordexp.training.seal import seal
from coordexp.training.setup import save_progress, set_up
from coordexp.training.step import DivergedError, Training, load_window, optimizer_step, train_row

# How long the other ranks wait while the main rank waits for a lock, evaluates, merges or writes.
PATIENCE = datetime.timedelta(days=1)
# Exit code of a run that diverged: it has a manifest, and the same command would not change it.
DIVERGED = 3


def train(cfg: Config, overrides: Sequence[str] = ()) -> RunDirectory:
    """Train the run that this configuration describes.

    Args:
        cfg: the settings of the run.
        overrides: the overrides of the command line; an error message repeats them.

    Returns:
        Its directory, finished (complete or diverged).

    Raises:
        UserError: data or base model are missing, the number of processes is not
            runtime.processes, another trainer holds the run, or its files are damaged.
        Interrupted: a signal came; the same call continues.
    """
    digests = input_digests(cfg, overrides)
    run = run_directory(cfg.variant.name, cfg.seed, run_hash(cfg))
    # With --multirun one process trains several runs, one after the other.
    AcceleratorState._reset_state(reset_partial_state=True)
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(cpu=device_for(cfg.runtime) == "cpu", kwargs_handlers=[patient])
    if accelerator.num_processes != cfg.runtime.processes:
        raise UserError(
            f"runtime.processes={cfg.runtime.processes}, but {accelerator.num_processes} were "
            f"started: start with `{launcher(cfg.runtime.processes)} coordexp.training.train …`"
        )
    lock = (
        locked(run.lock, "being trained", cfg.runtime.wait)
        if accelerator.is_main_process
        else nullcontext()
    )
    with lock:
        if accelerator.is_main_process:
            remove_leftovers(run)
        done = torch.tensor(
            int(accelerator.is_main_process and verify_finished(run, digests)),
            device=accelerator.device,
        )
        if not accelerator.reduce(done, reduction="sum"):
            with stop_request() as request:
                train_to_end(set_up(cfg, run, digests, accelerator), request)
        accelerator.wait_for_everyone()
    return run


def input_digests(cfg: Config, overrides: Sequence[str]) -> InputDigests:
    """sha256 of the data (its manifest and records) and of the base model.

    Raises:
        UserError: they do not exist yet (the message names the command that makes them), or their
            files are not those that data.json and base.json record.
    """
    data, base = (
        [data_path(cfg) / name for name in ("data.json", "train.jsonl", "val.jsonl")],
        base_path(cfg) / "base.json",
    )
    for needed in (*data, base):
        if not needed.exists():
            command = shlex.join(["coordexp", "prepare", *overrides])
            raise UserError(f"{needed}: not there yet: make it with `{command}`")
    require_data(data_path(cfg))
    return InputDigests(
        data=digest([sha256_file(path) for path in data]), base=require_base(base_path(cfg)).sha256
    )


def train_to_end(t: Training, request: StopRequest) -> None:
    """Train the remaining steps, then write the manifest, also if the run diverges.

    Raises:
        Interrupted: a signal came before the last step.
    """
    status: Status = "complete"
    reason: str | None = None
    try:
        loop(t, request)
    except DivergedError as error:
        status, reason = "diverged", str(error)
        tell(f"{t.cfg.variant.name} s{t.cfg.seed}: {reason}")
    if t.accelerator.is_main_process:
        seal(t, status, reason)


def loop(t: Training, request: StopRequest) -> None:
    """The training loop: an optimizer step on a prefetched window, then what is due at this step.

    That is a train row, an evaluation, a checkpoint or the resumable state.
    """
    stop_if_asked(t, request)  # a signal that came during the setup
    cfg, p, main = t.cfg.train, t.progress, t.accelerator.is_main_process
    log = LogWriter(t.run.log, cfg.max_steps) if main else None
    bar = tqdm(
        total=cfg.max_steps,
        initial=p.step,
        desc=t.cfg.variant.name,
        unit="step",
        mininterval=2.0,
        disable=None if main else True,  # None: drawn on a terminal only
    )
    with bar, ThreadPoolExecutor(max_workers=1) as prefetcher:
        upcoming = prefetcher.submit(load_window, t, p.step + 1)
        for step in range(p.step + 1, cfg.max_steps + 1):
            started, cpu_started = time.perf_counter(), time.process_time()
            last = step == cfg.max_steps
            window = upcoming.result()
            if not last:
                upcoming = prefetcher.submit(load_window, t, step + 1)
            row = optimizer_step(t, window, step)
            p.step = step
            p.window_wall_s += time.perf_counter() - started
            p.train_wall_s += time.perf_counter() - started
            p.train_cpu_s += time.process_time() - cpu_started
            bar.update()
            if step % cfg.logging_steps == 0 or last:
                row |= train_row(t)
                p.reset_window()
                bar.set_postfix_str(
                    f"loss {row['loss']:.3f}, {row['tokens_per_s']:.0f} tokens/s", refresh=False
                )
                if log:
                    log.append("train", step, row)
            if step % cfg.eval_steps == 0 or last:
                evaluate_step(t, log, step)
            if main and (step % cfg.checkpoint_steps == 0 or last):
                what = f"{t.cfg.variant.name}, seed {t.cfg.seed}, step {step}"
                save_checkpoint(t.model.vlm, t.processor, t.run.checkpoint(step), what)
            if main and step % cfg.state_steps == 0 and not last:
                save_progress(t)
            if not last:
                stop_if_asked(t, request)


def evaluate_step(t: Training, log: LogWriter | None, step: int) -> None:
    """Write eval row and token table of this step, unless the run wrote both before it was killed.

    Raises:
        DivergedError: a loss is not finite.
    """
    there = torch.tensor(
        int(log is not None and log.has_eval(step) and t.run.table(step).exists()),
        device=t.accelerator.device,
    )
    if t.accelerator.reduce(there, "sum"):
        return
    started, cfg = time.perf_counter(), t.cfg.train
    row = evaluate(t.model, t.val, cfg.eval_micro_batch, t.accelerator, t.run.table(step))
    subset = average_losses(
        t.model,
        t.train,
        evenly_spaced(len(t.train), cfg.audit_images),
        cfg.eval_micro_batch,
        t.accelerator,
    )
    t.progress.eval_wall_s += time.perf_counter() - started
    loss = float(
        t.accelerator.reduce(
            torch.tensor(row["loss"] if row else 0.0, device=t.accelerator.device), "sum"
        )
    )
    if not np.isfinite([loss, subset.get("loss", 0.0)]).all():
        losses = f"eval_loss {loss}" + (f", on train images {subset['loss']}" if subset else "")
        raise DivergedError(
            f"diverged at step {step} ({losses}): this step's weights are of no use"
        )
    if log is None or row is None:
        return
    row |= {f"train_subset/{key}": value for key, value in subset.items()}
    log.append("eval", step, row | {"time_unix_s": time.time()})
    left_s = (t.progress.train_wall_s + t.progress.eval_wall_s) / step * (cfg.max_steps - step)
    tell(
        f"{t.cfg.variant.name} s{t.cfg.seed}  step {step}/{cfg.max_steps}  eval_loss "
        f"{row['loss']:.3f}  "
        f"MAE {row['coord_diag/expected_bin_mae']:.1f} bins  coord acc "
        f"{row['coord_token_acc']:.3f}  "
        f"{left_s / 60:.1f} min left"
    )


def tell(line: str) -> None:
    """Print a line above the progress bar, if one is drawn."""
    tqdm.write(line)
    sys.stdout.flush()


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def hydra_main(cfg: DictConfig) -> None:
    try:
        train_and_tell(typed(cfg), HydraConfig.get().overrides.task)
    except UserError as error:
        sys.exit(f"coordexp-train: {one_line(error)}")


def train_and_tell(cfg: Config, overrides: Sequence[str]) -> None:
    """Train, and print how the run ended.

    Raises:
        SystemExit: it diverged, and runtime.diverged_ok does not allow that.
    """
    run = train(cfg, overrides)
    manifest = read_manifest(run)
    assert manifest is not None, "a trained run has a manifest"
    if PartialState().is_main_process:
        print(f"{run.path}: {manifest.status}", flush=True)
    if manifest.status == "diverged" and not cfg.runtime.diverged_ok:
        sys.exit(DIVERGED)


def train_or_sweep(cfg: Config | None, arguments: Sequence[str]) -> None:
    """Train the run of `check_arguments`; if that gave none, let Hydra read the command line.

    Hydra's own main composes twice more, so it is called only if it is needed.
    """
    if cfg is None:
        hydra_main()
    else:
        train_and_tell(cfg, arguments)
