"""What `NAME=PATH` on a command line stands for: logs, TensorBoard events, run directories, whole studies."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coordexp.errors import UserError
from coordexp.storage.files import sha256_file
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import Log
from coordexp.storage.logs.tensorboard import event_files, read_events
from coordexp.storage.runs import RunDirectory
from coordexp.study.study_runs import read_study_runs

LOG, TENSORBOARD, RUN_DIRECTORY = "log", "TensorBoard", "run directory"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
# Control characters, line ends, bytes that are no text: a message that repeats them would not be one printable line.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """One run to compare: a variant, a seed, and where its numbers come from."""

    variant: str  # the NAME given; of a study's runs NAME/variant
    seed: int  # of a run directory or a study's run its own; of other logs the first one free under their name
    path: (
        Path  # the log, the directory of event files (or the one event file), or the run directory
    )
    kind: str  # LOG | TENSORBOARD | RUN_DIRECTORY
    sha256: str  # of the log's bytes (no log counts as empty); of events over the digests of their files
    run: RunDirectory | None


@dataclass(frozen=True)
class _Claim:
    """A source before every seed is settled."""

    variant: str
    seed: int | None
    path: Path
    kind: str
    objective: str | None  # what a run directory's own configuration calls its variant


def parse_sources(arguments: Sequence[str]) -> list[Source]:
    """The sources that the arguments (`NAME=PATH` each) stand for, in the order given.

    PATH is a log, an event file, or a directory. A study directory stands for all of its runs, a run directory for
    that run (finished or not), any other directory for the one log in it or below it, else for the one directory of
    event files. The same file may stand under several names.

    Raises:
        UserError: an argument is not NAME=PATH, a path is missing or holds none of these or more than one, or one
            name gets the same seed, or two different objectives, from two run directories.
    """
    if not arguments:
        raise UserError("nothing to compare: name at least one log as NAME=PATH")
    claims: list[_Claim] = []
    for argument in arguments:
        name, path = _split(argument)
        with _naming_unreadable(path):
            claims += (
                _study_claims(name, path)
                if (path / "runs.json").is_file()
                else [_claim(name, None, path)]
            )
    _refuse_contradictions(claims)
    taken = {(claim.variant, claim.seed) for claim in claims}
    sources = []
    for claim in claims:
        seed = claim.seed
        if seed is None:
            seed = next(n for n in itertools.count() if (claim.variant, n) not in taken)
            taken.add((claim.variant, seed))
        run = RunDirectory(claim.path) if claim.kind == RUN_DIRECTORY else None
        with _naming_unreadable(claim.path):
            sources.append(
                Source(
                    claim.variant,
                    seed,
                    claim.path,
                    claim.kind,
                    source_sha256(claim.path, claim.kind),
                    run,
                )
            )
    return sources


def read_source(source: Source) -> Log:
    """The log of a source.

    Raises:
        UserError: it cannot be read, or holds no row (a run may end before its first).
    """
    if source.kind == TENSORBOARD:
        return read_events(source.path)
    log = read_log(RunDirectory(source.path).log if source.kind == RUN_DIRECTORY else source.path)
    if not log.rows:
        raise UserError(
            "; ".join(
                [f"{log.path}: holds no row with a step and a loss or eval_ values", *log.warnings]
            )
        )
    return log


def _split(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if _UNPRINTABLE.search(argument):
        raise UserError(f"{argument!a}: holds characters that cannot be printed")
    if not equals or not name or not path:
        raise UserError(
            f"{argument}: must be NAME=PATH, such as pure_ce=output/pure_ce/logging.jsonl"
        )
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"{argument}: a name is made of letters, digits and . _ - + and starts with neither . - nor +"
        )
    return name, Path(os.path.expanduser(path))  # shells leave the ~ in NAME=~/… as it is


def _claim(variant: str, seed: int | None, path: Path) -> _Claim:
    place, kind, config = _locate(path)
    if config is None:
        return _Claim(variant, seed, place, kind, None)
    return _Claim(
        variant, config["seed"] if seed is None else seed, place, kind, config["variant"]["name"]
    )


def _study_claims(name: str, study: Path) -> list[_Claim]:
    """A claim for each run that a study's runs.json names."""
    entries = read_study_runs(study)
    if not entries:
        raise UserError(f"{study / 'runs.json'}: names no runs")
    claims = []
    for number, entry in enumerate(entries, start=1):
        place = entry.directory or entry.log
        if place is None or not re.fullmatch(rf"{_NAME}(/{_NAME})*", entry.variant):
            raise UserError(
                f"{study / 'runs.json'}: run {number} has no directory or log, or no valid variant"
            )
        variant = f"{name}/{entry.variant}"
        claims.append(_claim(variant, entry.seed, _beside(study, Path(place))))
    return claims


def _beside(study: Path, place: Path) -> Path:
    """A path that a study names, relative to where the study was made: a directory above it, else the current one."""
    here = Path.cwd()
    above = [
        parent.relative_to(here) if parent.is_relative_to(here) else parent
        for parent in study.resolve().parents
    ]
    return next((parent / place for parent in above if (parent / place).exists()), place)


def _locate(path: Path) -> tuple[Path, str, dict[str, Any] | None]:
    """Where the numbers of a path lie that is no study, of which kind they are, and a run directory's configuration."""
    if path.is_file():
        return path, TENSORBOARD if "tfevents" in path.name else LOG, None
    if not path.is_dir():
        raise UserError(
            f"{path}: neither a file nor a directory"
            if path.exists()
            else f"{path}: no such file or directory"
        )
    if config := _own_config(path):
        return path, RUN_DIRECTORY, config
    if (path / "logging.jsonl").is_file():
        return path / "logging.jsonl", LOG, None
    if event_files(path):
        return path, TENSORBOARD, None
    logs = sorted(path.rglob("logging.jsonl"))
    found = logs or sorted({file.parent for file in path.rglob("*tfevents*") if file.is_file()})
    if len(found) == 1:
        return _locate(found[0].parent if logs else found[0])
    if found:
        shown = ", ".join(str(one.relative_to(path)) for one in found[:4]) + (
            ", …" if len(found) > 4 else ""
        )
        raise UserError(f"{path}: holds {len(found)} logs, name one of them: {shown}")
    raise UserError(
        f"{path}: holds no logging.jsonl, no TensorBoard events, and is neither a run nor a study that was compared"
    )


def _own_config(directory: Path) -> dict[str, Any] | None:
    """The configuration of a run directory of this project, or None where it is something else.

    Raises:
        UserError: its config.yaml cannot be read as YAML.
    """
    run = RunDirectory(directory)
    if not run.config.is_file() or not (run.log.is_file() or run.manifest.is_file()):
        return None
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(f"{run.config}: not a readable YAML configuration") from error
    try:
        mine = isinstance(config["seed"], int) and isinstance(config["variant"]["name"], str)
    except (KeyError, TypeError):
        return None
    return config if mine else None


def _refuse_contradictions(claims: Sequence[_Claim]) -> None:
    first: dict[tuple[str, int], Path] = {}
    objective: dict[str, _Claim] = {}
    for claim in claims:
        if (
            claim.seed is not None
            and (other := first.setdefault((claim.variant, claim.seed), claim.path))
            is not claim.path
        ):
            raise UserError(
                f"{claim.variant}: seed {claim.seed} stands for two runs, {other} and {claim.path}: name them apart"
            )
        if (
            claim.objective
            and (one := objective.setdefault(claim.variant, claim)).objective != claim.objective
        ):
            both = f"{one.path} ({one.objective}) and {claim.path} ({claim.objective})"
            raise UserError(
                f"{claim.variant}: stands for runs of two variants, {both}: name them apart"
            )


def source_sha256(path: Path, kind: str) -> str:
    """What identifies a source's content, as `Source.sha256` says."""
    if kind == LOG:
        return sha256_file(path)
    if kind == RUN_DIRECTORY:
        log = RunDirectory(path).log
        return sha256_file(log) if log.is_file() else hashlib.sha256().hexdigest()
    return hashlib.sha256(
        "".join(sha256_file(file) for file in event_files(path)).encode()
    ).hexdigest()


@contextmanager
def _naming_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
