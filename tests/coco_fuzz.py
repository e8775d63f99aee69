"""Annotation files with random faults, each a function of its seed.

    PYTHONPATH=tests python tests/coco_fuzz.py FIRST LAST

converts the files of these seeds in an empty directory and prints how many were refused.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from coco_files import annotation, image, picture, settings

from coordexp.config.schema import BoxFormat
from coordexp.data.coco.conversion import convert_annotations
from coordexp.errors import UserError

ODD = (None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 10**400, 2**63, math.nan, math.inf, "", "0",
       "\ud800", "../x", "x" * 300, [], [[]], {}, [1], [0] * 4, [1e308] * 4, ["1"] * 4, [None],
       {"counts": "0", "size": [64, 64]}, {"counts": [5, -1], "size": [64]}, {"rotation": "x"},
       {"rotation": math.inf}, "p_jpg.rf.0123456789abcdef.jpg")  # fmt: skip
KEYS = ("bbox", "area", "segmentation", "attributes", "iscrowd", "image_id", "category_id",
        "width", "height", "file_name", "coco_url", "id", "name")  # fmt: skip


def odd(rng: random.Random) -> Any:
    """A value of its own: some are lists, which later mutations change."""
    return copy.deepcopy(rng.choice(ODD))


def base(rng: random.Random) -> dict[str, Any]:
    images = [image(i, rng.choice([(64, 64), (640, 480), (2000, 3)])) for i in range(4)]
    annotations = []
    for i in range(rng.randrange(1, 14)):
        box = [rng.uniform(0, rng.choice([1, 30, 100, 999])) for _ in range(4)]
        box = [round(v) for v in box] if rng.random() < 0.5 else box
        more: dict[str, Any] = {"area": box[2] * box[3]} if rng.random() < 0.5 else {}
        if rng.random() < 0.5:
            more["segmentation"] = [[rng.uniform(-5, 70) for _ in range(rng.choice([6, 8, 7]))]]
        annotations.append(annotation(i, rng.randrange(4), box, **more))
    categories = [{"id": 2, "name": "cup"}, {"id": 7, "name": "bat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def mutated(seed: int) -> bytes:
    rng = random.Random(seed)
    content = base(rng)
    for _ in range(rng.randrange(4)):
        entries = content[rng.choice(list(content))]
        if not entries:
            continue
        entry = rng.randrange(len(entries))
        action = rng.random()
        if action < 0.1:
            entries[entry] = odd(rng)
        elif action < 0.2:
            entries.append(entries[entry])
        elif isinstance(entries[entry], dict):
            key = rng.choice([*entries[entry], *KEYS])
            value = entries[entry].get(key)
            if isinstance(value, list) and value and action < 0.6:
                value[rng.randrange(len(value))] = odd(rng)
            elif action < 0.7:
                entries[entry].pop(key, None)
            else:
                entries[entry][key] = odd(rng)
    if rng.random() < 0.05:
        content[rng.choice(list(content))] = odd(rng)
    text = json.dumps(content).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + rng.randrange(3) :]
    return text


def convert(seed: int) -> str | None:
    """The one line that refuses a file; None if it was converted and its counts add up."""
    rng = random.Random(-seed)
    Path("fuzz.json").write_bytes(mutated(seed))
    form = rng.choice([BoxFormat.xywh, BoxFormat.xywh, *BoxFormat])
    given = {
        "annotations": "fuzz.json",
        "images": "pictures" if rng.random() < 0.3 else None,
        "box_format": form,
        "check_boxes": rng.random() < 0.7,
        "allow_shared_pictures": rng.random() < 0.2,
    }
    chosen = settings(f"data.geometry={rng.choice(['bbox', 'poly_prefer'])}", **given)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            stats = convert_annotations(chosen, Path("out"), 1)
    except UserError as error:
        return str(error)
    for split in stats.values():
        split.report()  # every instance is kept or dropped for one reason
    return None


def main() -> None:
    first, last = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for i in range(3):
            picture(Path(f"pictures/{i}.jpg"), seed=i)
        refusals = [convert(seed) for seed in range(first, last)]
    refused = [line for line in refusals if line is not None]
    assert all(line.isprintable() for line in refused)
    print(f"{len(refusals)} files: {len(refused)} refused in one line, none ended in a traceback")


if __name__ == "__main__":
    main()
