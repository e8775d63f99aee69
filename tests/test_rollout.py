"""Greedy rollouts: the text does not depend on batch, padding or shards, and nothing is generated
twice.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coordexp.coords import parse_coordjson, write_coordjson
from coordexp.data.batches import Dataset
from coordexp.data.records import Record, RecordObject, write_records
from coordexp.detection.rollouts import read_rollouts, record_of
from coordexp.models.processor import build_tokenizer
from coordexp.probe.generation import (
    Answer,
    decode,
    greedy,
    spell,
    token_budget,
    token_bytes,
)
from coordexp.probe.rollout import of_what, roll_out

# Px: prompts of 18 to 26 tokens.
SIZES = [
    (64, 64),
    (96, 64),
    (32, 32),
    (64, 96),
    (128, 64),
    (64, 32),
    (96, 96),
]
BUDGET = 24


@pytest.fixture(scope="module")
def dataset(tiny, tmp_path_factory) -> Dataset:
    """Pictures of many sizes, so that prompts differ in length."""
    directory = tmp_path_factory.mktemp("sizes")
    records = []
    for i, (width, height) in enumerate(SIZES):
        Image.effect_noise((width, height), 60.0 + i).convert("RGB").save(directory / f"{i}.png")
        names = ["cup", "leaf 杯🥤", 'a "b" \\ c'][: i % 4]
        objects = tuple(
            RecordObject(name, "bbox_2d", (1.0, 2.0 + j, 20.0, 30.0))
            for j, name in enumerate(names)
        )
        records.append(Record(f"{i}.png", width, height, objects))
    write_records(directory / "some.jsonl", records)
    return Dataset(directory / "some.jsonl", tiny.processor)


@pytest.fixture(scope="module")
def vlm(tiny):
    """The tiny model with weights large enough that it writes something else for every picture."""
    model = copy.deepcopy(tiny.vlm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
    return model


def everything(dataset: Dataset) -> list[int]:
    return list(range(len(dataset)))


def stub(dataset: Dataset, calls: list[list[int]] | None = None, die_at: int | None = None):
    """Writes the truth; keeps what it was asked for, and may stop as if killed."""

    def generate(image_ids: Sequence[int]) -> list[Answer]:
        if calls is not None:
            calls.append(list(image_ids))
            if len(calls) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        texts = [write_coordjson(dataset.records[i].coord_objects()) for i in image_ids]
        return [Answer(text, True, [len(text)], [-0.5]) for text in texts]

    return generate


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


# What is written


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_answer_does_not_depend_on_its_batch_or_padding(vlm, dataset, dtype):
    model = copy.deepcopy(vlm).to(dtype)
    generate = greedy(model, dataset, BUDGET)
    alone = [generate([i])[0] for i in everything(dataset)]
    assert len({answer.text for answer in alone}) == len(alone), "or this test tests nothing"
    assert len({int(dataset.prompts([i])["attention_mask"].sum()) for i in everything(dataset)}) > 3
    for size in (3, 8):
        for order in (everything(dataset), everything(dataset)[::-1]):
            together = {}
            for first in range(0, len(order), size):
                chosen = order[first : first + size]
                together |= dict(zip(chosen, generate(chosen), strict=True))
            for i, answer in enumerate(alone):
                assert together[i].text == answer.text
                assert together[i].token_ends == answer.token_ends
                assert together[i].token_logprobs == pytest.approx(answer.token_logprobs, abs=2e-5)


def test_answers_are_those_of_the_models_own_generate(vlm, dataset):
    """Image by image, and every log-probability from one forward pass without a cache."""
    end = dataset.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    written = decode(vlm, dataset.prompts(everything(dataset)), end, BUDGET)
    for i, (ids, logprobs, _) in enumerate(written):
        inputs = dataset.prompts([i])
        n = inputs["input_ids"].shape[1]
        expected = vlm.generate(**inputs, max_new_tokens=BUDGET, do_sample=False)[0]
        expected = expected[n:][: (expected[n:] != end).cumprod(0).sum()].tolist()
        assert ids == expected
        whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
        types = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros(1, len(ids), dtype=torch.long)], dim=1
        )
        pictures = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        with torch.no_grad():
            logits = vlm(
                input_ids=whole,
                mm_token_type_ids=types,
                attention_mask=torch.ones_like(whole),
                **pictures,
            ).logits[0]
        scores = logits.log_softmax(-1)[range(n - 1, n - 1 + len(ids)), ids]
        assert logprobs == pytest.approx(scores.tolist(), abs=1e-6)


def test_rows_that_end_leave_the_others_as_they_are(vlm, dataset):
    """Any token may be declared the end: what is written before it is what would have been written
    anyway.
    """
    inputs = dataset.prompts(everything(dataset))
    unbounded = [ids for ids, _, _ in decode(vlm, inputs, -1, BUDGET)]
    assert all(len(ids) == BUDGET for ids in unbounded)
    tokens = sorted({token for ids in unbounded for token in ids})
    partial = [t for t in tokens if sum(t in ids for ids in unbounded) > 1] + tokens[:2]
    assert partial
    for end in partial[:8]:
        for ids, (found, logprobs, ended) in zip(
            unbounded, decode(vlm, inputs, end, BUDGET), strict=True
        ):
            assert found == (ids[: ids.index(end)] if end in ids else ids)
            assert ended == (end in ids)
            assert len(logprobs) == len(found)


def test_the_end_token_is_part_of_the_budget(vlm, dataset):
    inputs = dataset.prompts([0])
    (ids, _, _) = decode(vlm, inputs, -1, 8)[0]
    end = next(token for token in ids if ids.index(token) > 0)
    at = ids.index(end)
    assert decode(vlm, inputs, end, at + 1)[0][::2] == (ids[:at], True)
    assert decode(vlm, inputs, end, at)[0][::2] == (ids[:at], False)


def test_weights_that_are_not_finite_are_refused(tiny, dataset, refused):
    broken = copy.deepcopy(tiny.vlm)
    broken.lm_head.weight.data[5] = float("nan")
    with refused("not finite"):
        greedy(broken, dataset, 4)([0])


def test_a_prompt_is_what_the_template_asks_for(dataset):
    tokenizer, prompts = dataset.processor.tokenizer, dataset.prompts(everything(dataset))
    for b, (width, height) in enumerate(SIZES):
        ids = prompts["input_ids"][b][prompts["attention_mask"][b].bool()]
        picture = (
            "<|vision_start|>" + "<|image_pad|>" * (width * height // 32**2) + "<|vision_end|>"
        )
        asked = (
            f"<|im_start|>user\n{picture}Detect every object.<|im_end|>\n<|im_start|>assistant\n"
        )
        assert ids.tolist() == tokenizer.encode(asked, add_special_tokens=False)
        assert prompts["attention_mask"][b, -1] == 1, "padded on the left"
    assert (
        prompts["mm_token_type_ids"] == (prompts["input_ids"] == dataset.processor.image_token_id)
    ).all()


def test_the_budget_is_a_quarter_above_the_longest_answer(dataset):
    tokenizer = dataset.processor.tokenizer
    lengths = [
        len(tokenizer.encode(write_coordjson(r.coord_objects()) + "<|im_end|>"))
        for r in dataset.records
    ]
    assert token_budget(dataset) == -(-5 * max(lengths) // 4) + 8


# How tokens are spelt


def test_every_token_spells_what_the_tokenizer_decodes(tiny):
    tokenizer = tiny.processor.tokenizer
    for token_id in range(len(tokenizer)):
        assert token_bytes(tokenizer, token_id).decode("utf-8", "replace") == tokenizer.decode(
            [token_id]
        )
    assert token_bytes(tokenizer, len(tokenizer) + 5) == b""
    grown = build_tokenizer(300)
    grown.add_tokens(["<a cup>"])  # is spelt as it stands, blank and all
    assert (
        token_bytes(grown, len(grown) - 1) == b"<a cup>" == grown.decode([len(grown) - 1]).encode()
    )


@given(st.lists(st.integers(0, 2**16), max_size=30))
def test_any_tokens_are_spelt_as_the_tokenizer_does(tiny, numbers):
    tokenizer = tiny.processor.tokenizer
    ids = [number % len(tokenizer) for number in numbers]
    text, ends = spell(token_bytes(tokenizer, i) for i in ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=False)
    assert ends == sorted(ends)
    assert len(ends) == len(ids)
    assert not ends or ends[-1] == len(text)


@settings(max_examples=40)
@given(st.text(alphabet=st.sampled_from('ab {}"[]:,杯🥤éñ\\\n'), max_size=20))
def test_token_ends_count_whole_characters(tiny, name):
    tokenizer = tiny.processor.tokenizer
    ids = tokenizer.encode('{"desc": "' + name + '", "bbox_2d": [<|coord_7|>, <|coord_999|>]}')
    text, ends = spell(token_bytes(tokenizer, i) for i in ids)
    for n, end in enumerate(ends, start=1):
        assert text[:end] == tokenizer.decode(ids[:n]).rstrip("�")


# Shards and files


def shard_files(out):
    return sorted(out.glob("rollouts-*.jsonl"))


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_share_the_images_and_the_text_is_the_same(vlm, dataset, tmp_path, shards):
    expected = greedy(vlm, dataset, 12)(everything(dataset))
    for index in range(shards):
        path = roll_out(
            tmp_path,
            {"n": 1},
            dataset,
            everything(dataset),
            greedy(vlm, dataset, 12),
            batch=2,
            shard=(index, shards),
        )
        assert path.name == f"rollouts-{index}-of-{shards}.jsonl"
        assert [row["image_id"] for row in lines(path)] == [
            i for i in everything(dataset) if i % shards == index
        ]
    rows = read_rollouts(shard_files(tmp_path))
    for i, (row, answer) in enumerate(zip(rows, expected, strict=True)):
        assert record_of(row, dataset.records) is dataset.records[i]
        assert (row.text, row.finished) == (answer.text, answer.finished)
        assert row.n_tokens == len(answer.token_ends)
        assert row.token_ends == answer.token_ends
        assert row.token_logprobs == pytest.approx(answer.token_logprobs, abs=2e-6)


def test_the_truth_comes_back_as_it_was_written(dataset, tmp_path):
    path = roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset), batch=3)
    for row, record in zip(lines(path), dataset.records, strict=True):
        parsed = parse_coordjson(row["text"])
        assert parsed.strict
        assert tuple(parsed.objects) == tuple(record.coord_objects())


def test_a_finished_shard_asks_for_nothing(dataset, tmp_path):
    roll_out(tmp_path, {"a": 1}, dataset, everything(dataset), stub(dataset), batch=3)
    before, calls = (tmp_path / "rollouts-0-of-1.jsonl").read_bytes(), []
    roll_out(tmp_path, {"a": 1}, dataset, everything(dataset), stub(dataset, calls), batch=2)
    assert calls == []
    assert (tmp_path / "rollouts-0-of-1.jsonl").read_bytes() == before


def test_a_killed_shard_goes_on_behind_its_last_row(dataset, tmp_path):
    whole = roll_out(
        tmp_path / "whole", {}, dataset, everything(dataset), stub(dataset), batch=2
    ).read_bytes()
    pid = os.fork()
    if pid == 0:
        try:
            roll_out(
                tmp_path / "cut",
                {},
                dataset,
                everything(dataset),
                stub(dataset, [], die_at=3),
                batch=2,
            )
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    path = tmp_path / "cut" / "rollouts-0-of-1.jsonl"
    assert len(lines(path)) == 4
    calls: list[list[int]] = []
    roll_out(tmp_path / "cut", {}, dataset, everything(dataset), stub(dataset, calls), batch=2)
    assert calls == [[4, 5], [6]]
    assert path.read_bytes() == whole


def test_a_row_torn_anywhere_is_written_again(dataset, tmp_path):
    path = roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset), batch=2)
    whole = path.read_bytes()
    fourth = sum(len(line) for line in whole.splitlines(keepends=True)[:3])
    for cut in (fourth - 1, fourth, fourth + 1, fourth + 30):
        path.write_bytes(whole[:cut])
        calls: list[list[int]] = []
        roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset, calls), batch=2)
        assert calls[0][0] == (2 if cut < fourth else 3)
        assert path.read_bytes() == whole


def test_other_shards_do_not_repeat_what_is_there(dataset, tmp_path):
    roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset), batch=2, shard=(1, 2))
    calls: list[list[int]] = []
    roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset, calls), batch=9)
    assert calls == [[0, 2, 4, 6]]
    assert [row.image_id for row in read_rollouts(shard_files(tmp_path))] == everything(dataset)


def test_a_row_that_another_shard_is_just_writing_does_not_count(dataset, tmp_path):
    path = roll_out(
        tmp_path, {}, dataset, everything(dataset), stub(dataset), batch=2, shard=(1, 2)
    )
    path.write_bytes(path.read_bytes()[:-5])
    calls: list[list[int]] = []
    roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset, calls), batch=9)
    assert calls == [[0, 2, 4, 5, 6]]
    assert not path.read_bytes().endswith(b"\n"), "it is the other shard's to mend"


@pytest.mark.parametrize("change", ["model", "records", "budget", "images"])
def test_rows_of_something_else_are_removed(dataset, tmp_path, change):
    what = of_what("abc", dataset.path, 9, 7)
    for index in (0, 1):
        roll_out(
            tmp_path, what, dataset, everything(dataset), stub(dataset), batch=4, shard=(index, 2)
        )
    other_records = tmp_path / "other.jsonl"
    other_records.write_bytes(dataset.path.read_bytes() + b"\n")
    other = {
        "model": of_what("abd", dataset.path, 9, 7),
        "records": of_what("abc", other_records, 9, 7),
        "budget": of_what("abc", dataset.path, 10, 7),
        "images": of_what("abc", dataset.path, 9, 6),
    }[change]
    calls: list[list[int]] = []
    roll_out(tmp_path, other, dataset, everything(dataset), stub(dataset, calls), batch=9)
    assert calls == [everything(dataset)]
    assert [path.name for path in shard_files(tmp_path)] == ["rollouts-0-of-1.jsonl"]


def test_another_writer_of_a_shard_is_named(dataset, tmp_path, refused):
    read, write = os.pipe()

    def stuck(_: Sequence[int]) -> list[Answer]:
        os.write(write, b"x")
        signal.pause()
        return []

    pid = os.fork()
    if pid == 0:
        try:
            roll_out(tmp_path, {}, dataset, [0], stuck, batch=1)
        finally:
            os._exit(1)
    os.read(read, 1)
    try:
        with refused("shard 0 of 1", str(pid)):
            roll_out(tmp_path, {}, dataset, [0], stub(dataset), batch=1)
        roll_out(tmp_path, {}, dataset, everything(dataset), stub(dataset), batch=1, shard=(1, 2))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_bad_shards_and_broken_rows_are_refused(dataset, tmp_path, refused):
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with refused("shard"):
            roll_out(tmp_path, {}, dataset, [0], stub(dataset), batch=1, shard=shard)
    roll_out(tmp_path, {}, dataset, [0], stub(dataset), batch=1)
    (tmp_path / "rollouts-1-of-2.jsonl").write_text("nonsense\n")
    with refused("rollouts-1-of-2.jsonl:1"):
        roll_out(tmp_path, {}, dataset, [1], stub(dataset), batch=1)
