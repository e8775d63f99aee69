"""A model's rollouts at one moment of the probe, and the seconds that each part took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import Qwen3VLForConditionalGeneration

from coordexp.config.digests import digest
from coordexp.data.batches import Dataset
from coordexp.probe.generation import Generate
from coordexp.probe.rollout import of_what, roll_out
from coordexp.probe.swapped import ExchangedPictures

# (model, dataset, token budget) -> image ids to answers
Generator = Callable[[Qwen3VLForConditionalGeneration, Dataset, int], Generate]


@dataclass(frozen=True)
class Rollouts:
    """Writes a model's rollouts to subdirectories of `out`, and their seconds to `wall_s`."""

    vlm: Qwen3VLForConditionalGeneration
    out: Path
    batch: int  # images
    budget: int  # tokens of an answer
    generator: Generator
    wall_s: dict[str, float]

    def write(
        self, moment: str, model_sha256: str, dataset: Dataset, images: Sequence[int]
    ) -> None:
        """The answers for these images, with the pictures that `dataset` shows."""
        what = of_what(model_sha256, dataset.path, self.budget, len(images))
        if isinstance(dataset, ExchangedPictures):
            what["pictures"] = digest(sorted(dataset.picture_of.items()))
        with timed(self.wall_s, f"rollouts_{moment}"):
            generate = self.generator(self.vlm, dataset, self.budget)
            roll_out(self.out / moment, what, dataset, images, generate, self.batch)


@contextmanager
def timed(wall_s: dict[str, float], part: str) -> Iterator[None]:
    """Note the seconds of the block in `wall_s`, under the name `part`."""
    started = time.perf_counter()
    yield
    wall_s[part] = time.perf_counter() - started
