"""What the model sees, what it is supervised on, and in which order (design sections 4 and 5)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.coords import BOX_SLOTS, COORD_TOKENS, coord_token_ids, pixel_to_bin, write_coordjson
from coordexp.data.batches import Batch, Dataset, step_indices
from coordexp.data.chat import PROMPT
from coordexp.data.records import Record, write_records
from coordexp.errors import UserError

ODD = [
    [
        ('a "cup"', "bbox_2d", (1.0, 2.0, 30.0, 40.0)),
        ("leaf 杯🥤\n\\", "poly", (5.0, 3.0, 9.0, 6.0, 1.0, 7.0, 4.0, 4.0)),
    ],
    [],
    [("cup", "bbox_2d", (0.0, 0.0, 63.0, 63.0))],
]


@pytest.fixture(scope="module", params=["scenes", "odd"])
def dataset(request, scenes, tiny, record_file, tmp_path_factory) -> Dataset:
    if request.param == "scenes":
        return scenes.dataset("val", tiny.processor)
    return Dataset(record_file(tmp_path_factory.mktemp("odd"), ODD), tiny.processor)


def everything(dataset: Dataset) -> Batch:
    return dataset.batch(range(len(dataset)))


def test_every_coordinate_token_is_one_token_wherever_it_stands(tiny):
    tokenizer = tiny.processor.tokenizer
    ids = coord_token_ids(tokenizer)
    for k, token in enumerate(COORD_TOKENS):
        assert tokenizer.encode(token) == [ids[k]]
    assert tokenizer.convert_ids_to_tokens(ids) == list(COORD_TOKENS)
    assert [
        t for t in tokenizer.encode("[" + ", ".join(COORD_TOKENS) + "]") if t in set(ids)
    ] == ids
    assert tokenizer.decode(tokenizer.encode("".join(COORD_TOKENS))) == "".join(COORD_TOKENS)
    assert not set(ids) & set(tokenizer.encode("<|coord_1000|> coord_12 <|coord_01|> 12 <coord_5>"))


def test_supervised_is_exactly_the_answer_and_its_end(dataset, tiny):
    batch = everything(dataset)
    length = batch.inputs["input_ids"].shape[1]
    end = tiny.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for b, record in enumerate(dataset.records):
        mine = batch.rows // length == b
        assert (
            tiny.processor.tokenizer.decode(batch.targets[mine])
            == write_coordjson(record.coord_objects()) + "<|im_end|>"
        )
        assert (batch.targets[mine] == end).sum() == 1
        rows = batch.rows[mine]
        assert torch.equal(rows, torch.arange(int(rows[0]), int(rows[0]) + len(rows))), (
            "the answer is one stretch"
        )


def test_a_row_predicts_the_token_after_it_and_never_padding(dataset):
    batch = everything(dataset)
    assert torch.equal(batch.inputs["input_ids"].flatten()[batch.rows + 1], batch.targets)
    assert batch.inputs["attention_mask"].flatten()[batch.rows + 1].all()
    assert torch.equal(batch.rows, batch.rows.unique()), "in reading order, each once"
    assert batch.n_text + batch.n_coord == len(batch.targets) == len(batch.bins) == len(batch.rows)
    assert (
        batch.n_tokens
        == int(batch.inputs["attention_mask"].sum())
        < batch.inputs["input_ids"].numel()
    )


def test_the_prompt_stands_before_the_answer(dataset, tiny):
    for i in range(len(dataset)):
        batch = dataset.batch([i])
        before = tiny.processor.tokenizer.decode(
            batch.inputs["input_ids"][0, : int(batch.rows[0]) + 1]
        )
        picture = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
        assert before == f"<|im_start|>user\n{picture}{PROMPT}<|im_end|>\n<|im_start|>assistant\n"


def test_pictures_and_their_places_agree(dataset, tiny):
    batch = everything(dataset)
    assert batch.inputs["image_grid_thw"].tolist() == [[1, 4, 4]] * len(dataset)
    assert len(batch.inputs["pixel_values"]) == 16 * len(dataset)
    places = batch.inputs["input_ids"] == tiny.processor.image_token_id
    assert (places.sum(1) == 4).all()
    assert torch.equal(batch.inputs["mm_token_type_ids"], places.long())


def test_targets_bins_and_origins_are_aligned(dataset, tiny):
    batch = everything(dataset)
    ids = torch.tensor(coord_token_ids(tiny.processor.tokenizer))
    on_coord = batch.bins >= 0
    assert torch.equal(batch.targets[on_coord], ids[batch.bins[on_coord]])
    assert not torch.isin(batch.targets[~on_coord], ids).any()
    assert int(on_coord.sum()) == len(batch.coord_tokens) == batch.n_coord
    expected = []
    for i, record in enumerate(dataset.records):
        for j, obj in enumerate(record.objects):
            for c, pixel in enumerate(obj.pixels):
                slot = BOX_SLOTS[c] if obj.kind == "bbox_2d" else "vertex"
                xs, ys = obj.pixels[0::2], obj.pixels[1::2]
                area = (max(xs) - min(xs)) * (max(ys) - min(ys))
                expected.append((i, j, slot, area, pixel_to_bin(pixel, 64)))
    found = [(t.image_id, t.object_index, t.slot, t.box_area_px) for t in batch.coord_tokens]
    assert [(*t, int(k)) for t, k in zip(found, batch.bins[on_coord], strict=True)] == expected


def test_a_batch_is_its_images_one_by_one(dataset):
    chosen = [2, 0, 1]
    batch, singles = dataset.batch(chosen), [dataset.batch([i]) for i in chosen]
    for name in ("targets", "bins"):
        assert torch.equal(
            getattr(batch, name), torch.cat([getattr(single, name) for single in singles])
        )
    assert batch.coord_tokens == [token for single in singles for token in single.coord_tokens]
    assert torch.equal(
        batch.inputs["pixel_values"],
        torch.cat([single.inputs["pixel_values"] for single in singles]),
    )
    for b, single in enumerate(singles):
        n = single.inputs["input_ids"].shape[1]
        assert torch.equal(batch.inputs["input_ids"][b, :n], single.inputs["input_ids"][0])
        assert not batch.inputs["attention_mask"][b, n:].any()


def test_the_longest_record_is_found_without_encoding_all_of_them(
    tiny, record_file, tmp_path, monkeypatch
):
    box, leaf = (
        ("cup", "bbox_2d", (1.0, 2.0, 30.0, 40.0)),
        ("a leaf of some plant", "poly", (5.0, 3.0, 9.0, 6.0, 1.0, 7.0)),
    )
    dataset = Dataset(
        record_file(tmp_path, [[box] * (i % 7) + [leaf] * (i % 5) for i in range(60)]),
        tiny.processor,
    )
    lengths, encoded = [len(dataset.encode(i).ids) for i in range(60)], []
    monkeypatch.setattr(dataset, "length", lambda i: encoded.append(i) or lengths[i])
    assert dataset.longest() == max(lengths)
    assert len(encoded) == 32


@pytest.mark.parametrize(
    "desc", ["<|coord_5|>", "a <|coord_999|> b", "<|im_end|>", "<|image_pad|>", "<|endoftext|>"]
)
def test_a_name_that_spells_a_token_does_not_shift_the_labels(tiny, record_file, tmp_path, desc):
    objects = [(desc, "bbox_2d", (1.0, 2.0, 30.0, 40.0)), ("cup", "bbox_2d", (3.0, 3.0, 5.0, 9.0))]
    try:
        dataset = Dataset(record_file(tmp_path, [objects]), tiny.processor)
        batch = dataset.batch([0])
    except UserError:
        return
    test_targets_bins_and_origins_are_aligned(dataset, tiny)
    test_pictures_and_their_places_agree(dataset, tiny)
    assert (
        int(batch.targets.eq(tiny.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")).sum())
        == 1
    )


def one_picture(directory: Path, picture: bytes | Image.Image, side: int = 64) -> Path:
    path = directory / "a.png"
    path.write_bytes(picture) if isinstance(picture, bytes) else picture.save(path)
    record = {
        "images": ["a.png"],
        "width": side,
        "height": side,
        "objects": [{"desc": "cup", "bbox_2d": [1, 2, 3, 4]}],
    }
    (directory / "some.jsonl").write_text(json.dumps(record) + "\n")
    return directory / "some.jsonl"


def test_a_picture_of_another_size_is_refused(tiny, tmp_path, refused):
    dataset = Dataset(one_picture(tmp_path, Image.new("RGB", (64, 96))), tiny.processor)
    with refused("a.png", "96"):
        dataset.batch([0])


def test_a_side_the_patches_do_not_fit_is_refused(tiny, tmp_path, refused):
    dataset = Dataset(one_picture(tmp_path, Image.new("RGB", (80, 80)), side=80), tiny.processor)
    with refused("a.png", "multiple of 32"):
        dataset.batch([0])


def test_a_damaged_picture_is_refused(tiny, tmp_path, refused, scenes):
    whole = next((scenes.path / "images" / "val").glob("*.png")).read_bytes()
    damaged = [
        b"",
        b"no picture",
        *(whole[:n] for n in range(1, len(whole) - 40, len(whole) // 25)),
    ]
    damaged += [whole[:i] + b"\xff" + whole[i + 1 :] for i in range(30)]  # signature and header
    for content in damaged:
        dataset = Dataset(one_picture(tmp_path, content), tiny.processor)
        with refused("a.png"):
            dataset.batch([0])


def test_other_colour_modes_become_rgb(tiny, tmp_path):
    for mode in ("L", "RGBA", "P", "1"):
        batch = Dataset(one_picture(tmp_path, Image.new(mode, (64, 64))), tiny.processor).batch([0])
        assert torch.isfinite(batch.inputs["pixel_values"]).all()
        assert len(batch.inputs["pixel_values"]) == 16


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_each_epoch_takes_every_image_once(n_records, images_per_step, seed):
    steps = -(-3 * n_records // images_per_step)
    taken = np.concatenate(
        [step_indices(n_records, images_per_step, seed, step) for step in range(1, steps + 1)]
    )
    assert len(taken) == steps * images_per_step
    for epoch in range(3):
        assert sorted(taken[epoch * n_records : (epoch + 1) * n_records]) == list(range(n_records))


@given(st.integers(0, 9), st.integers(1, 100))
def test_a_steps_images_depend_on_seed_and_step_only(seed, step):
    np.random.seed(step)
    torch.manual_seed(step)
    alone = step_indices(30, 8, seed, step)
    for earlier in range(1, 4):
        step_indices(30, 8, seed, earlier)
    assert np.array_equal(step_indices(30, 8, seed, step), alone)
    assert not np.array_equal(step_indices(30, 8, seed + 1, step), alone)
    pairs = [step_indices(30, 4, seed, 2 * step - 1), step_indices(30, 4, seed, 2 * step)]
    assert np.array_equal(np.concatenate(pairs), alone), (
        "the order of images does not depend on the size of a step"
    )


def test_pictures_are_the_image_processors_own_bit_for_bit(tiny, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    ramp = (
        np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3))
        .repeat(4, 0)
        .repeat(6, 1)
    )
    records = []
    for i, pixels in enumerate((noise, ramp)):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{i}.png")
        records.append(Record(f"{i}.png", pixels.shape[1], pixels.shape[0], ()))
    write_records(tmp_path / "some.jsonl", records)
    dataset = Dataset(tmp_path / "some.jsonl", tiny.processor)
    pictures = [Image.open(tmp_path / f"{i}.png") for i in range(2)]
    expected = tiny.processor.image_processor(images=pictures, return_tensors="pt")
    for _ in range(2):  # decoded, and kept
        found = dataset.batch([0, 1]).inputs
        assert torch.equal(found["pixel_values"], expected["pixel_values"])
        assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_pictures_are_kept_up_to_a_budget(tiny, scenes, monkeypatch):
    monkeypatch.setattr("coordexp.data.batches.KEPT_BYTES", 3 * 3 * 64 * 64)
    dataset = scenes.dataset("val", tiny.processor)
    first = [dataset.picture(i) for i in range(5)]
    again = [dataset.picture(i) for i in range(5)]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 3 + [False] * 2
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
