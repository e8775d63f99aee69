"""Batched rollouts against `model.generate` per image: tokens a second on one thread.

    python benchmarks/rollout.py CHECKPOINT RECORDS.jsonl [--images 64] [--rounds 5]

Each round takes every batch size and the reference once, in turn, so that whatever else the machine
does meets all of them. Prints Markdown: medians over the rounds, as ratios to the reference, and
how many texts differ from its texts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from coordexp.data.batches import Dataset
from coordexp.models.checkpoints import load_base
from coordexp.probe.generation import greedy, token_budget
from coordexp.training.evaluate import evenly_spaced

BATCHES = (1, 8, 16, 32)
# Image ids -> (text, tokens, the end included) each.
Writer = Callable[[Sequence[int]], list[tuple[str, int]]]


def one_by_one(vlm: Qwen3VLForConditionalGeneration, dataset: Dataset, budget: int) -> Writer:
    """transformers' own loop, an image at a time."""
    tokenizer = dataset.processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def write(image_ids: Sequence[int]) -> list[tuple[str, int]]:
        written = []
        for i in image_ids:
            inputs = dataset.prompts([i])
            ids = vlm.generate(**inputs, max_new_tokens=budget, do_sample=False)[
                0, inputs["input_ids"].shape[1] :
            ].tolist()
            written.append((tokenizer.decode(ids[:-1] if ids[-1] == end else ids), len(ids)))
        return written

    return write


def batched(
    vlm: Qwen3VLForConditionalGeneration, dataset: Dataset, budget: int, batch: int
) -> Writer:
    generate = greedy(vlm, dataset, budget)

    def write(image_ids: Sequence[int]) -> list[tuple[str, int]]:
        answers = [
            answer
            for i in range(0, len(image_ids), batch)
            for answer in generate(image_ids[i : i + batch])
        ]
        return [(answer.text, len(answer.token_ends) + answer.finished) for answer in answers]

    return write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    vlm, processor = load_base(arguments.checkpoint, torch.float32)
    dataset = Dataset(arguments.records, processor)
    images, budget = evenly_spaced(len(dataset), arguments.images).tolist(), token_budget(dataset)
    writers = {"reference": one_by_one(vlm.eval(), dataset, budget)}
    writers |= {f"batches of {batch}": batched(vlm, dataset, budget, batch) for batch in BATCHES}
    for write in writers.values():
        write(images[:8])

    rates: dict[str, list[float]] = {name: [] for name in writers}
    texts: dict[str, list[str]] = {}
    for _ in range(arguments.rounds):
        for name, write in writers.items():
            started = time.process_time()
            written = write(images)
            rates[name].append(sum(n for _, n in written) / (time.process_time() - started))
            texts[name] = [text for text, _ in written]

    medians = {name: float(np.median(values)) for name, values in rates.items()}
    print(
        f"| {len(images)} images, {arguments.rounds} rounds | "
        "tokens a CPU second | ratio | texts that differ |"
    )
    print("| --- | ---: | ---: | ---: |")
    for name, median in medians.items():
        differ = sum(a != b for a, b in zip(texts[name], texts["reference"], strict=True))
        shown = "`generate`, image by image" if name == "reference" else name
        print(f"| {shown} | {median:.0f} | {median / medians['reference']:.2f} | {differ} |")


if __name__ == "__main__":
    main()
