"""Greedy generation of a checkpoint: an answer per image, with each token's log-probability.

On a CPU the answer for an image does not depend on its batch or padding, unless two tokens are
equally likely up to float32 rounding.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen3VLForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode

from coordexp.data.batches import Dataset
from coordexp.errors import UserError
from coordexp.models.adapters import hidden_states


@dataclass(frozen=True)
class Answer:
    """The model's answer for one image: T tokens, without the end token."""

    text: str  # including the text of special tokens
    finished: bool  # the end token came within the budget
    token_ends: list[int]  # [T] complete characters of `text` after each token
    token_logprobs: list[float]  # [T] log softmax over the whole vocabulary


Generate = Callable[[Sequence[int]], list[Answer]]  # image ids -> an answer each


def token_budget(dataset: Dataset) -> int:
    """Maximum tokens of an answer: 1.25 times the longest answer of the records, plus 8."""
    return math.ceil(1.25 * max(dataset.answer_length(i) for i in range(len(dataset)))) + 8


def greedy(vlm: Qwen3VLForConditionalGeneration, dataset: Dataset, budget: int) -> Generate:
    """A function that decodes answers for the dataset's images greedily with `vlm`.

    An answer has at most `budget` tokens, including the end token.
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
    """Greedy decoding of B left-padded prompts; rows that have ended leave the batch.

    Positions count tokens that are not padding. Positions of the prompt follow the model's own rule
    (M-RoPE: time, height, width); each generated token adds one.

    Returns:
        For each prompt: token ids, their log-probabilities (nats), and whether the answer ended.

    Raises:
        UserError: the logits are not finite.
    """
    vlm.eval()
    inputs = {name: value.to(vlm.device) for name, value in inputs.items()}
    attention, cache = inputs["attention_mask"], DynamicCache(config=vlm.config)  # [B, L]
    positions, position = _positions(vlm, inputs)
    written: list[tuple[list[int], list[float]]] = [([], []) for _ in attention]
    ended = [False] * len(written)
    rows = list(range(len(written)))  # index of the answer in each row of the batch
    hidden = hidden_states(
        vlm, **inputs, position_ids=positions, past_key_values=cache, use_cache=True
    )  # [B, L, d]
    for _ in range(budget):
        tokens, logprobs = _most_likely(vlm, hidden[:, -1])  # [B], [B]
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
        # Remove answers that have ended from the batch and from the cache.
        if not going.all():
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            attention, position, tokens = attention[kept], position[kept], tokens[kept]
            rows = [rows[r] for r in kept.tolist()]
        attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
        hidden = _next_hidden(vlm, tokens, attention, position, cache)  # [B, 1, d]
        position = position + 1
    return [(ids, logprobs, end) for (ids, logprobs), end in zip(written, ended, strict=True)]


def _positions(
    vlm: Qwen3VLForConditionalGeneration, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """M-RoPE positions of the prompts [3, B, L], and of the token after each prompt [B, 1]."""
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    positions, beyond_length = vlm.model.get_rope_index(**{name: inputs[name] for name in names})
    return positions, inputs["attention_mask"].sum(1, keepdim=True) + beyond_length


def _most_likely(vlm: Qwen3VLForConditionalGeneration, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely next token and its log-probability, in float32 at least.

    hidden [B, d] -> [B], [B]
    """
    logits = vlm.lm_head(hidden)  # [B, V]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    best, tokens = logits.max(-1)
    logprobs = best - logits.logsumexp(-1)
    if not logprobs.isfinite().all():
        raise UserError(
            f"{vlm.name_or_path}: logits are not finite: this checkpoint cannot be rolled out"
        )
    return tokens, logprobs


def _next_hidden(
    vlm: Qwen3VLForConditionalGeneration,
    tokens: Tensor,
    attention: Tensor,
    position: Tensor,
    cache: DynamicCache,
) -> Tensor:
    """Hidden states of one more token per row: [B], [B, L], [B, 1] -> [B, 1, d]"""
    return hidden_states(
        vlm,
        input_ids=tokens[:, None],
        attention_mask=attention,
        position_ids=position.expand(3, -1, -1),
        past_key_values=cache,
        use_cache=True,
    )


_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """The bytes of a token of a byte-level BPE; none for an embedding row without a token."""
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token is None or token_id in tokenizer.added_tokens_decoder:
        return (token or "").encode()
    return bytes(_BYTE_OF[character] for character in token)


def spell(pieces: Iterable[bytes]) -> tuple[str, list[int]]:
    """The text of some tokens, and the number of complete characters after each token.

    A character may consist of several tokens; it is complete after the last of them. Bytes that are
    not UTF-8 become U+FFFD.
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
