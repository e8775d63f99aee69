"""Rollouts that are handed over with the runs: `--rollouts NAME=FILE`, found and digested."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.suggest import did_you_mean
from coordexp.errors import UserError, require_regular
from coordexp.storage.files import read_json, sha256_file, sha256_files
from coordexp.study.locate import naming_unreadable
from coordexp.study.sources import Source

UPSTREAM = "gt_vs_pred*.jsonl"  # what CoordExp's inference writes
PROBE_FILE = "probe.json"
SHARDS = "before/rollouts-*.jsonl"  # of a probe, before its fine-tune
FORM = "must be NAME=FILE, or NAME@STEP=FILE where no path says the step of the checkpoint"
_ARGUMENT = re.compile(r"(?P<name>[^=@]+)(@(?P<step>\d{1,12}))?=(?P<path>.+)")
# `eval_detection/step_0000300/`, `checkpoint-1932`, `step-000720-1f2e3d4c`: the last one counts.
_STEP_OF_PATH = re.compile(r"(?<![A-Za-z])(?:step|checkpoint|ckpt)[-_=]?0*(\d{1,12})(?!\d)")


@dataclass(frozen=True)
class RolloutFile:
    """What a checkpoint of a run predicted, as a file of another evaluator or a probe of this one.

    path: the file, or the directory of a probe.
    sha256: of its bytes; of a probe, over its shards and the records that they were made from.
    step: of the checkpoint, where NAME@STEP or the path says it.
    ground_truth: the file that it is scored against, where it holds none itself.
    """

    variant: str
    seed: int
    path: Path
    sha256: str
    step: int | None = None
    ground_truth: Path | None = None
    ground_truth_sha256: str | None = None


def parse_rollouts(
    arguments: Sequence[str],
    sources: Sequence[Source],
    controls: Sequence[str] = (),
    ground_truth: Path | None = None,
) -> tuple[RolloutFile, ...]:
    """The files that the arguments (`NAME=FILE` each) stand for, in the order of the sources.

    The first FILE of a NAME belongs to the first run of that name, the second to the second.

    Raises:
        UserError: an argument has another form, its NAME is no candidate's or has fewer runs than
            files, or a file is missing.
    """
    if ground_truth is not None and not arguments:
        raise UserError(f"--ground-truth {ground_truth}: there are no --rollouts to score")
    truth_sha256 = None
    if ground_truth is not None:
        ground_truth = Path(os.path.expanduser(ground_truth))
        require_regular(ground_truth)
        with naming_unreadable(ground_truth):
            truth_sha256 = sha256_file(ground_truth)
    seeds: dict[str, list[int]] = {}
    for source in sources:
        seeds.setdefault(source.variant, []).append(source.seed)
    taken: Counter[str] = Counter()
    found = []
    for argument in arguments:
        name, step, path = _split(argument)
        _refuse_name(name, seeds, controls, argument)
        if taken[name] == len(seeds[name]):
            runs = "1 run" if taken[name] == 1 else f"{taken[name]} runs"
            raise UserError(f"--rollouts {argument}: {name} has {runs}, and more files")
        seed = seeds[name][taken[name]]
        taken[name] += 1
        with naming_unreadable(path):
            path = locate_rollouts(path)
            digest = rollouts_sha256(path)
        step = step if step is not None else step_of_path(path)
        found.append(RolloutFile(name, seed, path, digest, step, ground_truth, truth_sha256))
    return tuple(found)


def _split(argument: str) -> tuple[str, int | None, Path]:
    match = _ARGUMENT.fullmatch(argument)
    if match is None or not argument.isprintable():
        raise UserError(f"--rollouts {argument!a}: {FORM}")
    step = int(match["step"]) if match["step"] else None
    return match["name"], step, Path(os.path.expanduser(match["path"]))


def _refuse_name(
    name: str, seeds: dict[str, list[int]], controls: Sequence[str], argument: str
) -> None:
    if name in controls:
        raise UserError(
            f"--rollouts {argument}: {name} is a control: rollouts of candidates are compared"
        )
    if name not in seeds:
        raise UserError(
            f"--rollouts {argument}: no run has the name {name}{did_you_mean(name, list(seeds))}"
        )


def locate_rollouts(path: Path) -> Path:
    """The file of rollouts that a path stands for; a probe's directory stands for itself.

    Raises:
        UserError: nothing is there, or a directory holds no rollouts or several files of them.
    """
    if not path.is_dir():
        require_regular(path)
        return path
    if (path / PROBE_FILE).is_file():
        return path
    files = sorted(path.glob(UPSTREAM))
    if len(files) != 1:
        shown = ", ".join(file.name for file in files[:4]) or f"no {UPSTREAM} and no {PROBE_FILE}"
        raise UserError(f"{path}: a directory that holds {shown}: name one file of rollouts")
    return files[0]


def rollouts_sha256(path: Path) -> str:
    """The digest of a file of rollouts, or of the directory of a probe.

    Raises:
        UserError: the probe.json of a directory cannot be read.
    """
    if not path.is_dir():
        return sha256_file(path)
    manifest = read_json(path / PROBE_FILE)
    files = sorted(path.glob(SHARDS))
    records = manifest.get("records") if isinstance(manifest, dict) else None
    if isinstance(records, str) and Path(records).is_file():
        files.append(Path(records))
    return sha256_files(files)


def step_of_path(path: Path) -> int | None:
    """The step that a path names, such as `eval_detection/step_0000300/gt_vs_pred.jsonl`."""
    steps = _STEP_OF_PATH.findall(str(path))
    return int(steps[-1]) if steps else None


def refuse_changed(file: RolloutFile) -> None:
    """Raises UserError: the rollouts, or their ground truth, have changed since the study began."""
    digests = [(file.path, file.sha256)]
    if file.ground_truth is not None and file.ground_truth_sha256 is not None:
        digests.append((file.ground_truth, file.ground_truth_sha256))
    for path, sha256 in digests:
        if not path.exists():
            raise UserError(f"{path}: no such file any more: start the same command again")
        with naming_unreadable(path):
            now = rollouts_sha256(path)
        if now != sha256:
            raise UserError(
                f"{path}: has changed since the study began: start the same command again"
            )
