"""Resolve `NAME=PATH` arguments: to a log, a run directory, or all runs of a study."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from coordexp.errors import UserError
from coordexp.storage.files import sha256_file, sha256_files
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import UNTOLD, Log, Told
from coordexp.storage.logs.tensorboard import event_files, read_events
from coordexp.storage.logs.trainer_state import read_trainer_state
from coordexp.storage.logs.wandb_csv import read_wandb
from coordexp.storage.runs import RunDirectory
from coordexp.study.locate import (
    RUN_DIRECTORY,
    TENSORBOARD,
    TRAINER_STATE,
    WANDB,
    Located,
    SourceKind,
    locate,
    naming_unreadable,
)
from coordexp.study.study_runs import read_study_runs
from coordexp.study.told import completed, of_run_directory, told_of, with_settings

NO_LOG = hashlib.sha256().hexdigest()  # the digest of a log that is empty or missing
LONGEST_NAME = 100  # file systems allow 255 bytes, and a digest and a suffix follow it
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
# Control characters, line ends, and surrogates (bytes that are not text). A message that repeats
# them would not be one printable line.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """One run to compare: a variant, a seed, and the location of its numbers.

    variant: the given NAME; for a run of a study, NAME/variant.
    seed: that of the run directory or the study's run; a log gets the first free one of its name.
    sha256: of the log's bytes (a missing log counts as empty); of event files, over their digests.
    told: what the user or a settings file says of the log.
    """

    variant: str
    seed: int
    path: Path  # see Located
    kind: SourceKind
    sha256: str
    run: RunDirectory | None
    control: bool = False  # of a study that was given, in which it may hold no role
    told: Told = UNTOLD

    @property
    def told_of_log(self) -> Told | None:
        """What is told of a log; None for a run directory, and where nothing is told."""
        return None if self.run or self.told == UNTOLD else self.told

    @property
    def log_path(self) -> Path:
        """The log, or the TensorBoard events."""
        return self.run.log if self.run else self.path


@dataclass(frozen=True)
class _Claim:
    """A run that an argument names. Its seed is None until one is assigned."""

    variant: str
    seed: int | None
    located: Located
    control: bool = False
    told: Told = UNTOLD  # in the study that was given


def parse_sources(
    arguments: Sequence[str], temperatures: Sequence[str] = (), eval_sets: Sequence[str] = ()
) -> list[Source]:
    """The sources that the arguments (`NAME=PATH` each) stand for, in the order given.

    PATH is a log, an event file, or a directory. A study directory stands for all of its runs; for
    other directories see `locate`. The same file may be given under several names.

    Args:
        temperatures: `NAME=T` each: the temperature of a log's `coord_diag/*`.
        eval_sets: `NAME=SET` each, or `SET` for every log: the evaluation set to read.

    Raises:
        UserError: an argument is not NAME=PATH, a path is missing or holds no run or more than one,
            one name gets the same seed, or two different objectives, from two run directories, or
            something is told of a name that is not given.
    """
    if not arguments:
        raise UserError("nothing to compare: name at least one log as NAME=PATH")
    claims: list[_Claim] = []
    for argument in arguments:
        name, path = _split(argument)
        with naming_unreadable(path):
            if (path / "runs.json").is_file():
                claims += _study_claims(name, path)
            else:
                located = locate(path)
                claims.append(_Claim(name, located.seed, located))
    _refuse_contradictions(claims)
    told = told_of([claim.variant for claim in claims], temperatures, eval_sets)
    return [
        _source(claim, seed, completed(told[claim.variant], claim.told))
        for claim, seed in _with_seeds(claims)
    ]


@lru_cache(maxsize=64)
def read_source(source: Source) -> Log:
    """The log of a source, which every reader shares: do not change it.

    A comparison takes each log in several steps of one process. The digest in `source` stands for
    its bytes, so they are parsed once.

    Raises:
        UserError: it cannot be read, or holds no row (a run may end before its first one).
    """
    if source.kind == TENSORBOARD:
        return read_events(source.path, source.told)
    if source.kind == TRAINER_STATE:
        log = read_trainer_state(source.path, source.told)
    elif source.kind == WANDB:
        log = read_wandb(source.path, source.told, source.variant.rpartition("/")[2])
    else:
        log = read_log(source.log_path, source.told)
    if not log.rows:
        problem = f"{log.path}: holds no row with a step and a loss or eval_ values"
        raise UserError("; ".join([problem, *log.warnings]))
    return log


def source_sha256(path: Path, kind: SourceKind) -> str:
    """The digest of a source's content, see `Source.sha256`."""
    if kind == RUN_DIRECTORY:
        log = RunDirectory(path).log
        return sha256_file(log) if log.is_file() else NO_LOG
    if kind == TENSORBOARD:
        return sha256_files(event_files(path))
    return sha256_file(path)


def _split(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if _UNPRINTABLE.search(argument):
        raise UserError(f"{argument!a}: holds characters that cannot be printed")
    if not equals or not name or not path:
        raise UserError(
            f"{argument}: must be NAME=PATH, such as pure_ce=output/pure_ce/logging.jsonl"
        )
    check_name(name, argument)
    return name, Path(os.path.expanduser(path))  # shells do not expand the ~ in NAME=~/…


def check_name(name: str, argument: str) -> None:
    """Refuse a name that cannot stand in a path, in a table and in a NAME=PATH.

    Raises:
        UserError: it is empty, too long, or holds other characters; the message starts with
            `argument`, the argument that held it.
    """
    if not re.fullmatch(_NAME, name):
        raise UserError(
            f"{argument}: a name is made of letters, digits and . _ - + "
            "and starts with neither . - nor +"
        )
    if len(name) > LONGEST_NAME:
        raise UserError(f"{argument}: a name has at most {LONGEST_NAME} characters")


def _study_claims(name: str, study: Path) -> list[_Claim]:
    """A claim for each run that a study's runs.json names."""
    entries = read_study_runs(study)
    if not entries:
        raise UserError(f"{study / 'runs.json'}: names no runs")
    claims = []
    for number, entry in enumerate(entries, start=1):
        path = entry.directory or entry.log
        if path is None or not re.fullmatch(rf"{_NAME}(/{_NAME})*", entry.variant):
            raise UserError(
                f"{study / 'runs.json'}: run {number} has no directory or log, or no valid variant"
            )
        located = locate(_beside(study, Path(path)))
        claims.append(
            _Claim(
                f"{name}/{entry.variant}",
                entry.seed,
                located,
                entry.control,
                entry.told or UNTOLD,
            )
        )
    return claims


def _beside(study: Path, path: Path) -> Path:
    """Resolve a path that a study names, relative to the directory in which the study was made.

    That is one of the directories above the study, else the current directory.
    """
    here = Path.cwd()
    for parent in study.resolve().parents:
        above = parent.relative_to(here) if parent.is_relative_to(here) else parent
        if (above / path).exists():
            return above / path
    return path


def _refuse_contradictions(claims: Sequence[_Claim]) -> None:
    """Raises UserError: a name has one seed twice, or run directories of two objectives, or two
    names differ only in capitals: one file name for both, on some machines.
    """
    by_spelling: dict[str, str] = {}
    for claim in claims:
        spelt = by_spelling.setdefault(claim.variant.lower(), claim.variant)
        if spelt != claim.variant:
            raise UserError(f"{spelt} and {claim.variant} differ only in capitals: name them apart")
    by_seed: dict[tuple[str, int], Path] = {}
    by_name: dict[str, Located] = {}
    for claim in claims:
        located = claim.located
        if claim.seed is not None:
            other = by_seed.setdefault((claim.variant, claim.seed), located.path)
            if other is not located.path:
                raise UserError(
                    f"{claim.variant}: seed {claim.seed} stands for two runs, "
                    f"{other} and {located.path}: name them apart"
                )
        if located.variant is not None:
            first = by_name.setdefault(claim.variant, located)
            if first.variant != located.variant:
                raise UserError(
                    f"{claim.variant}: stands for runs of two variants, "
                    f"{first.path} ({first.variant}) and {located.path} ({located.variant}): "
                    "name them apart"
                )


def _with_seeds(claims: Sequence[_Claim]) -> list[tuple[_Claim, int]]:
    """Each claim with its seed; a claim without one gets the first that is free under its name."""
    taken = {(claim.variant, claim.seed) for claim in claims}
    found = []
    for claim in claims:
        seed = claim.seed
        if seed is None:
            seed = next(n for n in itertools.count() if (claim.variant, n) not in taken)
            taken.add((claim.variant, seed))
        found.append((claim, seed))
    return found


def _source(claim: _Claim, seed: int, told: Told) -> Source:
    path, kind = claim.located.path, claim.located.kind
    with naming_unreadable(path):
        sha256 = source_sha256(path, kind)
        complete = of_run_directory if kind == RUN_DIRECTORY else with_settings
        told = complete(path, told)
    run = RunDirectory(path) if kind == RUN_DIRECTORY else None
    return Source(claim.variant, seed, path, kind, sha256, run, claim.control, told)
