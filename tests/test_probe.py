"""The Stage-2 probe: what it trains on, what it writes, and that a kill costs no rollout."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import composed
from PIL import Image
from studies import eval_row, write_run

from coordexp.cli.main import main
from coordexp.config.compose import compose
from coordexp.config.digests import plain
from coordexp.coords import coord_token_ids, write_coordjson
from coordexp.data.batches import Dataset, step_indices
from coordexp.data.records import read_records
from coordexp.detection.probe_manifest import MissingProbe, read_probe_manifest
from coordexp.detection.probes import read_probe
from coordexp.detection.rollouts import read_rollouts
from coordexp.detection.scores import figures, score_rollouts
from coordexp.models.checkpoints import save_pretrained
from coordexp.probe import job
from coordexp.probe.finetune import batch_losses, count, fine_tune, means, objective, validate
from coordexp.probe.generation import Answer
from coordexp.probe.run import run_probe, weights_sha256
from coordexp.storage.files import sha256_directory, sha256_file
from coordexp.storage.identity import run_hash
from coordexp.storage.token_tables import in_fit_half
from coordexp.storage.typed import SEAL, write_sealed, write_typed
from coordexp.training.evaluate import evenly_spaced

SMALL = ("images=6", "steps=3", "images_per_step=5", "micro_batch=2", "rollout_batch=4", "lr=1e-3")


def settings(*overrides: str):
    return composed(*(f"probe.{override}" for override in (*SMALL, *overrides))).probe


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("candidate") / "step-000003"
    save_pretrained(copy.deepcopy(tiny.vlm).float(), tiny.processor, path)
    return path


class Truth:
    """A generator that writes the truth, in place of a model; remembers the images, and may stop as
    if killed.
    """

    def __init__(self, die_at: int | None = None) -> None:
        self.calls: list[list[int]] = []
        self.die_at = die_at

    def __call__(self, vlm, dataset: Dataset, budget: int):
        assert budget > 0
        assert not vlm.training

        def generate(image_ids: Sequence[int]) -> list[Answer]:
            self.calls.append(list(image_ids))
            if len(self.calls) == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            texts = [write_coordjson(dataset.records[i].coord_objects()) for i in image_ids]
            # One token a character, so that every object has some.
            return [
                Answer(text, True, list(range(1, len(text) + 1)), [-0.5] * len(text))
                for text in texts
            ]

        return generate


@pytest.fixture(scope="module")
def probed(checkpoint, scenes, tmp_path_factory) -> Path:
    """A finished probe, its rollouts written by the model."""
    out = tmp_path_factory.mktemp("probed")
    run_probe(checkpoint, scenes.path, out, settings())
    return out


def manifest(out: Path) -> dict:
    return json.loads((out / "probe.json").read_text())


def step_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "probe.jsonl").read_text().splitlines()]


# The losses


def by_hand(
    vlm, dataset: Dataset, image_ids: Sequence[int], temperature: float = 1.0
) -> dict[int, list[float]]:
    """L1 + 1 - GIoU of every box of each image, from the logits of one picture at a time, in plain
    numpy.
    """
    found: dict[int, list[float]] = {}
    first = next(iter(dataset.bin_of))
    for i in image_ids:
        batch = dataset.batch([i])
        with torch.no_grad():
            logits = (
                vlm(**batch.inputs)
                .logits.flatten(0, 1)[batch.rows][batch.bins >= 0]
                .double()
                .numpy()
            )
        p = np.exp(logits[:, first : first + 1000] / temperature)
        pred = (p / p.sum(1, keepdims=True)) @ np.arange(1000) / 999
        gt = batch.bins[batch.bins >= 0].numpy() / 999
        for a, b in zip(pred.reshape(-1, 4), gt.reshape(-1, 4), strict=True):
            w, h = max(0.0, a[2] - a[0]), max(0.0, a[3] - a[1])
            shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
                0.0, min(a[3], b[3]) - max(a[1], b[1])
            )
            union = w * h + (b[2] - b[0]) * (b[3] - b[1]) - shared
            width = max(a[2], b[2]) - min(a[0], b[0]) + max(0.0, a[0] - a[2])
            height = max(a[3], b[3]) - min(a[1], b[1]) + max(0.0, a[1] - a[3])
            giou = shared / union - (width * height - union) / (width * height)
            found.setdefault(i, []).append(float(np.abs(a - b).sum() + 1 - giou))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_validation_is_the_mean_over_boxes(tiny, scenes, temperature):
    val = scenes.dataset("val", tiny.processor)
    images = [7, 2, 5, 0]
    table, whole = validate(
        copy.deepcopy(tiny.vlm),
        val,
        images,
        settings("micro_batch=3"),
        temperature,
    )
    expected = by_hand(tiny.vlm, val, images, temperature)
    assert table["image_id"].tolist() == sorted(images)
    assert table["n_boxes"].tolist() == [len(expected[i]) for i in sorted(images)]
    assert table["geo_loss"].tolist() == pytest.approx(
        [np.mean(expected[i]) for i in sorted(images)], abs=1e-5
    )
    assert whole["geo_loss"] == pytest.approx(
        np.mean([loss for losses in expected.values() for loss in losses]), abs=1e-5
    )
    assert whole["geo_loss"] == pytest.approx(whole["l1"] + whole["giou_loss"], abs=1e-5)
    assert whole["geo_loss"] == pytest.approx(
        np.average(table["geo_loss"], weights=table["n_boxes"]), abs=1e-5
    )


def test_text_is_judged_by_cross_entropy(tiny, scenes):
    val = scenes.dataset("val", tiny.processor)
    batch = val.batch([1, 4])
    with torch.no_grad():
        logits = tiny.vlm(**batch.inputs).logits.flatten(0, 1)[batch.rows]
    on_text = batch.bins < 0
    expected = torch.nn.functional.cross_entropy(logits[on_text], batch.targets[on_text])
    _, whole = validate(copy.deepcopy(tiny.vlm), val, [1, 4], settings())
    assert whole["text_ce"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_does_not_depend_on_how_it_is_cut(tiny, record_file, tmp_path):
    """Boxes, polygons and empty pictures: losses and gradients of 6 images at once, in twos and one
    by one.
    """
    box, polygon = (
        ("cup", "bbox_2d", (1.0, 2.0, 30.0, 40.0)),
        ("leaf", "poly", (5.0, 3.0, 9.0, 6.0, 4.0, 9.0, 1.0, 7.0)),
    )
    path = record_file(
        tmp_path, [[box], [polygon], [], [box, polygon], [box, box], [polygon, polygon]]
    )
    dataset, cfg, grads, rows = (
        Dataset(path, tiny.processor),
        settings("l1_weight=2", "text_weight=0.5"),
        [],
        [],
    )
    for size in (6, 2, 1):
        model = copy.deepcopy(tiny.vlm)
        batches = [dataset.batch(range(i, i + size)) for i in range(0, 6, size)]
        counts = torch.stack([count(dataset, batch) for batch in batches]).sum(0)
        assert counts[:2].tolist() == [8, 4]
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in batches:
            found = batch_losses(model, batch, dataset, 1.0).sums
            objective(found, counts, cfg).backward()
            sums += found.detach()
        grads.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
        rows.append([float(objective(sums, counts, cfg)), *means(sums, counts).values()])
    for grad, row in zip(grads[1:], rows[1:], strict=True):
        assert torch.allclose(grad, grads[0], rtol=1e-6, atol=1e-9)
        assert row == pytest.approx(rows[0], rel=1e-8)
    loss, geo_loss, l1, giou_loss, text_ce = rows[0]
    assert loss == pytest.approx(2 * l1 + giou_loss + 0.5 * text_ce)
    assert geo_loss == pytest.approx(l1 + giou_loss * 4 / 8), "4 of 8 objects are boxes"


@pytest.mark.parametrize(("weights", "name"), [((3, 0, 0), "l1"), ((0, 3, 0), "giou")])
def test_only_what_has_a_weight_is_trained(tiny, scenes, weights, name):
    model, dataset = copy.deepcopy(tiny.vlm), scenes.dataset("train", tiny.processor)
    cfg = settings(
        *(f"{key}_weight={w}" for key, w in zip(("l1", "giou", "text"), weights, strict=True))
    )
    batch = dataset.batch([0, 1])
    counts, losses = count(dataset, batch), batch_losses(model, batch, dataset, 1.0)
    (gradient,) = torch.autograd.grad(
        objective(losses.sums, counts, cfg), model.lm_head.weight, retain_graph=True
    )
    (expected,) = torch.autograd.grad(3 * getattr(losses, name).mean(), model.lm_head.weight)
    assert torch.allclose(gradient, expected)


def test_the_first_step_is_a_fifth_of_the_learning_rate(tiny, scenes, tmp_path):
    """AdamW's first step moves each weight by its learning rate: here the first of five steps of
    warm-up.
    """
    model = copy.deepcopy(tiny.vlm)
    fine_tune(
        model,
        scenes.dataset("train", tiny.processor),
        settings("steps=1", "lr=1e-2"),
        tmp_path / "log",
    )
    moved = max(
        (now - then).abs().max()
        for now, then in zip(model.parameters(), tiny.vlm.parameters(), strict=True)
    )
    assert moved.item() == pytest.approx(1e-2 / 5, rel=1e-3)


def test_each_step_has_its_own_gradient(tiny, scenes, tmp_path):
    """The norm logged at step 2 is that of a fresh gradient, on step 2's images, at the weights
    after step 1.
    """
    train, cfg = scenes.dataset("train", tiny.processor), settings("steps=1")
    rows, _ = fine_tune(copy.deepcopy(tiny.vlm), train, settings("steps=2"), tmp_path / "log")
    model = copy.deepcopy(tiny.vlm)
    fine_tune(model, train, cfg, tmp_path / "log")
    batch = train.batch(step_indices(12, 5, 0, 2).tolist())
    model.zero_grad()
    objective(batch_losses(model, batch, train, 1.0).sums, count(train, batch), cfg).backward()
    squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    assert rows[1]["grad_norm"] == pytest.approx(squares**0.5, rel=1e-6)


@pytest.mark.parametrize("more", [(), ("adapter_rank=2", "gradient_checkpointing=true")])
def test_dropout_is_off(tiny, scenes, tmp_path, more):
    train, rows, cfg = scenes.dataset("train", tiny.processor), [], settings(*more)
    for dropout in (0.0, 0.5):
        model = copy.deepcopy(tiny.vlm).train()
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout
        rows.append(
            (
                fine_tune(model, train, cfg, tmp_path / "log"),
                validate(model.train(), train, [1, 2], cfg)[1],
            )
        )
    assert rows[0] == rows[1]


def test_the_fine_tune_learns(tiny, scenes, tmp_path):
    """The same four pictures over and over: both terms and the text fall."""
    model, train = copy.deepcopy(tiny.vlm), scenes.dataset("train", tiny.processor)
    train.records = train.records[:4]
    rows, reason = fine_tune(
        model,
        train,
        settings("steps=25", "images_per_step=4", "micro_batch=4", "lr=5e-3"),
        tmp_path / "log",
    )
    assert reason is None
    for name in ("l1", "giou_loss", "geo_loss", "text_ce", "loss"):
        assert np.mean([row[name] for row in rows[-3:]]) < 0.9 * rows[0][name]


def test_only_adapters_are_trained_and_then_merged(tiny, scenes, tmp_path):
    """Four pictures over and over.

    The model that comes back is plain, and the one whose losses were logged.
    """
    model, train = copy.deepcopy(tiny.vlm), scenes.dataset("train", tiny.processor)
    train.records = train.records[:4]
    cfg = settings("adapter_rank=4", "steps=25", "images_per_step=4", "micro_batch=4", "lr=2e-2")
    rows, reason = fine_tune(model, train, cfg, tmp_path / "log")
    assert reason is None
    assert np.mean([row["geo_loss"] for row in rows[-3:]]) < 0.9 * rows[0]["geo_loss"]
    before, after = tiny.vlm.state_dict(), model.state_dict()
    assert set(after) == set(before)
    linear = {
        f"{name}.weight"
        for name, module in tiny.vlm.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Is added behind the fixture's only text layer: no gradient.
    unseen = {name for name in linear if "deepstack" in name}
    assert changed == linear - unseen | {"model.language_model.embed_tokens.weight"}
    moved = (before["lm_head.weight"] != after["lm_head.weight"]).any(1).nonzero()[:, 0]
    assert moved.tolist() == coord_token_ids(tiny.processor.tokenizer)

    cfg = settings("adapter_rank=4", "steps=26", "images_per_step=4", "micro_batch=4", "lr=2e-2")
    longer, _ = fine_tune(copy.deepcopy(tiny.vlm), train, cfg, tmp_path / "log")
    _, whole = validate(model, train, [0, 1, 2, 3], cfg)
    assert whole["geo_loss"] == pytest.approx(longer[25]["geo_loss"], rel=1e-6), (
        "step 26 starts where 25 steps end"
    )


@pytest.mark.parametrize("rank", [0, 4])
def test_checkpointing_reruns_layers_and_gives_equal_results(tiny, scenes, tmp_path, rank):
    train, found, calls = scenes.dataset("train", tiny.processor), [], []
    for checkpointing in (False, True):
        model, n_calls = copy.deepcopy(tiny.vlm), []
        model.model.language_model.layers[0].mlp.act_fn.register_forward_hook(
            lambda *_, n_calls=n_calls: n_calls.append(1)
        )
        cfg = settings(f"adapter_rank={rank}", f"gradient_checkpointing={checkpointing}")
        rows, _ = fine_tune(model, train, cfg, tmp_path / "log")
        found.append((rows, weights_sha256(model)))
        assert not any(module.training for module in model.modules()), "answers need their cache"
        calls.append(len(n_calls))
    assert found[0] == found[1]
    assert calls[1] == 2 * calls[0]


def test_steps_take_the_images_of_seed_and_step_alone(tiny, scenes, tmp_path):
    train, seen = scenes.dataset("train", tiny.processor), []
    batch = train.batch
    train.batch = lambda indices: seen.append(list(indices)) or batch(indices)
    fine_tune(copy.deepcopy(tiny.vlm), train, settings("seed=3"), tmp_path / "log")
    expected = [step_indices(12, 5, 3, step).tolist() for step in (1, 2, 3)]
    assert seen == [part for step in expected for part in (step[:2], step[2:4], step[4:])]


# The directory


def test_what_a_probe_leaves(probed, checkpoint, scenes, tiny):
    found, table, rows = (
        manifest(probed),
        pd.read_parquet(probed / "images.parquet"),
        step_rows(probed),
    )
    records = read_records(scenes.path / "val.jsonl")
    images = evenly_spaced(9, 6).tolist()
    assert found["status"] == "complete"
    assert found["reason"] is None
    assert found["checkpoint_sha256"] == sha256_directory(checkpoint)
    assert found["data_sha256"] == {
        split: sha256_file(scenes.path / f"{split}.jsonl") for split in ("train", "val")
    }
    assert found["settings"]["lr"] == 1e-3
    assert found["images"] == 6
    assert found["boxes"] == sum(len(records[i].objects) for i in images) == table["n_boxes"].sum()
    parts = [
        "load",
        "rollouts_before",
        "validation_before",
        "validation_swapped",
        "rollouts_swapped",
        "fine_tune",
        "validation_after",
        "rollouts_after",
    ]
    assert list(found["wall_s"]) == parts
    of_losses = ["image_id", "n_boxes", "geo_loss_before", "geo_loss_after"]
    of_pictures = ["swapped_with", "n_coord", "mae_right", "mae_swapped"]
    assert list(table.columns) == of_losses + of_pictures
    assert table["image_id"].tolist() == images
    for when in ("before", "after"):
        assert np.average(table[f"geo_loss_{when}"], weights=table["n_boxes"]) == pytest.approx(
            found[when]["geo_loss"], abs=1e-5
        )
        written = read_rollouts(sorted((probed / when).glob("rollouts-*.jsonl")))
        assert [rollout.image_id for rollout in written] == images
        assert score_rollouts(written, records).images.tolist() == images
    val = scenes.dataset("val", tiny.processor)
    expected = by_hand(copy.deepcopy(tiny.vlm).float(), val, images)
    assert table["geo_loss_before"].tolist() == pytest.approx(
        [np.mean(expected[i]) for i in images], abs=1e-4
    )
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {"loss", "l1", "giou_loss", "geo_loss", "text_ce", "grad_norm"} < set(rows[0])
    slope = (
        np.polynomial.Polynomial.fit([0, 1, 2], [row["geo_loss"] for row in rows], 1)
        .convert()
        .coef[1]
    )
    assert found["geo_loss_slope_per_step"] == pytest.approx(slope)
    assert found["before"] != found["after"]


def test_exchanged_pictures_are_those_of_other_images(probed, scenes, tiny):
    """The errors with another picture, from the logits of one picture at a time, in plain numpy."""
    table, found = pd.read_parquet(probed / "images.parquet"), manifest(probed)["swapped"]
    images, val = table["image_id"].tolist(), scenes.dataset("val", tiny.processor)
    first, model = next(iter(val.bin_of)), copy.deepcopy(tiny.vlm).float()
    assert table["swapped_with"].tolist() == images[3:] + images[:3]
    assert found["without_partner"] == 0
    assert found["images"] == found["rolled_out"] == 6
    for row in table.itertuples():
        temperature = found["temperatures"][0 if in_fit_half(row.image_id) else 1]
        other = val.batch([row.swapped_with]).inputs["pixel_values"]
        for picture, mae in ((None, row.mae_right), (other, row.mae_swapped)):
            batch = val.batch([row.image_id])
            inputs = batch.inputs if picture is None else {**batch.inputs, "pixel_values": picture}
            with torch.no_grad():
                logits = model(**inputs).logits.flatten(0, 1)[batch.rows][batch.bins >= 0]
            p = (logits[:, first : first + 1000].double() / temperature).softmax(-1).numpy()
            gt = batch.bins[batch.bins >= 0].numpy()
            assert mae == pytest.approx(np.abs(p @ np.arange(1000) - gt).mean(), abs=1e-2)
            assert row.n_coord == len(gt)
    assert (table["mae_right"] != table["mae_swapped"]).all()
    for name in ("mae_right", "mae_swapped"):
        whole = np.average(table[name], weights=table["n_coord"])
        assert found[name] == pytest.approx(whole)


def test_swapped_rollouts_see_the_other_picture(probed, scenes):
    """The model's own answers to the other pictures, scored against the image's own truth."""
    table = pd.read_parquet(probed / "images.parquet")
    written = read_rollouts((probed / "swapped").glob("rollouts-*.jsonl"))
    before = read_rollouts((probed / "before").glob("rollouts-*.jsonl"))
    text = {rollout.image_id: rollout.text for rollout in before}
    for rollout, other in zip(written, table["swapped_with"], strict=True):
        assert rollout.text == text[other], "the prompt is the same, so the picture decides"
    found = read_probe(probed).figures()
    records = read_records(scenes.path / "val.jsonl")
    for name, rollouts in (("f1_50_right", before), ("f1_50_swapped", written)):
        assert found[name] == figures(score_rollouts(rollouts, records))["f1_50_agnostic"]
    assert found["visual_contribution"] == pytest.approx(found["mae_swapped"] - found["mae_right"])


def test_images_without_a_partner_are_left_out(checkpoint, scenes, tmp_path):
    """Of three images, two have one size: the third is counted and has no errors."""
    data = Path(shutil.copytree(scenes.path, tmp_path / "data"))
    lines = (data / "val.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:3]]
    Image.new("RGB", (64, 96), "grey").save(data / "tall.png")
    rows[1] |= {"images": ["tall.png"], "height": 96}
    for n, expected in ((3, [rows[2], None, rows[0]]), (2, [None, None])):
        (data / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:n]))
        run_probe(checkpoint, data, tmp_path / "out", settings("steps=1"), generator=Truth())
        table = pd.read_parquet(tmp_path / "out" / "images.parquet")
        partners = [None if row is None else rows.index(row) for row in expected]
        shown = [None if pd.isna(i) else int(i) for i in table["swapped_with"]]
        assert shown == partners
        assert (table["n_coord"] > 0).tolist() == [p is not None for p in partners]
        assert table["mae_swapped"].isna().tolist() == [p is None for p in partners]
        found, probe = manifest(tmp_path / "out")["swapped"], read_probe(tmp_path / "out")
        if n == 3:
            assert (found["images"], found["without_partner"]) == (2, 1)
            assert probe.figures()["mae_right"] == pytest.approx(found["mae_right"])
        else:
            assert found is probe.swapped is None
            assert not (tmp_path / "out" / "swapped").exists(), "nothing of other records stays"


def test_two_probes_are_the_same_bit_for_bit(probed, checkpoint, scenes, tmp_path):
    run_probe(checkpoint, scenes.path, tmp_path, settings())
    for name in (
        "probe.jsonl",
        "images.parquet",
        "before/rollouts-0-of-1.jsonl",
        "swapped/rollouts-0-of-1.jsonl",
        "after/rollouts-0-of-1.jsonl",
    ):
        assert (tmp_path / name).read_bytes() == (probed / name).read_bytes(), name
    assert manifest(tmp_path)["after_sha256"] == manifest(probed)["after_sha256"]
    assert manifest(tmp_path)["artifacts"] == manifest(probed)["artifacts"]


def test_the_checkpoint_stays_as_it_is(probed, checkpoint):
    assert manifest(probed)["checkpoint_sha256"] == sha256_directory(checkpoint)
    assert not [
        path for path in probed.rglob("*") if path.suffix in (".safetensors", ".pt", ".tmp")
    ]


def test_a_perfect_generator_scores_perfectly(checkpoint, scenes, tmp_path):
    run_probe(checkpoint, scenes.path, tmp_path, settings("steps=1"), generator=Truth())
    records = read_records(scenes.path / "val.jsonl")
    for when in ("before", "after"):
        found = figures(
            score_rollouts(read_rollouts((tmp_path / when).glob("rollouts-*.jsonl")), records)
        )
        assert (
            found["parse_rate"]
            == found["f1"]
            == found["count_ratio"]
            == found["mean_matched_iou"]
            == 1.0
        )
    assert manifest(tmp_path)["geo_loss_slope_per_step"] is None, "no slope through one point"


def test_a_killed_probe_repeats_no_rollout(checkpoint, scenes, tmp_path):
    """Of six batches, two each before, swapped and after, it is killed in the second; then in the
    fourth, the second of the swapped ones.
    """
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "probe.json").write_text("{}")  # of an earlier probe
    for die_at in (2, 3):
        pid = os.fork()
        if pid == 0:
            try:
                run_probe(
                    checkpoint, scenes.path, tmp_path / "cut", settings(), generator=Truth(die_at)
                )
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        assert not (tmp_path / "cut" / "probe.json").exists()
    whole, rest = Truth(), Truth()
    run_probe(checkpoint, scenes.path, tmp_path / "whole", settings(), generator=whole)
    run_probe(checkpoint, scenes.path, tmp_path / "cut", settings(), generator=rest)
    assert len(whole.calls) == 6
    assert rest.calls == whole.calls[3:]
    assert manifest(tmp_path / "cut")["artifacts"] == manifest(tmp_path / "whole")["artifacts"]


def test_a_finished_probe_is_left_as_it_is(probed, checkpoint, scenes, tmp_path):
    out = Path(shutil.copytree(probed, tmp_path / "copy"))
    os.utime(out / "probe.json", (1, 1))
    generator = Truth()
    run_probe(checkpoint, scenes.path, out, settings(), generator=generator)
    assert generator.calls == []
    assert (out / "probe.json").stat().st_mtime > 1, (
        "touched, so that a workflow sees a fresh output"
    )
    assert (out / "probe.json").read_bytes() == (probed / "probe.json").read_bytes()


@pytest.mark.parametrize("change", ["settings", "artifact", "data"])
def test_a_probe_of_something_else_is_made_again(probed, checkpoint, scenes, tmp_path, change):
    out, data, cfg = Path(shutil.copytree(probed, tmp_path / "copy")), scenes.path, settings()
    if change == "settings":
        cfg = settings("lr=2e-3")
    elif change == "artifact":
        (out / "images.parquet").unlink()
    else:
        data = Path(shutil.copytree(scenes.path, tmp_path / "data"))
        lines = (data / "train.jsonl").read_bytes().splitlines(keepends=True)
        (data / "train.jsonl").write_bytes(b"".join(lines[1:]))
    generator = Truth()
    run_probe(checkpoint, data, out, cfg, generator=generator)
    assert manifest(out)["artifacts"].keys() == manifest(probed)["artifacts"].keys()
    assert (out / "images.parquet").exists()
    same_weights = manifest(out)["after_sha256"] == manifest(probed)["after_sha256"]
    assert same_weights == (change == "artifact")
    assert len(generator.calls) == (0 if same_weights else 2), "rollouts of the same weights stand"
    assert manifest(out)["swapped"] == manifest(probed)["swapped"]
    assert manifest(out)["before"] == manifest(probed)["before"]


def test_a_probe_that_diverges_says_so(checkpoint, scenes, tmp_path):
    run_probe(checkpoint, scenes.path, tmp_path, settings(), generator=Truth())
    run_probe(checkpoint, scenes.path, tmp_path, settings("lr=1e30"), generator=Truth())
    found, table = manifest(tmp_path), pd.read_parquet(tmp_path / "images.parquet")
    assert found["status"] == "diverged"
    assert "not finite" in found["reason"]
    assert found["after"] is None
    assert table["geo_loss_after"].isna().all()
    assert table["geo_loss_before"].notna().all()
    assert not (tmp_path / "after").exists(), "nothing of other settings stays"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{}", "status"),
        ("[]", "object"),
        ("null", "object"),
        ("{", "JSON"),
        ('{"status": "no checkpoint"}', "reason"),
        ('{"status": "complete", "checkpoint": "c"}', "records"),
        ('{"status": "done"}', "$.status"),
    ],
)
def test_damaged_probe_json_costs_one_line(tmp_path, refused, content, word):
    (tmp_path / "probe.json").write_text(content)
    with refused(str(tmp_path / "probe.json"), word):
        read_probe(tmp_path)


def test_each_missing_key_of_probe_json_is_named(probed, tmp_path, refused):
    whole = manifest(probed)
    for key in whole.keys() - {SEAL}:
        rest = {name: value for name, value in whole.items() if name != key}
        write_sealed(tmp_path / "probe.json", rest)
        with refused(str(tmp_path / "probe.json"), f"`{key}`"):
            read_probe_manifest(tmp_path / "probe.json")


def test_probe_without_a_checkpoint_reads_as_none(tmp_path):
    path = tmp_path / "probe.json"
    missing = MissingProbe("no checkpoint", "diverged at step 3", plain(settings()))
    write_typed(path, missing)
    assert list(json.loads(path.read_text())) == ["status", "reason", "settings", SEAL]
    assert read_probe_manifest(path) == missing
    assert read_probe(tmp_path) is None


def test_probe_json_stays_equal_when_read_and_written(probed, tmp_path):
    write_typed(tmp_path / "probe.json", read_probe_manifest(probed / "probe.json"))
    assert (tmp_path / "probe.json").read_bytes() == (probed / "probe.json").read_bytes()


def test_a_run_directory_stands_for_its_last_checkpoint(checkpoint, scenes, tmp_path, refused):
    run = tmp_path / "run" / "s0-12345678"
    shutil.copytree(checkpoint, run / "checkpoints" / "step-000080")
    shutil.copytree(checkpoint, run / "checkpoints" / "step-000720")
    run_probe(run, scenes.path, tmp_path / "out", settings("steps=1"), generator=Truth())
    assert manifest(tmp_path / "out")["checkpoint"] == str(run / "checkpoints" / "step-000720")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "missing"):
        with refused(nothing.name, "checkpoint"):
            run_probe(nothing, scenes.path, tmp_path / "other", settings())


# The settings


def test_the_probe_is_no_part_of_a_runs_identity():
    assert run_hash(compose(["probe.lr=1", "probe.steps=7"])) == run_hash(compose())


IMPOSSIBLE = {
    "0": (
        "steps",
        "images",
        "images_per_step",
        "micro_batch",
        "rollout_batch",
        "lr",
        "temperature",
    ),
    "-1": ("adapter_rank", "l1_weight", "giou_weight", "text_weight", "seed"),
    "nan": ("lr", "temperature", "giou_weight"),
}


@pytest.mark.parametrize(
    "override", [f"{key}={value}" for value, keys in IMPOSSIBLE.items() for key in keys]
)
def test_impossible_settings_are_refused(override, refused):
    with refused(f"probe.{override.split('=')[0]}"):
        compose([f"probe.{override}"])


def test_a_probe_without_geometry_is_refused(refused):
    with refused("probe.l1_weight=0"):
        compose(["probe.l1_weight=0", "probe.giou_weight=0"])


def test_weights_are_told_apart(tiny):
    model = copy.deepcopy(tiny.vlm)
    before = weights_sha256(model)
    assert weights_sha256(copy.deepcopy(tiny.vlm)) == before
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-9
    assert weights_sha256(model) != before


@pytest.mark.usefixtures("in_tmp")
def test_probe_by_hand_takes_the_runs_recipe_or_the_named_one(monkeypatch):
    run = write_run(
        "mixed",
        eval_row(24.0, 55, 0.2, 0.15, 39, 4.0),
        overrides=("probe.steps=7", "probe.adapter_rank=3"),
    )
    asked = []
    monkeypatch.setattr(
        job, "probe_run", lambda _run, _step, cfg, _missing: asked.append(plain(cfg.probe))
    )
    for overrides in (
        (),
        ("probe.steps=9", "train.eval_micro_batch=2"),
        ("experiment=smoke", "variant=mixed"),
    ):
        main(["probe", str(run.path), *overrides])
    own = plain(compose(["probe.steps=7", "probe.adapter_rank=3"]).probe)
    assert asked == [own, own | {"steps": 9}, plain(compose(["experiment=smoke"]).probe)]


@pytest.mark.usefixtures("in_tmp")
def test_probe_by_hand_of_a_step_that_was_not_kept_is_refused():
    run = write_run("mixed", eval_row(24.0, 55, 0.2, 0.15, 39, 4.0))
    with pytest.raises(SystemExit, match=r"no checkpoint was kept at step 7 .*kept are \d+$"):
        main(["probe", str(run.path), "--step", "7"])
    assert not (run.path / "stage2").exists()
    main(["probe", str(run.path), "--step", "7", "--allow-missing"])
    (written,) = run.path.glob("stage2/*/probe.json")
    assert json.loads(written.read_text())["status"] == "no checkpoint"
