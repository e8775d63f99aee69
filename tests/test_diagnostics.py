"""Coordinate metrics against plain loops, and against the token table they can be computed from."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st
from two_ranks import gradient, training

from coordexp.config.schema import TokenGroups, VariantConfig
from coordexp.coords import BOX_SLOTS, N_BINS, pixel_to_bin
from coordexp.data.batches import Dataset
from coordexp.losses.diagnostics import (
    FIT_RANGE,
    columns_and_scores,
    coord_mass,
    distribution_columns,
    fit_temperature,
    proper_scores,
)
from coordexp.storage.token_tables import in_fit_half
from coordexp.training.evaluate import abs_err, add_distributions, evaluate
from coordexp.training.step import train_row

COLUMNS = {
    *("image_id", "object_index", "slot", "box_area_px", "fit_half"),
    *("gt_bin", "argmax_bin", "hit", "coord_mass"),
    *("expected_bin_t1", "expected_bin_own", "expected_bin_fitted"),
    *("w1_to_delta_t1", "w1_to_delta_own", "w1_to_delta_fitted"),
    *("p_gt_t1", "p_gt_own", "p_gt_fitted"),
    *("entropy_t1", "entropy_own", "entropy_fitted"),
    *("nll_t1", "nll_own", "nll_fitted"),
    *("crps_t1", "crps_own", "crps_fitted"),
}


def variant(temperature: float = 1.0) -> VariantConfig:
    """A variant trained at this temperature."""
    return VariantConfig("pure_ce", TokenGroups.joint, temperature=temperature)


def logits_of(seed: int, rows: int, spread: float, width: int = N_BINS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) * spread


def by_hand(logits: list[float], t: int, temperature: float) -> dict[str, float]:
    """The metrics of one token, as they are defined."""
    top = max(logits)
    weights = [math.exp((v - top) / temperature) for v in logits]
    total = math.fsum(weights)
    p = [w / total for w in weights]
    return {
        "expected_bin": math.fsum(k * p[k] for k in range(N_BINS)),
        "w1_to_delta": math.fsum(abs(k - t) * p[k] for k in range(N_BINS)),
        "p_gt": p[t],
        "entropy": -math.fsum(x * math.log(x) for x in p if x > 0),
        "nll": math.log(total) - (logits[t] - top) / temperature,
        "crps": math.fsum((math.fsum(p[: k + 1]) - (k >= t)) ** 2 for k in range(N_BINS)),
    }


def quantile_by_hand(values: list[float], q: float) -> float:
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


@settings(max_examples=30)
@given(
    st.integers(0, 2**31),
    st.floats(0.01, 30),
    st.floats(0.1, 5),
    st.lists(st.integers(0, 999), min_size=1, max_size=3),
)
def test_columns_equal_their_definitions(seed, spread, temperature, bins):
    logits = logits_of(seed, len(bins), spread).float()
    found = distribution_columns(logits, torch.tensor(bins), temperature)
    for i, t in enumerate(bins):
        expected = by_hand(logits[i].tolist(), t, temperature)
        for name, values in found.items():
            assert float(values[i]) == pytest.approx(
                expected[name], rel=2e-4, abs=2e-3 if name != "p_gt" else 1e-6
            ), name


def test_columns_of_a_point_mass():
    logits = torch.full((2, N_BINS), -1e4)
    logits[0, 10] = logits[1, 999] = 0
    found = distribution_columns(logits, torch.tensor([10, 0]), 0.7)
    expected = {
        "expected_bin": [10, 999],
        "w1_to_delta": [0, 999],
        "p_gt": [1, 0],
        "entropy": [0, 0],
    }
    assert {name: values.tolist() for name, values in found.items()} == expected


@settings(max_examples=20)
@given(
    st.integers(0, 2**31),
    st.floats(0.01, 30),
    st.floats(0.1, 5),
    st.lists(st.integers(0, 999), min_size=1, max_size=3),
)
def test_proper_scores_equal_their_definitions(seed, spread, temperature, bins):
    logits = logits_of(seed, len(bins), spread)
    found = proper_scores(logits, torch.tensor(bins), temperature)
    for i, t in enumerate(bins):
        expected = by_hand(logits[i].tolist(), t, temperature)
        for name in ("nll", "crps"):
            assert found[name][i].item() == pytest.approx(expected[name], rel=1e-12, abs=1e-12)


def test_collapse_to_the_median_betters_w1_and_worsens_crps():
    """A model that believes .40, .25 and .35 at three bins, and reports that or only the median."""
    bins, belief = torch.tensor([400, 500, 600]), torch.tensor([0.4, 0.25, 0.35]).double()
    honest, collapsed = torch.full((2, N_BINS), -1e9, dtype=torch.float64)
    honest[bins], collapsed[500] = belief.log(), 0.0

    def expected(logits: torch.Tensor, columns, name: str) -> float:
        return float(columns(logits.expand(3, -1), bins, 1.0)[name] @ belief)

    assert expected(honest, distribution_columns, "w1_to_delta") == pytest.approx(93.5)
    assert expected(collapsed, distribution_columns, "w1_to_delta") == pytest.approx(75.0)
    assert expected(honest, proper_scores, "crps") == pytest.approx(46.75)
    assert expected(collapsed, proper_scores, "crps") == pytest.approx(75.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_softmax_gives_both_bit_for_bit(monkeypatch, dtype):
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(3)).to(dtype)
    bins = torch.arange(0, 1000, 20)
    apart = distribution_columns(logits, bins, 0.7) | proper_scores(logits, bins, 0.7)
    calls, softmax = [], torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda *a: calls.append(1) or softmax(*a))
    together = columns_and_scores(logits, bins, 0.7)
    assert len(calls) == 1
    assert list(together) == list(apart)
    assert all(torch.equal(together[name], apart[name]) for name in apart)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.01, 30))
def test_coordinate_mass_sums_the_bins_probabilities(seed, spread):
    z = logits_of(seed, 2, spread, N_BINS + 50)
    mass = torch.softmax(z, -1)[:, 20 : 20 + N_BINS].sum(-1)
    torch.testing.assert_close(
        coord_mass(z, z[:, 20 : 20 + N_BINS]).double(), mass, rtol=1e-4, atol=1e-6
    )


def drawn_from(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    p = torch.softmax(logits / temperature, -1)
    return torch.multinomial(p, 1, generator=torch.Generator().manual_seed(2**33))[:, 0]


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(0.3, 5.0), st.integers(1, 40))
def test_the_fitted_temperature_beats_a_fine_grid(seed, true_temperature, rows):
    logits = logits_of(seed, rows, 3.0)
    bins = drawn_from(logits, true_temperature)

    def nll(t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / t, bins))

    found = fit_temperature(logits, bins)
    assert FIT_RANGE[0] <= found <= FIT_RANGE[1]
    grid = np.exp(np.linspace(*np.log(FIT_RANGE), 200))
    # The minimiser stops within 1e-4 of log T, which makes a difference at the bounds.
    within = abs(nll(found * 1.0002) - nll(found))
    assert nll(found) <= min(map(nll, grid)) + within + 1e-9


def test_fitted_temperature_scales_with_logits_within_range():
    logits = logits_of(3, 40, 3.0)
    bins = drawn_from(logits, 1.0)
    assert fit_temperature(2 * logits, bins) == pytest.approx(
        2 * fit_temperature(logits, bins), rel=1e-3
    )
    assert fit_temperature(logits, logits.argmax(-1)) == pytest.approx(FIT_RANGE[0], rel=1e-2)
    assert fit_temperature(logits, logits.argmin(-1)) == pytest.approx(FIT_RANGE[1], rel=1e-2)


def table_of(seed: int, images: int) -> tuple[pd.DataFrame, torch.Tensor]:
    logits = logits_of(seed, 4 * images, 3.0).float()
    bins = drawn_from(logits, 2.0)
    return pd.DataFrame(
        {"image_id": np.repeat(np.arange(images), 4), "gt_bin": bins.numpy().astype(np.int16)}
    ), logits


def test_columns_at_temperature_1_ignore_the_variants_own():
    table, logits = table_of(0, 12)
    tables = {t: add_distributions(table, logits, variant(t))[0] for t in (0.3, 1.0)}
    for name in (c for c in tables[1.0] if not c.endswith("_own")):
        assert tables[0.3][name].equals(tables[1.0][name]), name
    for name in ("expected_bin", "nll", "crps", "w1_to_delta", "p_gt", "entropy"):
        assert tables[1.0][f"{name}_own"].equals(tables[1.0][f"{name}_t1"])
        assert not np.allclose(tables[0.3][f"{name}_own"], tables[0.3][f"{name}_t1"])


def test_the_temperature_is_fitted_on_half_of_the_images():
    table, logits = table_of(1, 40)
    half = np.array([in_fit_half(i) for i in table["image_id"]])
    assert 0.25 < half.mean() < 0.75
    found, fitted = add_distributions(table, logits, variant())
    assert (found["fit_half"] == half).all()
    assert fitted == fit_temperature(
        logits[half], torch.tensor(table["gt_bin"].to_numpy()[half], dtype=torch.long)
    )
    assert fitted == pytest.approx(2, rel=0.3)
    other_half = table.assign(gt_bin=np.where(half, table["gt_bin"], 0).astype(np.int16))
    assert add_distributions(other_half, logits, variant())[1] == fitted


def test_the_number_of_rows_at_once_changes_nothing(monkeypatch):
    table, logits = table_of(2, 40)
    whole, fitted = add_distributions(table, logits, variant(0.7))
    for module in ("training.evaluate", "losses.diagnostics"):
        monkeypatch.setattr(f"coordexp.{module}.ROWS_AT_ONCE", 7)
    cut, fitted_cut = add_distributions(table, logits, variant(0.7))
    assert fitted_cut == pytest.approx(fitted, rel=1e-6)
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-4 if fitted_cut != fitted else 1e-6)


@pytest.fixture(scope="module")
def sharp(tiny):
    """The tiny model with logits so far apart that temperatures and quantiles matter."""
    weight = tiny.vlm.model.language_model.norm.weight
    weight.data *= 8
    yield tiny
    weight.data /= 8


def evaluated(sharp, scenes, path, variant="mixed", dataset=None, micro_batch=4):
    t = training(sharp, scenes, variant)
    dataset = dataset or t.val
    t.optimizer.zero_grad()  # of earlier tests with the same model
    row = evaluate(t.model, dataset, micro_batch, t.accelerator, path)
    assert t.model.training
    assert all(p.grad is None or not p.grad.any() for p in t.model.parameters())
    return t, row, pd.read_parquet(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_eval_row_equals_loops_over_every_token(sharp, scenes, tmp_path, variant):
    t, row, table = evaluated(sharp, scenes, tmp_path / "t.parquet", variant)
    ids, temperature = t.model.coord_ids.tolist(), t.model.variant.temperature
    seen: dict[str, list[float]] = {}

    def see(name: str, value: float) -> None:
        seen.setdefault(name, []).append(float(value))

    for i in range(len(t.val)):
        batch = t.val.batch([i])
        with torch.no_grad():
            logits = sharp.vlm(**batch.inputs).logits.flatten(0, 1)[batch.rows]
        for z, target, k in zip(logits, batch.targets.tolist(), batch.bins.tolist(), strict=True):
            top = int(z.argmax())
            if k < 0:
                see("text_token_acc", top == target)
                see("coord_diag/flips_to_coord", top in ids)
                continue
            see("coord_token_acc", top == target)
            see("coord_diag/flips_to_text", top not in ids)
            see("coord_diag/coord_mass_mean", torch.softmax(z, -1)[ids].sum())
            for prefix, at in (("coord_diag", 1.0), ("coord_diag_own_t", temperature)):
                found = by_hand(z[ids].tolist(), k, at)
                see(f"{prefix}/expected_bin_mae", abs(found["expected_bin"] - k))
                see(f"{prefix}/w1_to_delta", found["w1_to_delta"])
                see(f"{prefix}/p_gt_mean", found["p_gt"])
                see(f"{prefix}/entropy_mean", found["entropy"])
                see(f"{prefix}/nll", found["nll"])
                see(f"{prefix}/crps", found["crps"])
    for name, values in seen.items():
        assert row[name] == pytest.approx(math.fsum(values) / len(values), rel=1e-4, abs=1e-7), name
    for prefix in ("coord_diag", "coord_diag_own_t"):
        p90 = quantile_by_hand(seen[f"{prefix}/expected_bin_mae"], 0.9)
        assert row[f"{prefix}/expected_bin_abs_err_p90"] == pytest.approx(p90, rel=1e-4)
    assert row["coord_diag/enabled"] == float(variant != "pure_ce")
    assert len(table) == len(seen["coord_token_acc"])


def test_an_eval_row_does_not_depend_on_the_batch_size(sharp, scenes, tmp_path):
    rows = [evaluated(sharp, scenes, tmp_path / "t.parquet", micro_batch=n)[1] for n in (1, 4, 9)]
    for row in rows:
        row.pop("runtime_s")
        assert row == pytest.approx(rows[0], rel=1e-5)


@pytest.mark.parametrize("n_images", [1, 2, 9])
def test_ranks_give_one_ranks_row_even_without_images(
    sharp, scenes, tmp_path, monkeypatch, n_images
):
    """Three ranks one after the other, the main one last; what the others send is kept for it."""
    dataset, sent = scenes.dataset("val", sharp.processor), {}
    dataset.records = dataset.records[:n_images]
    t, one, table = evaluated(sharp, scenes, tmp_path / "one.parquet", dataset=dataset)

    def gather(part, parts):
        if parts is None:
            sent[rank] = part
        else:
            parts[:] = [part, sent[1], sent[2]]

    monkeypatch.setattr(torch.distributed, "gather_object", gather)
    for rank in (2, 1, 0):
        accelerator = SimpleNamespace(
            device=torch.device("cpu"),
            process_index=rank,
            num_processes=3,
            is_main_process=rank == 0,
        )
        row = evaluate(t.model, dataset, 4, accelerator, tmp_path / "three.parquet")
        assert (row is None) == (rank > 0)
    row.pop("runtime_s"), one.pop("runtime_s")
    assert row == pytest.approx(one, rel=1e-6)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "three.parquet"), table, rtol=1e-5)


def test_a_train_rows_p90_covers_the_window_since_the_last(sharp, scenes):
    t = training(sharp, scenes, "mixed")
    table = evaluated(sharp, scenes, scenes.root / "train.parquet", dataset=t.train)[2]
    for images in (range(0, 3), range(3, 8), range(8, 12)):
        gradient(t, [t.train.batch(images)])
    row = train_row(t)
    errors = abs_err(table, "t1")
    assert row["coord_diag/expected_bin_abs_err_p90"] == pytest.approx(
        np.quantile(errors, 0.9), rel=1e-5
    )
    assert row["coord_diag/expected_bin_mae"] == pytest.approx(errors.mean(), rel=1e-5)
    t.progress.window_abs_errs.pop()
    assert "coord_diag/expected_bin_abs_err_p90" not in train_row(t), (
        "errors are missing: a part of the window was taken by several ranks"
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_eval_row_follows_from_its_token_table(sharp, scenes, tmp_path, variant):
    _t, row, table = evaluated(sharp, scenes, tmp_path / "t.parquet", variant)
    for prefix, at, rows in (
        ("coord_diag", "t1", table),
        ("coord_diag_own_t", "own", table),
        ("coord_diag_fitted_t", "fitted", table[~table["fit_half"]]),
    ):
        errors = np.abs(rows[f"expected_bin_{at}"].astype(float) - rows["gt_bin"].astype(float))
        again = {
            "expected_bin_mae": errors.mean(),
            "expected_bin_abs_err_p90": np.quantile(errors, 0.9),
            "w1_to_delta": rows[f"w1_to_delta_{at}"].mean(),
            "p_gt_mean": rows[f"p_gt_{at}"].mean(),
            "entropy_mean": rows[f"entropy_{at}"].mean(),
            "nll": rows[f"nll_{at}"].mean(),
            "crps": rows[f"crps_{at}"].mean(),
        }
        for name, value in again.items():
            assert row[f"{prefix}/{name}"] == pytest.approx(float(value), rel=1e-5), (prefix, name)
    assert row["coord_token_acc"] == pytest.approx(table["hit"].mean())
    assert row["coord_diag/coord_mass_mean"] == pytest.approx(
        float(table["coord_mass"].astype(float).mean()), rel=1e-6
    )


def test_the_token_table_has_its_columns_and_joins_records(sharp, record_file, scenes, tmp_path):
    box = ("cup", "bbox_2d", (1.0, 2.0, 30.0, 40.0))
    leaf = ("leaf", "poly", (5.0, 3.0, 9.0, 6.0, 1.0, 7.0))
    records = record_file(tmp_path / "odd", [[box, leaf], [], [leaf], [box], [box]])
    odd = Dataset(records, sharp.processor)
    for dataset in (scenes.dataset("val", sharp.processor), odd):
        _t, row, table = evaluated(
            sharp, scenes, tmp_path / "t.parquet", dataset=dataset, micro_batch=2
        )
        assert set(table.columns) == COLUMNS
        expected = []
        for i, record in enumerate(dataset.records):
            for j, o in enumerate(record.objects):
                for c, pixel in enumerate(o.pixels):
                    slot = BOX_SLOTS[c] if o.kind == "bbox_2d" else "vertex"
                    expected.append((i, j, slot, pixel_to_bin(pixel, 64)))
        keys = table[["image_id", "object_index", "slot", "gt_bin"]]
        assert list(keys.itertuples(index=False, name=None)) == expected
        boxes = [dataset.records[i].objects[j].box for i, j, *_ in expected]
        assert np.allclose(
            table["box_area_px"], [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
        )
        assert (table["argmax_bin"] == table["gt_bin"])[table["hit"]].all()
        assert table["argmax_bin"].between(0, 999).all()
        assert table["coord_mass"].between(0, 1).all()
        metadata = {
            k.decode(): float(v)
            for k, v in pq.read_schema(tmp_path / "t.parquet").metadata.items()
            if b"temp" in k
        }
        assert metadata == {
            "own_temperature": 0.7,
            "fitted_temperature": row["coord_diag_fitted_t/temperature"],
        }


def test_a_validation_set_without_objects_is_refused(sharp, record_file, scenes, tmp_path, refused):
    dataset = Dataset(record_file(tmp_path / "none", [[], []]), sharp.processor)
    with refused(str(dataset.path), "nothing to evaluate"):
        evaluated(sharp, scenes, tmp_path / "t.parquet", dataset=dataset)


def test_temperature_of_no_distribution_is_refused_or_nan():
    logits, bins = torch.zeros(3, 1000), torch.tensor([0, 5, 999])
    with pytest.raises(ValueError, match="a row at least"):
        fit_temperature(logits[:0], bins[:0])
    with pytest.raises(ValueError, match="above 0"):
        distribution_columns(logits, bins, 0.0)
    logits[1, 7] = torch.nan
    assert math.isnan(fit_temperature(logits, bins))
