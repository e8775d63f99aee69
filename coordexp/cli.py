"""The verbs of `coordexp`. What needs torch or mlflow is imported only by the verb that uses it."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coordexp.analysis.recommendation.card import card
from coordexp.config.compose import compose
from coordexp.config.rule_file import load_rule
from coordexp.errors import UserError
from coordexp.steps import STEPS
from coordexp.storage.files import read_json, write_json
from coordexp.storage.runs import RESULTS
from coordexp.study.comparison import plan_comparison
from coordexp.study.preregistration import preregister


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    try:
        args.verb(args)
    except UserError as error:
        sys.exit(f"coordexp: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ncoordexp: interrupted: what is written already is kept", file=sys.stderr)
        sys.exit(130)  # as shells do for SIGINT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """As argparse does, which takes overrides only where it meets the first positional argument; here also behind options."""
    args, rest = (top := parser()).parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="coordexp", description=__doc__)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function, help_text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help_text, description=function.__doc__)
        sub.set_defaults(verb=function)
        return sub

    sub = verb("show", show, "print the card of the latest (or that) study")
    sub.add_argument(
        "study",
        type=Path,
        nargs="?",
        help="a study directory; default: the newest results/*/latest",
    )
    sub = verb("ui", ui, "serve MLflow and keep importing what the runs write")
    sub.add_argument("--port", type=int, default=5000)
    sub = verb("prepare", prepare, "make the records and the base model a configuration needs")
    sub.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides, as for coordexp-train"
    )
    sub.add_argument("--only", choices=("data", "base"), help="just one of the two")
    sub = verb(
        "validate",
        validate_records,
        "check a record file against the contract, and say every problem",
    )
    sub.add_argument(
        "records",
        type=Path,
        metavar="FILE",
        help="JSON lines, of this project or another's CoordExp file",
    )
    sub.add_argument("--no-pictures", action="store_true", help="do not look at the pictures")
    sub = verb("compare", compare_logs, "audit, compare and decide between runs that exist already")
    sub.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=PATH",
        help="a logging.jsonl, a TensorBoard, run or study directory",
    )
    sub.add_argument("--out", type=Path, required=True, help="where the study directory is written")
    sub.add_argument(
        "--rule",
        type=Path,
        help="a file like conf/study/stage1_ablation.yaml, or just what differs",
    )
    sub.add_argument(
        "--image-side",
        type=int,
        metavar="PX",
        help="of the validation images, where only logs are given",
    )
    sub.add_argument("--cell", type=int, metavar="PX", help="what one visual token covers, e.g. 32")
    sub.add_argument(
        "--evidence",
        type=Path,
        metavar="FILE",
        help="published rollout figures (JSON), shown beside, with their confounds",
    )
    sub = verb("probe", probe_run, "roll out and fine-tune a run's checkpoint: the Stage-2 probe")
    sub.add_argument("run", type=Path, help="a run directory")
    sub.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides, such as probe.steps=10"
    )
    sub.add_argument("--step", type=int, help="of the checkpoint; default: the last")
    sub = verb(
        "evaluate",
        evaluate_outside,
        "look at a checkpoint that was trained elsewhere as one of this project's",
    )
    sub.add_argument(
        "checkpoint",
        type=Path,
        help="a Hugging Face directory: a Qwen3-VL with the coordinate tokens",
    )
    sub.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="val.jsonl; a train.jsonl beside it lets it be probed",
    )
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="of train.eval_micro_batch, runtime.… and probe.…",
    )
    sub.add_argument("--name", required=True, help="what to call it in a comparison")
    sub.add_argument("--step", type=int, default=1, help="at which its training stopped")
    sub.add_argument(
        "--temperature", type=float, default=1.0, help="of the coordinate slice in its training"
    )
    sub = verb("step", step, "one step of the workflow, by itself")
    sub.add_argument("step", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    sub.add_argument(
        "study",
        nargs="?",
        help="a study directory (preregister: the --config of snakemake, as JSON)",
    )
    return top


def show(args: argparse.Namespace) -> None:
    """Print the decision card."""
    study = args.study or latest_study()
    if not (study / "recommendation.json").exists():
        raise UserError(
            f"{study}: holds no recommendation: run `snakemake --cores all stage1_ablation`"
        )
    print(card(read_json(study / "recommendation.json"), study), end="")


def latest_study() -> Path:
    """The study that was decided or returned to last."""
    links = sorted(RESULTS.glob("*/latest"), key=lambda link: link.lstat().st_mtime)
    if not links:
        raise UserError(
            "no study has been decided here yet: run `snakemake --cores all stage1_ablation` first"
        )
    return links[-1].parent / links[-1].readlink()


def ui(args: argparse.Namespace) -> None:
    """Serve MLflow on 127.0.0.1 and keep importing whatever the runs have written so far."""
    from coordexp.tracking.server import serve

    serve(args.port)


def prepare(args: argparse.Namespace) -> None:
    """Make the records and the base model that these overrides need, where they are not there yet."""
    cfg = compose(args.overrides)
    if args.only != "data":
        from coordexp.models.base import prepare_base

        print(prepare_base(cfg))
    if args.only != "base":
        from coordexp.data.prepare import prepare_data

        print(prepare_data(cfg))


def validate_records(args: argparse.Namespace) -> None:
    """Print every problem of a record file with its line, then what the file holds; exit code 1 where there is one."""
    from coordexp.data.coco.parallel import n_cores
    from coordexp.data.validate import summary, validate

    counts: Counter[str] = Counter()
    workers = 1 if args.no_pictures else n_cores()
    for problem in validate(args.records, counts, not args.no_pictures, workers):
        print(problem)
    print(f"{args.records}: {summary(counts)}")
    if counts["problems"]:
        sys.exit(1)


def compare_logs(args: argparse.Namespace) -> None:
    """The card of runs that exist already, with the whole study directory behind it. Nothing is trained."""
    study = plan_comparison(args.runs, load_rule(args.rule), args.image_side, args.cell)
    fresh = not args.out.exists() or (args.out.is_dir() and not any(args.out.iterdir()))
    if not fresh and not (args.out / "preregistration.json").exists():
        raise UserError(f"{args.out}: exists and is not a study directory: choose another --out")
    preregister(study, args.out)
    try:
        for name in ("audit", "compare", "fitness", "recommend", "report"):
            STEPS[name](args.out)
            if name == "fitness" and args.evidence:
                add_evidence(args.out, args.evidence)
    except UserError:
        for begun in (
            args.out.iterdir() if fresh else ()
        ):  # it would stand in the way of the corrected command
            shutil.rmtree(begun) if begun.is_dir() else begun.unlink()
        raise
    print((args.out / "recommendation.md").read_text(), end="")


def add_evidence(study: Path, evidence: Path) -> None:
    from coordexp.analysis.comparison.probes import read_aggregates

    write_json(
        study / "probe.json",
        read_json(study / "probe.json") | {"aggregates": read_aggregates(evidence)},
    )


def probe_run(args: argparse.Namespace) -> None:
    """Rollouts, a short geometric fine-tune, rollouts again; what is finished is not done again.

    What the overrides do not set of the recipe is as the run's own study had it, unless they choose an experiment.
    """
    from coordexp.probe import job
    from coordexp.storage.runs import RunDirectory

    run = RunDirectory(args.run)
    own = (
        []
        if any(o.startswith(("experiment=", "probe=")) for o in args.overrides)
        else job.own_recipe(run)
    )
    print(job.probe_run(run, args.step, compose([*own, *args.overrides])))


READ_BY_EVALUATE = ("probe.", "runtime.", "train.eval_micro_batch=")


def evaluate_outside(args: argparse.Namespace) -> None:
    """Token table, eval row and Stage-2 probe of a checkpoint; prints the directory that `coordexp compare` takes."""
    from coordexp.probe.outside import evaluate_checkpoint

    for override in args.overrides:
        if not override.startswith(READ_BY_EVALUATE):
            raise UserError(
                f"{override}: `coordexp evaluate` reads {', '.join(READ_BY_EVALUATE)} alone"
            )
    cfg = compose(args.overrides)
    print(
        evaluate_checkpoint(
            args.checkpoint, args.data, args.name, args.step, args.temperature, cfg
        ).path
    )


def step(args: argparse.Namespace) -> None:
    """One step of the workflow; each reads the files of the step before."""
    if (args.study is None) != (args.step == "track-init"):
        raise UserError(
            f"step {args.step}: {'takes no study' if args.study else 'needs a study directory'}"
        )
    STEPS[args.step](Path(args.study or "") if args.step != "preregister" else args.study)


if __name__ == "__main__":
    main()
