"""Arguments of the verbs that make and check data."""

from __future__ import annotations

from coordexp.cli import verbs
from coordexp.cli.subparsers import Subparsers, add_overrides, add_verb, named_path
from coordexp.errors import NOTHING_WRITTEN


def add_prepare(subparsers: Subparsers) -> None:
    help_text = "make the records and the base model that a configuration needs"
    sub = add_verb(subparsers, "prepare", verbs.prepare, help_text)
    add_overrides(sub, "a Hydra override, as for coordexp-train")
    sub.add_argument("--only", choices=("data", "base"), help="make only one of the two")


def add_convert(subparsers: Subparsers) -> None:
    help_text = "turn annotations of another format (VOC, YOLO, CVAT …) into COCO"
    sub = add_verb(subparsers, "convert", verbs.convert_annotations, help_text)
    sub.add_argument("source", type=named_path, help="an annotation file, or a directory of them")
    sub.add_argument(
        "--out",
        type=named_path,
        required=True,
        metavar="FILE",
        help="the COCO file; where the source has train and val, one for each (FILE_train …)",
    )
    sub.add_argument(
        "--images",
        type=named_path,
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
        type=named_path,
        metavar="FILE",
        help="a JSONL file of records, of this project or another",
    )
    sub.add_argument("--no-pictures", action="store_true", help="do not open the images")
