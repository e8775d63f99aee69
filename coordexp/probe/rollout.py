"""What a checkpoint writes when it is let go: greedy rollouts, a JSON line an image, in shards that
several jobs share.

<out>/rollouts.json                 of which model, records and budget the rows below are
<out>/rollouts-<i>-of-<n>.jsonl     the rollouts of the images with image_id % n == i (the row:
stage2/scores.py)

A batch's rows are appended together. A killed job continues behind the last whole row, also with
other shards or another batch size: on a CPU an image's text does not depend on what it is batched
with, how far it is padded or who writes it, but for two tokens that are as likely as each other to
the last digits of float32.
"""

from __future__ import annotations

import codecs
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, Qwen3VLForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode

from coordexp.data.batches import Dataset
from coordexp.detection.rollouts import Rollout
from coordexp.errors import UserError
from coordexp.models.adapters import hidden_states
from coordexp.models.checkpoints import load_base
from coordexp.models.processor import load_processor
from coordexp.storage.files import (
    locked,
    naming_full_disk,
    read_json,
    sha256_directory,
    sha256_file,
    write_json,
)
from coordexp.storage.logs.writer import cut_torn_line
from coordexp.training.evaluate import evenly_spaced


@dataclass(frozen=True)
class Answer:
    """What was written for one image, its end token left out; T tokens."""

    text: str  # tokens as they are spelt, special ones too
    finished: bool  # the end token came within the budget
    token_ends: list[int]  # [T] characters of `text` that stand complete after each token
    token_logprobs: list[float]  # [T] log softmax over the whole vocabulary


Generate = Callable[[Sequence[int]], list[Answer]]  # image ids -> an answer each


def token_budget(dataset: Dataset) -> int:
    """Tokens that an answer may take: a quarter more than the longest of the records, and 8."""
    return math.ceil(1.25 * max(dataset.answer_length(i) for i in range(len(dataset)))) + 8


def greedy(vlm: Qwen3VLForConditionalGeneration, dataset: Dataset, budget: int) -> Generate:
    """Greedy decoding by `vlm` of the dataset's images, at most `budget` tokens an answer (its end
    token is one).
    """
    tokenizer = dataset.processor.tokenizer
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    piece_of = lru_cache(maxsize=None)(lambda token_id: token_bytes(tokenizer, token_id))

    def generate(image_ids: Sequence[int]) -> list[Answer]:
        answers = []
        for ids, logprobs, finished in decode(vlm, dataset.prompts(image_ids), end_id, budget):
            text, ends = spell(piece_of(token_id) for token_id in ids)
            answers.append(Answer(text, finished, ends, logprobs))
        return answers

    return generate


@torch.no_grad()
def decode(
    vlm: Qwen3VLForConditionalGeneration, inputs: dict[str, Tensor], end_id: int, budget: int
) -> list[tuple[list[int], list[float], bool]]:
    """(token ids, their log-probabilities, ended) of each left-padded prompt; rows that have ended
    leave the batch.

    Positions are those of the tokens that are not padding: time, height and width of the prompt by
    the model's own rule (M-RoPE), then one further for each token that is written.

    Raises:
        UserError: the logits are not finite.
    """
    vlm.eval()
    inputs = {name: value.to(vlm.device) for name, value in inputs.items()}
    attention, cache = inputs["attention_mask"], DynamicCache(config=vlm.config)  # [B, L]
    grids = {
        name: inputs[name]
        for name in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    }
    positions, beyond_length = vlm.model.get_rope_index(**grids)  # [3, B, L], [B, 1]
    position = attention.sum(1, keepdim=True) + beyond_length  # [B, 1] of the next token
    written: list[tuple[list[int], list[float]]] = [([], []) for _ in attention]
    ended = [False] * len(written)
    rows = list(range(len(written)))  # which answer each row of the batch is
    hidden = hidden_states(
        vlm, **inputs, position_ids=positions, past_key_values=cache, use_cache=True
    )  # [B, L, d]
    for _ in range(budget):
        logits = vlm.lm_head(hidden[:, -1])  # [B, V]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        best, tokens = logits.max(-1)
        logprobs = best - logits.logsumexp(-1)
        if not logprobs.isfinite().all():
            raise UserError(
                f"{vlm.name_or_path}: logits are not finite: this checkpoint cannot be rolled out"
            )
        going = tokens != end_id  # [B]
        for row, token, logprob, goes_on in zip(
            rows, tokens.tolist(), logprobs.tolist(), going.tolist(), strict=True
        ):
            ended[row] = not goes_on
            if goes_on:
                written[row][0].append(token)
                written[row][1].append(round(logprob, 6))
        if not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            attention, position, tokens = attention[kept], position[kept], tokens[kept]
            rows = [rows[r] for r in kept.tolist()]
        attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
        hidden = hidden_states(
            vlm,
            input_ids=tokens[:, None],
            attention_mask=attention,
            position_ids=position.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )  # [B, 1, d]
        position = position + 1
    return [(ids, logprobs, end) for (ids, logprobs), end in zip(written, ended, strict=True)]


_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """What a token of a byte-level BPE spells; nothing, for a row of the embedding that is no
    token.
    """
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token is None or token_id in tokenizer.added_tokens_decoder:
        return (token or "").encode()
    return bytes(_BYTE_OF[character] for character in token)


def spell(pieces: Iterable[bytes]) -> tuple[str, list[int]]:
    """The text of some tokens, and how many of its characters stand complete after each.

    A character may take several tokens: it counts with the last of them. Bytes that are no UTF-8
    become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts, ends, length = [], [], 0
    for piece in pieces:
        parts.append(decoder.decode(piece))
        length += len(parts[-1])
        ends.append(length)
    parts.append(decoder.decode(b"", final=True))
    if ends:
        ends[-1] += len(parts[-1])
    return "".join(parts), ends


def roll_out_checkpoint(
    checkpoint: Path,
    records: Path,
    out: Path,
    n_images: int,
    batch: int,
    budget: int | None = None,
    shard: tuple[int, int] = (0, 1),
    device: str = "cpu",
    wait: bool = False,
) -> Path:
    """Greedy rollouts of a checkpoint directory, in float32, on `n_images` evenly spaced ones of
    the records.

    The model is loaded only if the shard lacks an image. See `roll_out` for `shard`, `wait` and
    what is raised.
    """
    dataset = Dataset(records, load_processor(checkpoint))
    budget = budget or token_budget(dataset)
    load = cache(
        lambda: greedy(load_base(checkpoint, torch.float32)[0].to(device), dataset, budget)
    )
    what = of_what(sha256_directory(checkpoint), records, budget, n_images)
    images = evenly_spaced(len(dataset), n_images).tolist()
    return roll_out(out, what, dataset, images, lambda ids: load()(ids), batch, shard, wait)


def of_what(model_sha256: str, records: Path, budget: int, n_images: int) -> dict[str, Any]:
    """What determines a row, and which images there are."""
    return {
        "model_sha256": model_sha256,
        "records_sha256": sha256_file(records),
        "budget": budget,
        "n_images": n_images,
    }


def roll_out(
    out: Path,
    what: dict[str, Any],
    dataset: Dataset,
    image_ids: Sequence[int],
    generate: Generate,
    batch: int,
    shard: tuple[int, int] = (0, 1),
    wait: bool = False,
) -> Path:
    """Write the rollouts of shard `(i, n)` that `out` does not hold yet, in the order of
    `image_ids`; returns its file.

    `what` is compared with what the rows that lie there are of (see `of_what`): those of anything
    else are removed.

    Raises:
        UserError: there is no such shard, another process writes it (unless `wait`), a line is
        broken, the disk is full.
    """
    index, n = shard
    if not 0 <= index < n:
        raise UserError(f"shard {index} of {n}: shards are counted from 0 to {n - 1}")
    with locked(out / ".rollouts.lock", "being rolled out", wait=True):
        if not (out / "rollouts.json").exists() or read_json(out / "rollouts.json") != what:
            for stale in out.glob("rollouts-*.jsonl"):
                stale.unlink()
            write_json(out / "rollouts.json", what)
    path = out / f"rollouts-{index}-of-{n}.jsonl"
    with locked(out / f".{path.name}.lock", f"shard {index} of {n} is being rolled out", wait):
        cut_torn_line(path)
        done = finished_images(out)
        mine = [i for i in image_ids if i % n == index]
        todo = [i for i in mine if i not in done]
        bar = tqdm(
            total=len(mine),
            initial=len(mine) - len(todo),
            desc=out.name,
            unit="image",
            mininterval=2.0,
        )
        with bar, naming_full_disk(path), open(path, "ab") as handle:
            for first in range(0, len(todo), batch):
                chosen = todo[first : first + batch]
                handle.write(
                    b"".join(
                        _row(dataset, *pair) for pair in zip(chosen, generate(chosen), strict=True)
                    )
                )
                handle.flush()
                os.fsync(handle.fileno())
                bar.update(len(chosen))
    return path


def finished_images(out: Path) -> set[int]:
    """Images of which any shard of `out` holds a whole row (one without a line end is being
    written, or torn).
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
