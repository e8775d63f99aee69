"""Arguments of the verbs that compare, probe or evaluate runs."""

from __future__ import annotations

import argparse

from coordexp.cli import verbs
from coordexp.cli.subparsers import Subparsers, add_overrides, add_repeated, add_verb, named_path


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
    sub.add_argument("--out", type=named_path, required=True, help="the study directory to write")
    sub.add_argument(
        "--rule",
        type=named_path,
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
        type=named_path,
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
        type=named_path,
        metavar="FILE",
        help="COCO annotations or records, for rollouts that hold no ground truth",
    )


def add_probe(subparsers: Subparsers) -> None:
    help_text = "run the Stage-2 probe of a run: rollouts, a short fine-tune, rollouts again"
    sub = add_verb(subparsers, "probe", verbs.probe_run, help_text)
    sub.add_argument("run", type=named_path, help="a run directory")
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
        type=named_path,
        help="a Hugging Face directory of a Qwen3-VL with the coordinate tokens",
    )
    sub.add_argument(
        "--data",
        type=named_path,
        required=True,
        metavar="FILE",
        help="a record file; val.jsonl with a train.jsonl beside it is also probed",
    )
    add_overrides(sub, "a Hydra override of train.eval_micro_batch, runtime.… or probe.…")
    sub.add_argument("--name", required=True, help="name of the checkpoint in a comparison")
    sub.add_argument("--step", type=int, help="step at which the training stopped")
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
        type=named_path,
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
        type=named_path,
        metavar="FILE",
        help="a chat template (Jinja); default: the checkpoint's own",
    )
