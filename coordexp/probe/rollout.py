"""The files of rollouts: one JSON line per image, in shards that several jobs share.

<out>/rollouts.json                 model, records and budget that the rows are made from
<out>/rollouts-<i>-of-<n>.jsonl     the rollouts of the images with image_id % n == i

The rows of a batch are appended together. A killed job continues after the last complete row, even
if the number of shards or the batch size has changed. detection/rollouts.py defines a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from coordexp.data.batches import Dataset
from coordexp.detection.rollouts import Rollout
from coordexp.errors import UserError
from coordexp.probe.generation import Answer, Generate
from coordexp.storage.files import locked, naming_full_disk, read_json, sha256_file, write_json
from coordexp.storage.logs.writer import cut_torn_line


def of_what(model_sha256: str, records: Path, budget: int, n_images: int) -> dict[str, str | int]:
    """The content of rollouts.json: everything that determines a row, and the number of images."""
    return {
        "model_sha256": model_sha256,
        "records_sha256": sha256_file(records),
        "budget": budget,
        "n_images": n_images,
    }


def roll_out(
    out: Path,
    what: Mapping[str, str | int],
    dataset: Dataset,
    image_ids: Sequence[int],
    generate: Generate,
    batch: int,
    shard: tuple[int, int] = (0, 1),
    wait: bool = False,
) -> Path:
    """Write the rollouts of one shard that `out` does not hold yet, in the order of `image_ids`.

    Args:
        out: directory of the shards.
        what: what the rows are made from (see `of_what`); rows made from anything else are removed.
        dataset: the records that `image_ids` index.
        image_ids: images of all shards.
        generate: the function that generates answers.
        batch: images per call of `generate`.
        shard: (i, n): the images with image_id % n == i.
        wait: wait while another process writes the shard.

    Returns:
        The shard's file.

    Raises:
        UserError: there is no such shard, another process is writing it (unless `wait`), a line is
            damaged, or the disk is full.
    """
    index, n = shard
    if not 0 <= index < n:
        raise UserError(f"shard {index} of {n}: shards are counted from 0 to {n - 1}")
    _remove_other_rollouts(out, what)
    path = out / f"rollouts-{index}-of-{n}.jsonl"
    with locked(out / f".{path.name}.lock", f"shard {index} of {n} is being rolled out", wait):
        cut_torn_line(path)
        done = finished_images(out)
        in_shard = [i for i in image_ids if i % n == index]
        todo = [i for i in in_shard if i not in done]
        bar = tqdm(
            total=len(in_shard),
            initial=len(in_shard) - len(todo),
            desc=out.name,
            unit="image",
            mininterval=2.0,
        )
        with bar, naming_full_disk(path), open(path, "ab") as handle:
            for first in range(0, len(todo), batch):
                chosen = todo[first : first + batch]
                answers = zip(chosen, generate(chosen), strict=True)
                handle.write(b"".join(_row(dataset, image, answer) for image, answer in answers))
                handle.flush()
                os.fsync(handle.fileno())
                bar.update(len(chosen))
    return path


def _remove_other_rollouts(out: Path, what: Mapping[str, str | int]) -> None:
    """Remove rows that were not made from `what`, and write `what` to rollouts.json."""
    with locked(out / ".rollouts.lock", "being rolled out", wait=True):
        if not (out / "rollouts.json").exists() or read_json(out / "rollouts.json") != what:
            for stale in out.glob("rollouts-*.jsonl"):
                stale.unlink()
            write_json(out / "rollouts.json", what)


def finished_images(out: Path) -> set[int]:
    """The images for which some shard of `out` holds a complete row.

    A last row without a line end does not count: it is still being written, or was truncated.
    """
    done = set()
    for path in sorted(out.glob("rollouts-*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                done.add(json.loads(line)["image_id"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number}: not a rollout: remove the file and roll out again"
                ) from error
    return done


def _row(dataset: Dataset, image_id: int, answer: Answer) -> bytes:
    rollout = Rollout(
        image_id=image_id,
        image=dataset.records[image_id].image,
        text=answer.text,
        finished=answer.finished,
        n_tokens=len(answer.token_ends),
        token_ends=answer.token_ends,
        token_logprobs=answer.token_logprobs,
    )
    return json.dumps(asdict(rollout), ensure_ascii=False, allow_nan=False).encode() + b"\n"
