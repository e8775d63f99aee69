"""The settings and the command that take COCO files, as a shell reads them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

PLAIN = re.compile(r"[\w./~@+-]+")


def next_command(files: dict[str, Path], root: Path) -> str:
    """The workflow on these annotations, as a rehearsal of a minute or two."""
    if "train" in files:
        given = {"train_annotations": files["train"], "val_annotations": files["val"]}
    else:
        given = {"annotations": files[""]}
    words = [override(f"data.{key}", path) for key, path in (given | {"images": root}).items()]
    plain = all('"' not in word for word in words)
    every = " ".join(words) if plain else json.dumps(words, ensure_ascii=False)
    overrides = f'"{every}"' if plain else shlex.quote(every)
    return (
        f"snakemake --cores all stage1_ablation --config experiment=lvis_rehearsal all={overrides}"
    )


def override(key: str, path: Path) -> str:
    """A Hydra override; a value with blanks or signs in it is quoted."""
    text = str(path)
    if PLAIN.fullmatch(text):
        return f"{key}={text}"
    escaped = text.replace('"', '\\"')
    return f'{key}="{escaped}"'
