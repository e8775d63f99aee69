"""Train, val and test of a data set, from the words that formats and directories use for them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from coordexp.data.formats.dataset import Picture

WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_named(word: str) -> str:
    """`train` for Train, training and train2017; empty for a word that names no split."""
    return WORDS.get(re.sub(r"[\d_-]+$", "", word.lower()), "")


def by_split(pictures: list[Picture]) -> dict[str, list[Picture]]:
    """The pictures of each split; all under an empty name unless there are train and val.

    Where the format names no split, the directory of the picture may.
    """
    splits: dict[str, list[Picture]] = {}
    for picture in pictures:
        split = picture.split or split_of_path(picture.file_name)
        splits.setdefault(split, []).append(replace(picture, split=split))
    if {"train", "val"} <= splits.keys() <= {"train", "val", "test"}:
        return {split: splits[split] for split in ("train", "val", "test") if split in splits}
    return {"": pictures}


def split_of_path(file_name: str) -> str:
    for part in PurePosixPath(file_name).parent.parts:
        if split := split_named(part):
            return split
    return ""
