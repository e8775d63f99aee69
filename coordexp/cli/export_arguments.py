"""Arguments of `coordexp export`."""

from __future__ import annotations

from coordexp.cli import verbs
from coordexp.cli.subparsers import Subparsers, add_repeated, add_verb, named_path


def add_export(subparsers: Subparsers) -> None:
    help_text = "write a checkpoint with its model card, for others to use"
    sub = add_verb(
        subparsers, "export", verbs.export_checkpoint, help_text, "the same command starts again"
    )
    sub.add_argument("source", metavar="SOURCE", help="a study or a run")
    sub.add_argument("directory", type=named_path, metavar="DIRECTORY", help="to write")
    sub.add_argument("--step", type=int, help="of a run; default: its last checkpoint")
    sub.add_argument("--license", help="of the weights, as the hub spells it: apache-2.0")
    sub.add_argument("--base-model", metavar="OWNER/NAME", help="on the hub, for the model card")
    add_repeated(sub, "--dataset", "OWNER/NAME", "a dataset on the hub, for the model card")
    sub.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="then upload it to the hub; a new repository is private",
    )
