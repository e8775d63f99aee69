"""Samples of one pack do not see each other, and how a step is cut by tokens changes nothing but
the cut.
"""

from __future__ import annotations

import pytest
import torch
from conftest import VARIANTS
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data.batches import Dataset
from coordexp.data.packing import cut_by_tokens

PICTURES = [(64, 64), (96, 32), (32, 128), (64, 64), (160, 96)]


@pytest.fixture(scope="module")
def dataset(tiny, tmp_path_factory) -> Dataset:
    """Pictures of several shapes, with none to three objects."""
    from PIL import Image

    from coordexp.data.records import Record, RecordObject, reading_order, write_records

    path = tmp_path_factory.mktemp("packing")
    records = []
    for i, (width, height) in enumerate(PICTURES):
        Image.effect_noise((width, height), 60).convert("RGB").save(path / f"{i}.png")
        objects = [
            RecordObject("cup", "bbox_2d", (1.0 + j, 2.0 * i, 20.0, 28.0 + j)) for j in range(i % 4)
        ]
        records.append(Record(f"{i}.png", width, height, reading_order(objects)))
    write_records(path / "some.jsonl", records)
    return Dataset(path / "some.jsonl", tiny.processor)


def test_positions_of_a_pack_are_the_models_own_one_sample_at_a_time(dataset, tiny):
    packed = dataset.pack(range(len(dataset)))
    found, at = packed.inputs["position_ids"], 0
    for i in range(len(dataset)):
        inputs = dataset.batch([i]).inputs
        grids = {
            name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw")
        }
        expected, _ = tiny.vlm.model.get_rope_index(**grids)
        length = expected.shape[-1]
        assert torch.equal(found[1:, :, at : at + length], expected)
        assert torch.equal(found[0, 0, at : at + length], torch.arange(length))
        assert torch.equal(packed.inputs["input_ids"][:, at : at + length], inputs["input_ids"])
        at += length
    assert at == found.shape[-1] == packed.n_tokens


def hidden_of(vlm, batch) -> torch.Tensor:
    return vlm.model(**batch.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[batch.rows]


@torch.no_grad()
def test_a_packed_sample_is_what_it_is_alone_whatever_lies_beside_it(dataset, tiny):
    for indices in ([3, 0, 4, 1, 2], [0, 0, 0], [4]):
        packed, singles = dataset.pack(indices), [dataset.batch([i]) for i in indices]
        for name in ("targets", "bins"):
            assert torch.equal(
                getattr(packed, name), torch.cat([getattr(single, name) for single in singles])
            )
        assert packed.coord_tokens == [token for single in singles for token in single.coord_tokens]
        alone = torch.cat([hidden_of(tiny.vlm, single) for single in singles])
        torch.testing.assert_close(hidden_of(tiny.vlm, packed), alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_cut_gives_the_loss_and_the_gradient_of_the_whole_step(dataset, tiny, variant):
    """Packs and padded batches of several budgets and numbers of ranks, against each sample
    alone.
    """
    model = tiny.stage1(variant)
    indices = [3, 1, 0, 2, 4, 3]
    counts = torch.tensor(
        [
            sum(dataset.batch([i]).n_text for i in indices),
            sum(dataset.batch([i]).n_coord for i in indices),
        ]
    )

    def step(batches) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        losses = [model(batch, counts).loss for batch in batches]
        torch.stack(losses).sum().backward()
        return sum(map(torch.Tensor.item, losses)), torch.cat(
            [p.grad.flatten() for p in model.parameters()]
        )

    loss, gradient = step([dataset.batch([i]) for i in indices])
    longest = max(dataset.length(i) for i in indices)
    for packed in (True, False):
        for ranks, budget in ((1, 10_000), (2, longest + 40), (3, longest), (2, 1)):
            join = dataset.pack if packed else dataset.batch
            batches = [
                join(images)
                for rank in range(ranks)
                for images in dataset.cut(indices, ranks, rank, budget, packed)
            ]
            found = step(batches)
            assert found[0] == pytest.approx(loss, rel=1e-10)
            torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-10)
    model.zero_grad()


lengths_and_ranks = st.integers(1, 4).flatmap(
    lambda ranks: st.tuples(
        st.integers(1, 12).flatmap(
            lambda k: st.lists(st.integers(1, 500), min_size=k * ranks, max_size=k * ranks)
        ),
        st.just(ranks),
    )
)


@given(lengths_and_ranks, st.integers(1, 2000), st.booleans())
def test_every_cut_keeps_the_budget_and_the_ranks_in_step(case, budget, packed):
    lengths, ranks = case
    cut = cut_by_tokens(lengths, ranks, budget, packed)
    assert len(cut) == ranks
    assert len({len(micro_batches) for micro_batches in cut}) == 1
    groups = [group for micro_batches in cut for group in micro_batches]
    assert all(groups)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [lengths[i] for i in group]
        assert len(group) == 1 or (sum(sizes) if packed else len(sizes) * max(sizes)) <= budget
    assert cut == cut_by_tokens(lengths, ranks, budget, packed)


@given(lengths_and_ranks, st.integers(500, 2000))
def test_packs_are_few_and_ranks_are_balanced(case, budget):
    """Fewer packs than a rank each more would leave empty; the busiest rank has at most one
    sample's length more.
    """
    lengths, ranks = case
    cut = cut_by_tokens(lengths, ranks, budget, packed=True)
    n_packs = sum(len(micro_batches) for micro_batches in cut)
    assert n_packs < 2 * sum(lengths) / budget + ranks + 1, (
        "longest-first keeps every pack but one above half full"
    )
    loads = [sum(lengths[i] for group in micro_batches for i in group) for micro_batches in cut]
    assert max(loads) - min(loads) <= max(lengths) + max(lengths) * (n_packs // ranks - 1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("ranks", [1, 4])
def test_sample_over_the_budget_goes_alone_and_others_stay_packed(ranks, packed):
    for n_long in (1, 3):
        lengths = [500] * (64 - n_long) + [17_000] * n_long
        cut = cut_by_tokens(lengths, ranks, 16_000, packed)
        groups = [group for micro_batches in cut for group in micro_batches]
        assert sorted(i for group in groups for i in group) == list(range(64))
        assert all(len(group) == 1 for group in groups if max(group) >= 64 - n_long)
        assert len(groups) <= n_long + 2 + ranks


def test_length_groups_pad_less_than_the_order_of_the_step():
    lengths = [100, 900] * 16
    cut = cut_by_tokens(lengths, ranks=2, budget=3600, packed=False)
    padded = sum(
        len(group) * max(lengths[i] for i in group)
        for micro_batches in cut
        for group in micro_batches
    )
    assert padded == sum(lengths)
    loads = [sum(lengths[i] for group in micro_batches for i in group) for micro_batches in cut]
    assert loads[0] == pytest.approx(loads[1], rel=0.25)
