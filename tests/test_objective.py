"""A variant's loss and gradient, which do not depend on micro-batches and ranks."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import re
import socket
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VARIANTS
from planted import FAULTS
from test_preflight import NAMED
from two_ranks import gradient, one_step, run_rank, training

from coordexp.config.schema import TokenGroups
from coordexp.data.batches import Batch, Dataset
from coordexp.losses import fused, reference
from coordexp.losses.terms import SUMS, loss_values, term_weights
from coordexp.training.evaluate import evaluate
from coordexp.training.setup import report_memory
from coordexp.training.step import count_tokens, load_window, optimizer_step, train_row

CUTS = {"1x8": [8], "2x4": [4, 4], "8x1": [1] * 8, "3+5": [3, 5], "5+3": [5, 3]}


def cut(dataset: Dataset, sizes: list[int]) -> list[Batch]:
    ends = np.cumsum([0, *sizes])
    return [dataset.batch(range(a, b)) for a, b in itertools.pairwise(ends)]


def counts(*batches: Batch) -> torch.Tensor:
    """Text and coordinate tokens of these batches  # [2]"""
    return torch.tensor([[b.n_text, b.n_coord] for b in batches], dtype=torch.float64).sum(0)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def test_the_test_window_is_uneven_and_padded(tiny, scenes):
    dataset = scenes.dataset("train", tiny.processor)
    n_coord = [dataset.batch([i]).n_coord for i in range(8)]
    assert set(n_coord) == {4, 8, 12}
    assert not dataset.batch(range(8)).inputs["attention_mask"].all()


def test_pure_ce_equals_the_models_own_loss(tiny, scenes):
    batch = scenes.dataset("val", tiny.processor).batch(range(5))
    labels = torch.full_like(batch.inputs["input_ids"], -100)
    labels.view(-1)[batch.rows + 1] = batch.targets
    own = tiny.vlm(**batch.inputs, labels=labels).loss
    assert own.dtype == torch.float32, "transformers computes it in float32, hence 1e-6 below"
    found = tiny.stage1("pure_ce")(batch, counts(batch)).loss
    assert found.item() == pytest.approx(own.item(), rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_equals_the_formula_on_full_logits(tiny, scenes, variant):
    batch, model = scenes.dataset("val", tiny.processor).batch(range(3)), tiny.stage1(variant)
    logits = tiny.vlm(**batch.inputs).logits.double().flatten(0, 1)[batch.rows]
    on_coord, v = batch.bins >= 0, model.variant
    ce, bins = reference.token_ce(logits, batch.targets), batch.bins[on_coord]
    if v.token_groups is TokenGroups.joint:
        expected = ce.mean()
    else:
        z, s = logits[on_coord], logits[on_coord][:, model.coord_ids]
        q = reference.soft_target(bins, v.sigma_bins, v.radius_bins, torch.float64)
        terms = v.soft_ce * reference.soft_ce(s, q, v.temperature)
        terms = terms + v.w1 * reference.w1(s, q, v.temperature)
        terms = terms + v.gate * reference.gate(z, s, v.temperature)
        terms = terms + v.ce * reference.slice_ce(s, bins)
        expected = ce[~on_coord].mean() + terms.mean()
    assert model(batch, counts(batch)).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_log_rows_terms_add_up_to_its_loss(tiny, scenes, variant):
    window, model = cut(scenes.dataset("train", tiny.processor), [3, 5]), tiny.stage1(variant)
    outputs = [model(batch, counts(*window)) for batch in window]
    row = loss_values(sum(output.sums for output in outputs), model.variant)
    assert row["loss"] == pytest.approx(sum(output.loss.item() for output in outputs), rel=1e-12)
    terms = {
        key: value
        for key, value in row.items()
        if key.startswith("coord_softce_w1/") and not key.endswith("/loss")
    }
    if variant == "pure_ce":
        assert not terms
        assert row["base_ce/loss"] == row["loss"] != row["text_ce/loss"]
    else:
        assert row["base_ce/loss"] == row["text_ce/loss"]
        assert row["loss"] == pytest.approx(
            row["text_ce/loss"] + row["coord_softce_w1/loss"], rel=1e-12
        )
        assert row["coord_softce_w1/loss"] == pytest.approx(sum(terms.values()), rel=1e-12)
        assert {key.split("/")[1] for key in terms} == set(term_weights(model.variant))


def test_text_cross_entropy_is_equal_in_every_variant(tiny, scenes):
    batch = scenes.dataset("val", tiny.processor).batch(range(4))
    rows = [
        loss_values(m(batch, counts(batch)).sums, m.variant) for m in map(tiny.stage1, VARIANTS)
    ]
    assert len({round(row["text_ce/loss"], 12) for row in rows}) == 1


def test_ce_split_equals_pure_ce_on_coordinates(tiny, scenes):
    batch = scenes.dataset("val", tiny.processor).batch(range(4))
    only = batch.supervised_at(batch.bins >= 0)
    losses = [tiny.stage1(name)(only, counts(only)).loss.item() for name in ("pure_ce", "ce_split")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_equals_finite_differences(tiny, scenes, variant):
    batch, model = scenes.dataset("train", tiny.processor).batch(range(2)), tiny.stage1(variant)
    model.zero_grad()
    model(batch, counts(batch)).loss.backward()
    rng = np.random.default_rng(0)
    tested = 0
    chosen = re.compile(
        "embed_tokens|q_proj|norm.weight|patch_embed.proj.weight|merger.linear_fc2.weight"
    )
    for name, parameter in model.named_parameters():
        if not chosen.search(name):
            continue
        # One of the twenty entries with the largest gradients.
        flat, gradients = parameter.data.view(-1), parameter.grad.view(-1)
        largest = gradients.abs().topk(min(20, len(flat))).indices
        i = int(largest[int(rng.integers(len(largest)))])
        old, losses = float(flat[i]), []
        for step in (1e-6, -1e-6):
            flat[i] = old + step
            with torch.no_grad():
                losses.append(float(model(batch, counts(batch)).loss))
        flat[i] = old
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx(float(gradients[i]), rel=1e-5, abs=1e-8), name
        tested += 1
    model.zero_grad()
    assert tested >= 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_does_not_depend_on_micro_batches(tiny, scenes, variant):
    t = training(tiny, scenes, variant)
    whole = gradient(t, cut(t.train, CUTS["1x8"]))
    assert torch.isfinite(whole).all()
    assert whole.abs().max() > 0
    for name, sizes in CUTS.items():
        t.progress.reset_window()
        assert relative(gradient(t, cut(t.train, sizes)), whole) < 1e-10, name
        assert [
            int(t.progress.window_sums[SUMS.index(n)]) for n in ("n_text", "n_coord")
        ] == counts(*cut(t.train, [8])).tolist()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_does_not_depend_on_a_token_budget(tiny, scenes, variant, packed, monkeypatch):
    """The trainer's own windows, cut by images and by tokens."""
    monkeypatch.setattr("coordexp.training.step.takes_packs", lambda _: packed)
    by_images = training(tiny, scenes, variant, "train.micro_batch=8")
    by_tokens = training(tiny, scenes, variant, "train.micro_batch_tokens=150")
    windows = [load_window(t, step=3) for t in (by_images, by_tokens)]
    assert [len(window) for window in windows] == [1, len(windows[1])]
    assert len(windows[1]) > 2
    assert ("position_ids" in windows[1][0].inputs) == packed
    whole, cut_up = (
        gradient(t, window) for t, window in zip((by_images, by_tokens), windows, strict=True)
    )
    assert relative(cut_up, whole) < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["no coordinates", "no text", "nothing"])
def test_an_empty_token_group_adds_nothing(tiny, scenes, variant, kind):
    t = training(tiny, scenes, variant)
    whole = cut(t.train, [3, 5])
    keep = {
        "no coordinates": lambda b: b.bins < 0,
        "no text": lambda b: b.bins >= 0,
        "nothing": lambda b: b.bins < -1,
    }[kind]
    window = [batch.supervised_at(keep(batch)) for batch in whole]
    assert count_tokens(t, window).tolist() == counts(*window).tolist()
    losses = [t.model(batch, count_tokens(t, window)).loss for batch in window]
    found = gradient(t, window)
    assert torch.isfinite(torch.stack(losses)).all()
    assert torch.isfinite(found).all()
    row = loss_values(t.progress.window_sums, t.model.variant)
    assert all(np.isfinite(list(row.values())))
    assert row["loss"] == pytest.approx(sum(losses).item(), rel=1e-12)
    if kind == "nothing":
        assert sum(losses).item() == 0
        assert found.abs().max() == 0
    if kind == "no coordinates":
        assert row["loss"] == row["text_ce/loss"] > 0
    if kind == "no text":
        assert row["text_ce/loss"] == 0 < row["loss"]


def test_images_without_objects_keep_the_gradient(tiny, scenes, record_file, tmp_path):
    box = ("cup", "bbox_2d", (1.0, 2.0, 30.0, 40.0))
    dataset = Dataset(record_file(tmp_path, [[], [box], [], [box, box]]), tiny.processor)
    for variant in VARIANTS:
        t = training(tiny, scenes, variant)
        found = [gradient(t, cut(dataset, sizes)) for sizes in ([4], [1, 1, 1, 1], [1, 3])]
        assert relative(found[1], found[0]) < 1e-10
        assert relative(found[2], found[0]) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_and_reference_train_along_the_same_curve(tiny, scenes, variant):
    """In float32, through the trainer's own steps: rounding stays five digits below the loss."""
    curves = []
    for objective in (fused.objective, reference.objective):
        t = training(
            replace(tiny, vlm=copy.deepcopy(tiny.vlm).float()),
            scenes,
            variant,
            "train.max_steps=25",
            "train.micro_batch=4",
        )
        t.model.objective = objective
        losses = []
        for step in range(1, 26):
            optimizer_step(t, load_window(t, step), step)
            losses.append(train_row(t)["loss"])
            t.progress.reset_window()
        curves.append(losses)
    assert curves[0][-1] < 0.9 * curves[0][0], "the model learns something"
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_a_record_longer_than_the_token_budget_is_reported(tiny, scenes, capsys):
    told = []
    for budget in (0, 10_000, 50):
        report_memory(training(tiny, scenes, "mixed", f"train.micro_batch_tokens={budget}"))
        told.append(capsys.readouterr().out.splitlines())
    dataset = scenes.dataset("train", tiny.processor)
    longest = max(len(dataset.encode(i).ids) for i in range(len(dataset)))
    assert [len(lines) for lines in told] == [1, 1, 2]
    assert told[2][0].startswith(
        f"a record of {longest} tokens is longer than train.micro_batch_tokens=50: "
    )
    assert all(lines[-1].startswith("memory a process: about ") for lines in told)


@pytest.fixture(scope="module")
def two(tiny, scenes, tmp_path_factory):
    """The directory and the results of two gloo ranks, by variant; rank 0 writes them.

    The ranks are forks of this process, which has torch imported and the model built.
    """
    out = tmp_path_factory.mktemp("two") / "found.pt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=run_rank, args=(rank, port, tiny, scenes, out), daemon=True)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return out.parent, torch.load(out, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_give_the_results_of_one(tiny, scenes, two, variant, tmp_path):
    directory, found = two[0], two[1][variant]
    t = training(tiny, scenes, variant, "train.micro_batch=8")
    one = one_step(t)
    assert relative(found["gradient"], one["gradient"]) < 1e-10
    timing = {
        "tokens_per_s",
        "time_unix_s",
        "accum/grad_steps",
        "coord_diag/expected_bin_abs_err_p90",
    }
    assert {k: found["row"][k] for k in one["row"] if k not in timing} == pytest.approx(
        {k: v for k, v in one["row"].items() if k not in timing}, rel=1e-5
    )
    assert found["row"]["loss"] == pytest.approx(one["row"]["loss"], rel=1e-10)
    row = evaluate(t.model, t.val, 9, t.accelerator, tmp_path / "one.parquet")
    assert {k: v for k, v in found["eval_row"].items() if k != "runtime_s"} == pytest.approx(
        {k: v for k, v in row.items() if k != "runtime_s"}, rel=1e-4
    )
    tables = [
        pd.read_parquet(path)
        for path in (directory / f"{variant}.parquet", tmp_path / "one.parquet")
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("fact", ["tokens_seen", "supervised_seen"])
def test_two_ranks_count_the_tokens_of_one(tiny, scenes, two, fact):
    t = training(tiny, scenes, "mixed")
    assert two[1]["mixed"]["facts"][fact] == one_step(t)["facts"][fact] > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preflight_of_two_ranks_agrees_and_names_faults(two, dtype):
    found = {fault: ranks for (of, fault), ranks in two[1]["preflight"].items() if of == dtype}
    clean = found.pop("")
    assert clean[0] == clean[1]
    assert clean[0]["cut"]["micro_batches"] == [2, 4]
    assert found.keys() == FAULTS.keys()
    for fault, ranks in found.items():
        assert ranks[0] == ranks[1], "every rank stops, with the same line"
        assert ranks[0].startswith("pre-flight: ")
        assert NAMED[fault][-1] in ranks[0], ranks[0]


@pytest.mark.slow
def test_two_ranks_train_bit_equal_after_a_preflight(two):
    with_one, without = two[1]["trained"]
    assert all(map(torch.equal, with_one, without))
