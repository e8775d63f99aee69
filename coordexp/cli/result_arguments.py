"""Arguments of the verbs that show, list, check or continue what lies below results."""

from __future__ import annotations

from coordexp.cli import verbs
from coordexp.cli.steps import STEP_NAMES
from coordexp.cli.subparsers import Subparsers, add_results, add_verb, named_path
from coordexp.errors import NOTHING_WRITTEN
from coordexp.storage.runs import RESULTS


def add_show(subparsers: Subparsers) -> None:
    help_text = "print the decision card of a study"
    sub = add_verb(subparsers, "show", verbs.show, help_text, NOTHING_WRITTEN)
    sub.add_argument(
        "study",
        type=named_path,
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
    sub.add_argument("paths", type=named_path, nargs="*", metavar="PATH", help=help_text)
    sub.add_argument("--delete", action="store_true", help="remove what is listed")
    sub.add_argument("--results", type=named_path, default=RESULTS, help="default: results")


def add_ui(subparsers: Subparsers) -> None:
    sub = add_verb(
        subparsers, "ui", verbs.ui, "serve MLflow and import what the runs write, until Ctrl-C"
    )
    sub.add_argument("--port", type=int, default=5000, help="port of the server; default: 5000")


def add_verify(subparsers: Subparsers) -> None:
    help_text = "read all results again and compare them with their recorded digests"
    add_results(add_verb(subparsers, "verify", verbs.verify_results, help_text, NOTHING_WRITTEN))


def add_step(subparsers: Subparsers) -> None:
    sub = add_verb(subparsers, "step", verbs.step, "run a single step of the workflow")
    sub.add_argument("step", choices=STEP_NAMES, metavar="STEP", help=", ".join(STEP_NAMES))
    sub.add_argument(
        "study",
        nargs="?",
        help="a study directory; for preregister the --config as JSON",
    )
