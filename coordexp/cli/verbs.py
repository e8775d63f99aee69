"""What each verb of `coordexp` does. A verb imports torch or MLflow only where it uses it.

The first paragraph of a verb's docstring is its description in `coordexp VERB --help`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.steps import run_step
from coordexp.config.compose import compose
from coordexp.config.limits import LAST_STEP, TEMPERATURE
from coordexp.errors import UserError
from coordexp.storage.runs import RESULTS, refuse_no_directory
from coordexp.study.sources import check_name
from coordexp.study.tracked import read_tracked_study

READ_BY_EVALUATE = ("probe.", "runtime.", "train.eval_micro_batch=")


def show(args: argparse.Namespace) -> None:
    """Print the decision card."""
    study = args.study or latest_study()
    if not study.is_dir():
        from coordexp.cli.difference import find

        study = find(str(study))
    if not (study / "recommendation.json").exists():
        raise UserError(
            f"{study}: holds no recommendation: run `snakemake --cores all stage1_ablation`"
        )
    tracked = read_tracked_study(study)
    link = tracked.ui_link if tracked else ""
    print(card(read_recommendation(study), study, link), end="")


def latest_study() -> Path:
    """The study that was decided or returned to last."""
    links = list(RESULTS.glob("*/latest"))
    if not links:
        raise UserError(
            "no study has been decided here yet: run `snakemake --cores all stage1_ablation` first"
        )
    newest = max(links, key=lambda link: link.lstat().st_mtime)
    return newest.parent / newest.readlink()


def ui(args: argparse.Namespace) -> None:
    """Serve MLflow on 127.0.0.1 and keep importing whatever the runs have written so far."""
    from coordexp.tracking.server import serve

    serve(args.port)


def prepare(args: argparse.Namespace) -> None:
    """Make the records and the base model that these overrides need, if they do not exist yet."""
    cfg = compose(args.overrides)
    if args.only != "data":
        from coordexp.models.base import prepare_base

        print(prepare_base(cfg))
    if args.only != "base":
        from coordexp.data.prepare import prepare_data

        print(prepare_data(cfg))


def convert_annotations(args: argparse.Namespace) -> None:
    """Turn annotations of another format into COCO.

    Reads Pascal VOC, YOLO, CVAT, LabelMe, VIA, Label Studio, CreateML, TensorFlow and Open Images
    CSV, and grounding conversations of Qwen and ms-swift. Prints what was dropped, and the command
    that comes next.
    """
    from coordexp.data.formats.convert import convert
    from coordexp.data.formats.dataset import Coordinates

    coordinates = Coordinates(args.coordinates) if args.coordinates else None
    lines = convert(args.source, args.out, args.images, coordinates, args.first_pixel, args.label)
    print("\n".join(lines))


def validate_records(args: argparse.Namespace) -> None:
    """Print every problem of a record file with its line, then what the file holds.

    The exit code is 1 if there is a problem.
    """
    from coordexp.data.parallel import n_cores
    from coordexp.data.record_files import refuse_annotations
    from coordexp.data.validate import summary, validate

    refuse_annotations(args.records)
    counts: Counter[str] = Counter()
    workers = 1 if args.no_pictures else n_cores()
    for problem in validate(args.records, counts, not args.no_pictures, workers):
        print(problem)
    print(f"{args.records}: {summary(counts)}")
    if counts["problems"]:
        sys.exit(1)


def verify_results(args: argparse.Namespace) -> None:
    """Read every base model, data set, run, probe and study again, and compare them with the
    digests that were recorded.

    The exit code is 1 if something differs.
    """
    from coordexp.cli.verify import verify

    found = list(verify(existing_results(args.results)))
    if not found:
        raise UserError(f"{args.results}: holds no results")
    for entry in found:
        print(f"{entry.fault or 'ok':50s} {entry.n_files:4d} files  {entry.kind:20s} {entry.path}")
    n_faults = sum(bool(entry.fault) for entry in found)
    print(f"{args.results}: {len(found)} directories, {n_faults} with a difference")
    if n_faults:
        sys.exit(1)


def list_results(args: argparse.Namespace) -> None:
    """List studies, runs, data and base models, and which of them refers to which."""
    from coordexp.cli.listing import listing

    print("\n".join(listing(existing_results(args.results))))


def diff(args: argparse.Namespace) -> None:
    """Show settings and results of two runs, or of two studies, where they differ.

    A and B are paths, or the end of a path below results, such as mixed/s0-ee68c380 or 8eb208c6.
    """
    from coordexp.cli.difference import difference

    print("\n".join(difference(args.a, args.b)))


def clean(args: argparse.Namespace) -> None:
    """List what nothing below results refers to, and remove it with --delete.

    Studies are never removed. A run that you trained by hand belongs to no study, so it is listed.
    """
    from coordexp.cli.cleaning import chosen, remove, unused
    from coordexp.cli.columns import columns, size

    found = chosen(unused(existing_results(args.results)), args.paths)
    if not found:
        print(f"{args.results}: nothing is unused")
        return
    sizes = [entry.n_bytes for entry in found]
    rows = [(size(n), str(e.path), e.reason) for n, e in zip(sizes, found, strict=True)]
    print("\n".join(columns(rows)))
    if not args.delete:
        print(f"{size(sum(sizes))} unused; `coordexp clean --delete [PATH ...]` removes it")
        return
    for entry in found:
        remove(entry)
    print(f"{size(sum(sizes))} removed")


def export_checkpoint(args: argparse.Namespace) -> None:
    """Write a checkpoint as a directory that others can use with transformers alone.

    SOURCE is a study, of which the primary checkpoint is taken, or a run; a path, or the end of a
    path below results. Prints what was written, and the lines that use it.
    """
    from coordexp.cli.exporting import export_checkpoint

    print("\n".join(export_checkpoint(args)))


def existing_results(results: Path) -> Path:
    refuse_no_directory(results)
    if not results.is_dir():
        raise UserError(f"{results}: no such directory: nothing has been made here yet")
    return results


def compare_logs(args: argparse.Namespace) -> None:
    """Audit, compare and decide between runs that exist already. Nothing is trained.

    Writes a study directory and prints its card.
    """
    from coordexp.cli.compare import compare

    compare(
        args.runs,
        args.out,
        rule=args.rule,
        image_side=args.image_side,
        cell=args.cell,
        evidence=args.evidence,
        controls=args.control,
        temperatures=args.temperature,
        eval_sets=args.eval_set,
        rollouts=args.rollouts,
        ground_truth=args.ground_truth,
    )
    print((args.out / "recommendation.md").read_text(), end="")


def probe_run(args: argparse.Namespace) -> None:
    """Rollouts, a short geometric fine-tune, rollouts again. Finished parts are not repeated.

    The recipe is that of the run's own study, except where an override sets it or chooses an
    experiment.
    """
    overrides = list(args.overrides)
    if args.step is not None:
        check_step(args.step)
    cfg = compose(overrides)  # refuses a slip before torch is imported, which takes seconds

    from coordexp.probe import job
    from coordexp.storage.runs import RunDirectory

    run = RunDirectory(args.run)
    chooses_recipe = any(word.startswith(("experiment=", "probe=")) for word in overrides)
    if not chooses_recipe:
        cfg = compose([*job.own_recipe(run), *overrides])
    print(job.probe_run(run, args.step, cfg, args.allow_missing))


def evaluate_outside(args: argparse.Namespace) -> None:
    """Write token table and eval row of a checkpoint, and its Stage-2 probe where a train.jsonl
    lies beside the records. The checkpoint's own chat template and prompt are used where it has
    them.

    Prints which prompt was used, and the directory that `coordexp compare` takes.
    """
    refuse_unread("evaluate", args.overrides, READ_BY_EVALUATE)
    check_name(args.name, f"--name {args.name}")
    if args.step is not None:
        check_step(args.step)
    if not TEMPERATURE.holds(args.temperature):
        raise UserError(f"--temperature {args.temperature:g}: {TEMPERATURE.must}")
    cfg = compose(args.overrides)
    # Seconds, as they import torch: what the command line says is checked before.
    from coordexp.models.foreign_prompt import GivenPrompt, given_text
    from coordexp.probe.outside import Outside, evaluate_checkpoint
    from coordexp.publish.export import step_of_export

    given = GivenPrompt(
        given_text(args.prompt, "--prompt"), given_text(args.system, "--system"), args.template
    )
    step = args.step if args.step is not None else step_of_export(args.checkpoint)
    if step is None:
        step = 1
        told = "its step is unknown: taken as 1; to compare it with runs, say it with --step"
        print(f"{args.checkpoint}: {told}", file=sys.stderr)
    outside = Outside(args.checkpoint, args.name, step, args.temperature, args.adapter, given)
    print(evaluate_checkpoint(outside, args.data, cfg).path)


def check_step(step: int) -> None:
    """Raises UserError: a training has no such step."""
    if not 0 <= step <= LAST_STEP:
        raise UserError(f"--step {step}: must be from 0 to {LAST_STEP}")


def refuse_unread(verb: str, overrides: Sequence[str], read: tuple[str, ...]) -> None:
    """Refuse an override that a verb would not read.

    Raises:
        UserError: it starts with none of the words in `read`.
    """
    for override in overrides:
        if not override.lstrip("+").startswith(read):
            raise UserError(f"{override}: `coordexp {verb}` reads {', '.join(read)} alone")


def step(args: argparse.Namespace) -> None:
    """One step of the workflow. Each reads the files of the step before it."""
    if args.study is None:
        raise UserError(f"step {args.step}: needs a study directory")
    run_step(args.step, args.study)
