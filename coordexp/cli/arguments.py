"""The verbs of `coordexp`, and the arguments of each.

What a verb does is in verbs.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from coordexp.cli import verbs
from coordexp.cli.completion import PrintCompletion
from coordexp.cli.steps import STEP_NAMES
from coordexp.config.package import VERSION
from coordexp.errors import CONTINUES, NOTHING_WRITTEN, UserError, one_line
from coordexp.storage.runs import RESULTS

DESCRIPTION = (
    "CoordExp Stage-1: audit and compare runs that were trained with different losses, "
    "and recommend the checkpoint to start Stage-2 from."
)
Verb = Callable[[argparse.Namespace], None]
Subparsers = argparse._SubParsersAction  # argparse has no public name for it


class OneLineParser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line; argparse prints the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f"{self.prog}: {one_line(message)} (`{self.prog} --help` lists the arguments)\n"
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one call.

    argparse accepts positional arguments only up to the first option. Overrides may also follow
    options, so the arguments that argparse does not recognise are added to them.
    """
    top = parser()
    args, rest = top.parse_known_args(arguments)
    refuse_unprintable(args)
    if not rest:
        return args
    if not hasattr(args, "overrides") or any(word.startswith("-") for word in rest):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides += rest
    return args


def refuse_unprintable(args: argparse.Namespace) -> None:
    """Refuse paths with line breaks and other characters that no message or card can print.

    Raises:
        UserError: naming the path.
    """
    for value in vars(args).values():
        if isinstance(value, Path) and not str(value).isprintable():
            raise UserError(f"{str(value)!a}: holds characters that cannot be printed")


def parser() -> argparse.ArgumentParser:
    top = OneLineParser(prog="coordexp", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"coordexp {VERSION}")
    top.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help='for tab completion: eval "$(coordexp --print-completion bash)"',
    )
    subparsers = top.add_subparsers(required=True, metavar="VERB")
    for add in (
        add_show,
        add_list,
        add_diff,
        add_clean,
        add_ui,
        add_prepare,
        add_convert,
        add_validate,
        add_verify,
        add_compare,
        add_probe,
        add_evaluate,
        add_step,
    ):
        add(subparsers)
    return top


def add_verb(
    subparsers: Subparsers, name: str, verb: Verb, help_text: str, stopped: str = CONTINUES
) -> argparse.ArgumentParser:
    """The parser of one verb; its longer description is the docstring of the function.

    `stopped` says what the verb leaves where it is stopped.
    """
    sub: argparse.ArgumentParser = subparsers.add_parser(
        name, help=help_text, description=verb.__doc__
    )
    sub.set_defaults(verb=verb, stopped=stopped)
    return sub


def add_overrides(sub: argparse.ArgumentParser, help_text: str) -> None:
    sub.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=help_text)


def add_repeated(sub: argparse.ArgumentParser, option: str, metavar: str, help_text: str) -> None:
    """An option that may be given several times; its value is a list."""
    sub.add_argument(
        option, action="append", default=[], metavar=metavar, help=f"{help_text}; may be repeated"
    )


def add_show(subparsers: Subparsers) -> None:
    help_text = "print the decision card of a study"
    sub = add_verb(subparsers, "show", verbs.show, help_text, NOTHING_WRITTEN)
    sub.add_argument(
        "study",
        type=Path,
        nargs="?",
        help="a study directory; default: the newest results/*/latest",
    )


def add_list(subparsers: Subparsers) -> None:
    help_text = "list studies, runs, data and base models"
    add_results(add_verb(subparsers, "list", verbs.list_results, help_text, NOTHING_WRITTEN))


def add_diff(subparsers: Subparsers) -> None:
    help_text = "show where two runs, or two studies, differ"
    sub = add_verb(subparsers, "diff", verbs.diff, help_text, NOTHING_WRITTEN)
    sub.add_argument("a", metavar="A", help="a run or a study")
    sub.add_argument("b", metavar="B", help="another one of the same kind")


def add_clean(subparsers: Subparsers) -> None:
    help_text = "list what nothing refers to, and remove it with --delete"
    sub = add_verb(subparsers, "clean", verbs.clean, help_text)
    help_text = "only what lies at or below these"
    sub.add_argument("paths", type=Path, nargs="*", metavar="PATH", help=help_text)
    sub.add_argument("--delete", action="store_true", help="remove what is listed")
    sub.add_argument("--results", type=Path, default=RESULTS, help="default: results")


def add_results(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("results", type=Path, nargs="?", default=RESULTS, help="default: results")


def add_ui(subparsers: Subparsers) -> None:
    sub = add_verb(
        subparsers, "ui", verbs.ui, "serve MLflow and import what the runs write, until Ctrl-C"
    )
    sub.add_argument("--port", type=int, default=5000, help="port of the server; default: 5000")


def add_prepare(subparsers: Subparsers) -> None:
    help_text = "make the records and the base model that a configuration needs"
    sub = add_verb(subparsers, "prepare", verbs.prepare, help_text)
    add_overrides(sub, "a Hydra override, as for coordexp-train")
    sub.add_argument("--only", choices=("data", "base"), help="make only one of the two")


def add_convert(subparsers: Subparsers) -> None:
    help_text = "turn annotations of another format (VOC, YOLO, CVAT …) into COCO"
    sub = add_verb(subparsers, "convert", verbs.convert_annotations, help_text)
    sub.add_argument("source", type=Path, help="an annotation file, or a directory of them")
    sub.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the COCO file; where the source has train and val, one for each (FILE_train …)",
    )
    sub.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="directory below which the pictures lie; default: that of the annotations",
    )
    sub.add_argument(
        "--coordinates",
        choices=("pixels", "bins1000", "fractions"),
        help="what the numbers of grounding conversations are, where the file does not say it",
    )
    sub.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        help="number of the first pixel in VOC and TensorFlow files; default: 1, or 0 if one is 0",
    )
    sub.add_argument("--label", metavar="NAME", help="the attribute that is the name, in VIA files")


def add_validate(subparsers: Subparsers) -> None:
    help_text = "check a record file and print every problem with its line"
    sub = add_verb(subparsers, "validate", verbs.validate_records, help_text, NOTHING_WRITTEN)
    sub.add_argument(
        "records",
        type=Path,
        metavar="FILE",
        help="a JSONL file of records, of this project or another",
    )
    sub.add_argument("--no-pictures", action="store_true", help="do not open the images")


def add_verify(subparsers: Subparsers) -> None:
    help_text = "read all results again and compare them with their recorded digests"
    add_results(add_verb(subparsers, "verify", verbs.verify_results, help_text, NOTHING_WRITTEN))


def add_compare(subparsers: Subparsers) -> None:
    help_text = "compare existing runs: audit, comparison, recommendation; nothing is trained"
    sub = add_verb(subparsers, "compare", verbs.compare_logs, help_text)
    sub.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=PATH",
        help="PATH is a log (docs/logs.md lists what is read), or a run, study, checkpoint or "
        "output directory",
    )
    sub.add_argument("--out", type=Path, required=True, help="the study directory to write")
    sub.add_argument(
        "--rule",
        type=Path,
        help="a file like conf/study/stage1_ablation.yaml, or only the settings that differ",
    )
    sub.add_argument(
        "--image-side",
        type=int,
        metavar="PX",
        help="side of the validation images, if only logs are given",
    )
    sub.add_argument(
        "--cell",
        type=int,
        metavar="PX",
        help="side of the square that one visual token covers, such as 32",
    )
    sub.add_argument(
        "--evidence",
        type=Path,
        metavar="FILE",
        help="published rollout metrics (JSON), shown beside the comparison with their confounds",
    )
    help_text = "a NAME that explains a lead and may hold no role, such as ce_split"
    add_repeated(sub, "--control", "NAME", help_text)
    add_what_logs_do_not_say(sub)
    add_rollouts(sub)


def add_what_logs_do_not_say(sub: argparse.ArgumentParser) -> None:
    add_repeated(
        sub,
        "--temperature",
        "NAME=T",
        "the softmax temperature at which a log's coord_diag/ values were computed, where the log "
        "does not say it",
    )
    help_text = "the evaluation set to read from logs with several"
    add_repeated(sub, "--eval-set", "[NAME=]SET", help_text)


def add_rollouts(sub: argparse.ArgumentParser) -> None:
    add_repeated(
        sub,
        "--rollouts",
        "NAME=FILE",
        "per-image predictions of NAME, which decide first: CoordExp's gt_vs_pred.jsonl, COCO "
        "results, a probe; NAME@STEP=FILE says the checkpoint's step",
    )
    sub.add_argument(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        help="COCO annotations or records, for rollouts that hold no ground truth",
    )


def add_probe(subparsers: Subparsers) -> None:
    help_text = "run the Stage-2 probe of a run: rollouts, a short fine-tune, rollouts again"
    sub = add_verb(subparsers, "probe", verbs.probe_run, help_text)
    sub.add_argument("run", type=Path, help="a run directory")
    add_overrides(sub, "a Hydra override, such as probe.steps=10")
    sub.add_argument("--step", type=int, help="step of the checkpoint; default: the last")
    sub.add_argument(
        "--allow-missing",
        action="store_true",
        help="note in probe.json that no checkpoint was kept at that step, as the workflow does",
    )


def add_evaluate(subparsers: Subparsers) -> None:
    help_text = "evaluate a checkpoint that was trained elsewhere, for a comparison"
    sub = add_verb(subparsers, "evaluate", verbs.evaluate_outside, help_text)
    sub.add_argument(
        "checkpoint",
        type=Path,
        help="a Hugging Face directory of a Qwen3-VL with the coordinate tokens",
    )
    sub.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="a record file; val.jsonl with a train.jsonl beside it is also probed",
    )
    add_overrides(sub, "a Hydra override of train.eval_micro_batch, runtime.… or probe.…")
    sub.add_argument("--name", required=True, help="name of the checkpoint in a comparison")
    sub.add_argument("--step", type=int, default=1, help="step at which the training stopped")
    sub.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="temperature of the coordinate logits in the training",
    )
    add_how_it_was_trained(sub)


def add_how_it_was_trained(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="an adapter that peft saved; it is merged into the checkpoint",
    )
    sub.add_argument(
        "--prompt",
        metavar="TEXT|@FILE",
        help="the user prompt of the training; default: this project's",
    )
    sub.add_argument(
        "--system",
        metavar="TEXT|@FILE",
        help='the system prompt of the training, "" for none; default: that of args.json, if any',
    )
    sub.add_argument(
        "--template",
        type=Path,
        metavar="FILE",
        help="a chat template (Jinja); default: the checkpoint's own",
    )


def add_step(subparsers: Subparsers) -> None:
    sub = add_verb(subparsers, "step", verbs.step, "run a single step of the workflow")
    sub.add_argument("step", choices=STEP_NAMES, metavar="STEP", help=", ".join(STEP_NAMES))
    sub.add_argument(
        "study",
        nargs="?",
        help="a study directory; for preregister the --config as JSON",
    )
