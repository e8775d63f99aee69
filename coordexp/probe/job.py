"""The probe of one finished run, where the workflow and `coordexp probe` want it."""

from __future__ import annotations

from pathlib import Path

import torch

from coordexp.config.digests import group_hash, plain
from coordexp.config.schema import Config
from coordexp.errors import UserError
from coordexp.models.checkpoints import device_for
from coordexp.probe.run import run_probe
from coordexp.storage.files import write_json
from coordexp.storage.manifest import read_manifest
from coordexp.storage.run_config import read_run_config
from coordexp.storage.runs import RunDirectory, data_directory, probe_directory


def own_recipe(run: RunDirectory) -> list[str]:
    """The probe settings of the study that a run was trained for, as overrides; none where it does not say."""
    if not run.config.exists():
        return []
    return [f"probe.{key}={value}" for key, value in read_run_config(run).probe.items()]


def probe_run(run: RunDirectory, step: int | None, cfg: Config) -> Path:
    """Probe a run's checkpoint at a step (its last one, if None) with the recipe `cfg.probe`; returns probe.json's path.

    A run that diverged, or kept no checkpoint at that step, gets a probe.json that says so: the card must explain it.

    Raises:
        UserError: the run is not finished, or its data are not there any more.
    """
    manifest = read_manifest(run)
    if manifest is None:
        raise UserError(f"{run.path}: not a finished run: train it first")
    steps = run.checkpoint_steps()
    at = step if step is not None else max(steps, default=manifest.step)
    out = probe_directory(run, at, cfg.probe)
    if at not in steps:
        reason = (
            manifest.reason or f"no checkpoint was kept at step {at} (see train.checkpoint_steps)"
        )
        write_json(
            out / "probe.json",
            {"status": "no checkpoint", "reason": reason, "settings": plain(cfg.probe)},
        )
        return out / "probe.json"
    data = read_run_config(run).data
    torch.set_num_threads(cfg.runtime.threads)
    return run_probe(
        run.checkpoint(at),
        data_directory(data["name"], group_hash(data)),
        out,
        cfg.probe,
        device_for(cfg.runtime),
        wait=cfg.runtime.wait,
    )
