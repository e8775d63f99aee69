"""`coordexp export`: from the words of the command to a directory, and to the hub."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from coordexp.cli.columns import size
from coordexp.cli.difference import find, is_study
from coordexp.errors import UserError
from coordexp.publish.chosen import Chosen, of_run, recommended
from coordexp.publish.export import export
from coordexp.publish.hub import push, require_hub, require_repository
from coordexp.publish.metadata import Known
from coordexp.storage.files import files_below
from coordexp.storage.runs import RunDirectory

LICENSE = r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}"


def export_checkpoint(args: argparse.Namespace) -> Iterator[str]:
    """Write what was asked for; yields the lines to print."""
    if args.push is not None:
        require_hub(args.push)
    refuse_odd_names(args)
    chosen = choose(args.source, args.step)
    known = Known(args.license, args.base_model, tuple(args.dataset))
    code = export(chosen, args.directory, known, args.push)
    files = files_below(args.directory)
    n_bytes = sum(file.stat().st_size for file in files)
    yield f"{args.directory}: {chosen.checkpoint}, {len(files)} files, {size(n_bytes)}"
    yield f"its model card is {args.directory / 'README.md'}"
    if args.push is not None:
        what = f"CoordExp Stage-1 {chosen.key}, step {chosen.step}"
        yield f"uploaded to {push(args.directory, args.push, what)}"
    yield from ["", code.rstrip()]


def refuse_odd_names(args: argparse.Namespace) -> None:
    """Refuse what the hub could not read in a model card.

    Raises:
        UserError: a licence or a repository has an impossible name.
    """
    license = args.license
    if license is not None and not re.fullmatch(LICENSE, license):
        raise UserError(f"--license {license}: give the name that the hub uses, as apache-2.0")
    if args.base_model is not None:
        require_repository(args.base_model, "--base-model")
    for dataset in args.dataset:
        require_repository(dataset, "--dataset")


def choose(source: str, step: int | None) -> Chosen:
    """Raises UserError: there is no such study, run or checkpoint."""
    path = find(source)
    if not is_study(path):
        return of_run(RunDirectory(path), step)
    if step is not None:
        raise UserError(f"--step {step}: goes with a run; {path} is a study and chooses itself")
    return recommended(path)
