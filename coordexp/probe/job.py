"""Probe one finished run, for the workflow and for `coordexp probe`."""

from __future__ import annotations

from pathlib import Path

import torch

from coordexp.config.digests import group_hash, plain
from coordexp.config.schema import Config
from coordexp.data.prepare import require_data
from coordexp.detection.probe_manifest import PROBE_FILE, MissingProbe
from coordexp.errors import UserError
from coordexp.models.checkpoints import device_for
from coordexp.probe.run import run_probe
from coordexp.storage.manifest import (
    RunManifest,
    read_manifest,
    require_checkpoint,
    require_recorded,
)
from coordexp.storage.run_config import read_run_config
from coordexp.storage.runs import RESULTS, RunDirectory, probe_directory
from coordexp.storage.typed import write_typed


def own_recipe(run: RunDirectory) -> list[str]:
    """The probe settings of the study that a run was trained for, as overrides.

    Empty if the run's configuration does not name them.
    """
    if not run.config.exists():
        return []
    require_recorded(run, run.config)
    return [f"probe.{key}={value}" for key, value in read_run_config(run).probe.items()]


def probe_run(
    run: RunDirectory, step: int | None, cfg: Config, allow_missing: bool = False
) -> Path:
    """Probe a run's checkpoint at a step (by default its last) with the settings `cfg.probe`.

    If the run diverged or kept no checkpoint at that step, `allow_missing` makes the probe.json
    state this, so that the report of a study can explain it.

    Returns:
        The path of probe.json.

    Raises:
        UserError: the run is not finished, its data no longer exist, or (unless `allow_missing`) it
            kept no checkpoint at that step.
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
        if not allow_missing:
            kept = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{run.path}: {reason}: the steps kept are {kept}")
        write_typed(out / PROBE_FILE, MissingProbe("no checkpoint", reason, plain(cfg.probe)))
        return out / PROBE_FILE
    require_checkpoint(run, manifest, at)
    data = records_of(run, manifest)
    require_data(data)
    torch.set_num_threads(cfg.runtime.threads)
    return run_probe(
        run.checkpoint(at),
        data,
        out,
        cfg.probe,
        device_for(cfg.runtime),
        wait=cfg.runtime.wait,
    )


def records_of(run: RunDirectory, manifest: RunManifest) -> Path:
    """The directory of the records that a run was trained on."""
    if manifest.data is not None:
        return Path(manifest.data)
    settings = read_run_config(run).data  # an earlier version named it by the settings alone
    return RESULTS / "data" / f"{settings['name']}-{group_hash(settings)}"
