"""Records to batches: model inputs, supervised targets, and the origin of each coordinate token.

The images of a step are a function of (seed, step), so a resumed run sees the same images. How they
are cut into micro-batches, padded or packed, changes only time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coordexp.coords import BOX_SLOTS, coord_token_ids, write_coordjson
from coordexp.data.chat import ChatEncoder
from coordexp.data.packing import cut_by_tokens, text_and_mrope
from coordexp.data.patches import patches_of, pixel_value_table
from coordexp.data.records import TOKEN_SPELT, Record, read_records
from coordexp.errors import UserError

# Memory for decoded pictures per dataset: enough for all of the default study, few of a real one.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class CoordToken:
    """Where a supervised coordinate token comes from."""

    image_id: int
    object_index: int
    slot: str  # x1 y1 x2 y2, or vertex
    box_area_px: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One record as tokens."""

    ids: np.ndarray  # [L] int32
    supervised: np.ndarray  # [L] bool
    image_at: int  # index of the first token of the picture
    coord_tokens: tuple[CoordToken, ...]


@dataclass
class Batch:
    """A micro-batch, padded or packed: B images, L tokens, R supervised rows, C coordinates.

    A row is a position whose *next* token is supervised, in the order of the flattened [B, L]. A
    packed batch is [1, L]: B samples end to end. It needs no mask: its position_ids restart with
    each sample, and attention separates samples by them.
    """

    # input_ids [B, L], pixel_values, image_grid_thw; padded: attention_mask and mm_token_type_ids
    # [B, L]; packed: position_ids [4, 1, L]
    inputs: dict[str, Tensor]
    rows: Tensor  # [R] flat index of the predicting position
    targets: Tensor  # [R] token id
    bins: Tensor  # [R] GT bin, or -1 on text
    coord_tokens: list[CoordToken]  # C, in the order of rows with bins >= 0

    @property
    def n_coord(self) -> int:
        return len(self.coord_tokens)

    @property
    def n_text(self) -> int:
        return len(self.targets) - len(self.coord_tokens)

    @property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        mask = self.inputs.get("attention_mask")
        return self.inputs["input_ids"].numel() if mask is None else int(mask.sum())

    def supervised_at(self, chosen: Tensor) -> Batch:
        """The same inputs, supervised at the chosen rows only  # [R] bool"""
        of_coordinates = chosen[self.bins >= 0].tolist()
        pairs = zip(self.coord_tokens, of_coordinates, strict=True)
        return Batch(
            self.inputs,
            self.rows[chosen],
            self.targets[chosen],
            self.bins[chosen],
            [token for token, keep in pairs if keep],
        )

    def to(self, device: torch.device) -> Batch:
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        rows, targets, bins = (x.to(device) for x in (self.rows, self.targets, self.bins))
        return Batch(inputs, rows, targets, bins, self.coord_tokens)


class Dataset:
    """The records of one split, encoded on demand."""

    def __init__(self, path: Path, processor: Any) -> None:
        """`processor`: an `ImageProcessor` (models/processor.py), which holds the prompt."""
        self.path, self.processor = path, processor
        self.records = read_records(path)
        ids = coord_token_ids(processor.tokenizer)
        self.bin_of = {token_id: k for k, token_id in enumerate(ids)}
        self._refuse_names_that_spell_tokens()
        self.chat = ChatEncoder(processor.tokenizer, processor.chat_template, processor.prompt)
        self.encode = lru_cache(maxsize=50_000)(self._encode)
        self._pixel_values = pixel_value_table(processor.image_processor)
        self._kept: dict[int, Image.Image] = {}  # decoded pictures, in the order they were read
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.records)

    def _refuse_names_that_spell_tokens(self) -> None:
        """Refuse names such as `<|coord_5|>`: they would be tokenized as that special token."""
        added = self.processor.tokenizer.get_added_vocab()
        for record in self.records:
            for obj in record.objects:
                for spelt in TOKEN_SPELT.findall(obj.desc):
                    if spelt in added:
                        raise UserError(
                            f"{self.path}: {record.image}: the name {obj.desc!r} spells the token "
                            f"{spelt}: rename it"
                        )

    def _encode(self, index: int) -> Sample:
        record = self.records[index]
        ids, mask = self.chat.encode(write_coordjson(record.coord_objects()))
        # The chat template writes one image token. The model expects one for each cell of the
        # picture.
        image_at = ids.index(self.processor.image_token_id)
        n_image = math.prod(self.grid(index))
        ids = ids[:image_at] + [self.processor.image_token_id] * n_image + ids[image_at + 1 :]
        mask = mask[:image_at] + [0] * n_image + mask[image_at + 1 :]
        return Sample(
            np.array(ids, np.int32),
            np.array(mask, bool),
            image_at,
            tuple(coord_tokens(record, index)),
        )

    def grid(self, index: int) -> tuple[int, int]:
        """Rows and columns of the picture's tokens."""
        record, images = self.records[index], self.processor.image_processor
        side = images.patch_size * images.merge_size
        if record.width % side or record.height % side:
            raise UserError(
                f"{self.path.parent / record.image}: {record.width} x {record.height} px is not a "
                f"multiple of {side}: pictures are never resized while training, "
                "resize them when preparing the data"
            )
        return record.height // side, record.width // side

    def length(self, index: int) -> int:
        """Tokens of a record, including those of its picture."""
        return len(self.encode(index).ids)

    def longest(self) -> int:
        """Tokens of the longest record.

        Only the 32 records with the largest estimated length are encoded: encoding all of a real
        data set takes minutes.
        """

        # An estimate without the tokenizer: cells of the picture, coordinates and characters.
        def estimate(index: int) -> int:
            objects = self.records[index].objects
            n_text = sum(2 * len(obj.pixels) + len(obj.desc) for obj in objects)
            return math.prod(self.grid(index)) + n_text

        return max(map(self.length, nlargest(32, range(len(self)), key=estimate)))

    def picture(self, index: int) -> Image.Image:
        """The picture as RGB. It is kept in memory until KEPT_BYTES are used.

        Raises:
            UserError: the picture is missing, not a picture, or not of the size the record says.
        """
        if index in self._kept:
            return self._kept[index]
        record = self.records[index]
        path = self.path.parent / record.image
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except OSError as error:
            raise UserError(f"{path}: the picture cannot be read ({error})") from error
        if picture.size != (record.width, record.height):
            raise UserError(
                f"{path}: {picture.size} px, the record says {(record.width, record.height)}"
            )
        if self._kept_bytes < KEPT_BYTES:
            self._kept[index] = picture
            self._kept_bytes += 3 * record.width * record.height
        return picture

    def batch(self, indices: Sequence[int]) -> Batch:
        """These records, padded to the longest of them."""
        samples = [self.encode(i) for i in indices]
        shape = (len(samples), max(len(sample.ids) for sample in samples))
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        attention = torch.zeros(shape, dtype=torch.long)
        supervised = torch.zeros(shape, dtype=torch.bool)
        for b, sample in enumerate(samples):
            input_ids[b, : len(sample.ids)] = torch.from_numpy(sample.ids)
            attention[b, : len(sample.ids)] = 1
            supervised[b, : len(sample.ids)] = torch.from_numpy(sample.supervised)
        inputs = self._model_inputs(indices, input_ids, attention)
        return self._labelled(inputs, supervised, samples)

    def pack(self, indices: Sequence[int]) -> Batch:
        """These records end to end; attention separates them where the positions restart."""
        samples = [self.encode(i) for i in indices]
        ids = np.concatenate([sample.ids for sample in samples])  # [L]
        supervised = torch.from_numpy(np.concatenate([sample.supervised for sample in samples]))
        positions = []
        for i, sample in zip(indices, samples, strict=True):
            positions.append(text_and_mrope(len(sample.ids), sample.image_at, self.grid(i)))
        position_ids = torch.from_numpy(np.concatenate(positions, axis=1))  # [4, L]
        inputs = {
            "input_ids": torch.from_numpy(ids).long()[None],
            "position_ids": position_ids[:, None],
            **self._pictures(indices),
        }
        return self._labelled(inputs, supervised, samples)

    def _labelled(
        self, inputs: dict[str, Tensor], supervised: Tensor, samples: Sequence[Sample]
    ) -> Batch:
        # The row before a supervised token predicts it; the first token is never supervised.
        rows = supervised.flatten().nonzero()[:, 0] - 1
        targets = inputs["input_ids"].flatten()[rows + 1]
        bins = torch.tensor([self.bin_of.get(int(t), -1) for t in targets], dtype=torch.long)
        origins: list[CoordToken] = []
        for sample in samples:
            origins += sample.coord_tokens
        return Batch(inputs, rows, targets, bins, origins)

    def cut(
        self, indices: Sequence[int], ranks: int, rank: int, budget: int, packed: bool
    ) -> list[list[int]]:
        """This rank's records of a step, by micro-batch of at most `budget` tokens."""
        lengths = [self.length(i) for i in indices]
        groups = cut_by_tokens(lengths, ranks, budget, packed)[rank]
        return [[int(indices[i]) for i in group] for group in groups]

    def prompts(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The prompts of these records, to generate answers from; the tensors of `Batch.inputs`.

        Padding is on the left, so that all answers start in the same column.
        """
        samples = [self.encode(i) for i in indices]
        prompts = [sample.ids[: sample.supervised.argmax()] for sample in samples]
        length = max(len(ids) for ids in prompts)
        input_ids = torch.full((len(prompts), length), self.processor.tokenizer.pad_token_id)
        attention = torch.zeros((len(prompts), length), dtype=torch.long)
        for b, ids in enumerate(prompts):
            input_ids[b, length - len(ids) :] = torch.from_numpy(ids)
            attention[b, length - len(ids) :] = 1
        return self._model_inputs(indices, input_ids, attention)

    def _model_inputs(
        self, indices: Sequence[int], input_ids: Tensor, attention: Tensor
    ) -> dict[str, Tensor]:
        return {
            "input_ids": input_ids,
            "attention_mask": attention,
            "mm_token_type_ids": (input_ids == self.processor.image_token_id).long(),
            **self._pictures(indices),
        }

    def _pictures(self, indices: Sequence[int]) -> dict[str, Tensor]:
        patches = [
            patches_of(self.picture(i), self.processor.image_processor, self._pixel_values)
            for i in indices
        ]
        side = self.processor.image_processor.merge_size
        grids = [(1, side * rows, side * columns) for rows, columns in map(self.grid, indices)]
        return {
            "pixel_values": torch.from_numpy(np.concatenate(patches)),
            "image_grid_thw": torch.tensor(grids),
        }

    def answer_length(self, index: int) -> int:
        """Tokens of a record's answer, including the end token."""
        return int(self.encode(index).supervised.sum())


def coord_tokens(record: Record, image_id: int):
    """A CoordToken for each coordinate that `write_coordjson` writes, in its order."""
    for object_index, obj in enumerate(record.objects):
        x1, y1, x2, y2 = obj.box
        for i in range(len(obj.pixels)):
            slot = BOX_SLOTS[i] if obj.kind == "bbox_2d" else "vertex"
            yield CoordToken(image_id, object_index, slot, (x2 - x1) * (y2 - y1))


def step_indices(n_records: int, images_per_step: int, seed: int, step: int) -> np.ndarray:
    """Images of optimizer step `step`, counted from 1.

    Every epoch is another permutation of the records. Each step takes the next `images_per_step`
    records from the concatenated epochs.

    Returns: [images_per_step]
    """
    first = (step - 1) * images_per_step
    positions = np.arange(first, first + images_per_step)
    epochs = positions // n_records
    indices = np.empty(images_per_step, dtype=np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(n_records)
        in_epoch = epochs == epoch
        indices[in_epoch] = order[positions[in_epoch] % n_records]
    return indices
