"""Token tables: which columns are read, what is refused, and how much an image moves a metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import expon

from coordexp.analysis.comparison.bootstrap import bootstrap_draws
from coordexp.analysis.comparison.image_influence import image_influence, quantile_influence
from coordexp.metrics import METRICS, REGISTRY, TEMPERATURE_LABEL
from coordexp.resampling import image_weights
from coordexp.storage.token_tables import (
    TokenColumns,
    column_names,
    read_tokens,
    write_table,
)

MAE, P90, ACC = (
    REGISTRY[name] for name in ("expected_bin_mae", "expected_bin_abs_err_p90", "coord_token_acc")
)
SLOTS = np.array(["x1", "y1", "x2", "y2", "vertex"])


def frame(n_images: int = 23, seed: int = 0) -> pd.DataFrame:
    """Uneven images, from 1 to about 30 tokens, rows in no order."""
    rng = np.random.default_rng(seed)
    image = np.repeat(rng.permutation(100)[:n_images], rng.geometric(0.15, n_images))
    rng.shuffle(image)
    n = len(image)
    columns = {
        "image_id": image,
        "slot": rng.choice(SLOTS, n),
        "box_area_px": rng.lognormal(7, 1, n).astype(np.float32),
        "gt_bin": rng.integers(0, 1000, n).astype(np.int16),
        "hit": rng.random(n) < 0.2,
        "fit_half": image % 2 == 0,
        "coord_mass": rng.random(n).astype(np.float32),
    }
    for label in ("t1", "own", "fitted"):
        columns |= {
            f"expected_bin_{label}": rng.uniform(0, 999, n).astype(np.float32),
            f"w1_to_delta_{label}": rng.random(n),
            f"nll_{label}": rng.random(n),
            f"crps_{label}": rng.random(n),
            f"p_gt_{label}": rng.random(n),
            f"entropy_{label}": rng.random(n),
        }
    return pd.DataFrame(columns)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "step-000720.parquet"
    # Several row groups, each with its own dictionary of slots.
    frame().to_parquet(path, row_group_size=37, index=False)
    return path


@pytest.mark.parametrize("temperature", ["1", "own", "fitted"])
def test_metrics_and_columns_cover_all_tokens(table, temperature):
    tokens = read_tokens(table, temperature, list(METRICS.values()), slices=True)
    label = {"1": "t1"}.get(temperature, temperature)
    rows = frame().sort_values("image_id", kind="stable")
    rows = rows[~rows["fit_half"]] if temperature == "fitted" else rows
    error = (rows[f"expected_bin_{label}"].astype(float) - rows["gt_bin"]).abs().to_numpy()
    assert tokens.images.tolist() == sorted(set(rows["image_id"]))
    assert tokens.images[tokens.image_index].tolist() == rows["image_id"].tolist()
    assert tokens.slot.tolist() == rows["slot"].tolist()
    assert tokens.box_area_px.tolist() == rows["box_area_px"].tolist()
    assert tokens.values["expected_bin_mae"].tolist() == error.tolist()
    expected = {
        "expected_bin_mae": error.mean(),
        "expected_bin_abs_err_p90": np.quantile(error, 0.9),
        "coord_token_acc": rows["hit"].mean(),
        "w1_to_delta": rows[f"w1_to_delta_{label}"].mean(),
        "nll": rows[f"nll_{label}"].mean(),
        "crps": rows[f"crps_{label}"].mean(),
        "p_gt_mean": rows[f"p_gt_{label}"].mean(),
    }
    assert image_influence(tokens).values == pytest.approx(expected, rel=1e-12)


def test_mean_is_over_tokens_not_over_image_means(table):
    tokens = read_tokens(table, "1", [MAE])
    means = [
        tokens.values[MAE.name][tokens.image_index == i].mean() for i in range(len(tokens.images))
    ]
    assert abs(image_influence(tokens).values[MAE.name] - np.mean(means)) > 1


def test_slot_and_area_are_read_only_for_slices(tmp_path):
    frame()[["image_id", "gt_bin", "expected_bin_t1"]].to_parquet(tmp_path / "t.parquet")
    tokens = read_tokens(tmp_path / "t.parquet", "1", [MAE, P90, REGISTRY["text_ce"]])
    assert (len(tokens.slot), len(tokens.box_area_px), set(tokens.values)) == (
        0,
        0,
        {MAE.name, P90.name},
    )


def overwrite_column(path, name: str) -> None:
    """Break the bytes of one column, and leave every other as it is."""
    groups = pq.ParquetFile(path).metadata
    index = groups.schema.to_arrow_schema().get_field_index(name)
    content = bytearray(path.read_bytes())
    for g in range(groups.num_row_groups):
        column = groups.row_group(g).column(index)
        start = min(
            offset
            for offset in (column.dictionary_page_offset, column.data_page_offset)
            if offset is not None
        )
        content[start : start + column.total_compressed_size] = (
            b"\xff" * column.total_compressed_size
        )
    path.write_bytes(content)


def test_table_without_proper_scores_is_read_for_its_other_metrics(table, refused):
    older = pq.read_table(table)
    scores = [name for name in older.column_names if name.startswith(("nll_", "crps_"))]
    pq.write_table(older.drop_columns(scores), table)
    assert set(read_tokens(table, "1", [MAE, REGISTRY["crps"], REGISTRY["nll"]]).values) == {
        MAE.name
    }
    pq.write_table(older.drop_columns(["crps_t1"]), table)
    with refused(str(table), "no column crps_t1"):
        read_tokens(table, "1", [MAE, REGISTRY["crps"]])


def test_only_columns_that_a_metric_needs_are_read(table, refused):
    for name in ("w1_to_delta_t1", "entropy_t1", "expected_bin_own", "slot", "fit_half", "p_gt_t1"):
        overwrite_column(table, name)
    assert image_influence(read_tokens(table, "1", [MAE, P90, ACC])).values[
        ACC.name
    ] == pytest.approx(frame()["hit"].mean())
    with refused(str(table), "not a readable parquet file"):
        read_tokens(table, "1", [REGISTRY["w1_to_delta"]])
    with refused(str(table), "not a readable parquet file"):
        read_tokens(table, "fitted", [MAE])


def write_changed(path, **columns) -> None:
    frame().assign(**columns).to_parquet(path, index=False)


def test_unreadable_table_is_one_line_naming_the_file(tmp_path, table, refused):
    missing = tmp_path / "nothing.parquet"
    with refused(str(missing), "no such file"):
        read_tokens(missing, "1", [MAE])
    with refused(str(tmp_path), "a directory, not a file"):
        read_tokens(tmp_path, "1", [MAE])
    content = table.read_bytes()
    for broken in (b"", b"PAR1", content[: len(content) // 2], content[:-1]):
        table.write_bytes(broken)
        with refused(str(table), "not a readable parquet file"):
            read_tokens(table, "1", [MAE])
    frame().drop(columns=["gt_bin", "slot"]).to_parquet(table)
    with refused(str(table), "no column gt_bin, slot"):
        read_tokens(table, "1", [MAE], slices=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, None])
def test_value_that_is_not_finite_is_refused(table, value, refused):
    errors = frame()["expected_bin_t1"].astype(object)
    errors[5] = value
    column = pa.array(errors, type=pa.float32(), from_pandas=value is None)
    content = pa.Table.from_pandas(frame().drop(columns="expected_bin_t1")).append_column(
        "expected_bin_t1", column
    )
    pq.write_table(content, table)
    with refused(str(table), "expected_bin_t1", "empty or non-finite"):
        read_tokens(table, "1", [MAE])
    assert len(read_tokens(table, "own", [MAE]).images) == 23  # the column is not needed there


def test_empty_slot_is_refused(table, refused):
    write_changed(table, slot=frame()["slot"].where(frame().index != 3, None))
    with refused(str(table), "column slot"):
        read_tokens(table, "1", [MAE], slices=True)


def test_table_with_one_image_is_refused(table, refused):
    write_changed(table, image_id=7)
    with refused(str(table), "fewer than two images at temperature 1"):
        read_tokens(table, "1", [MAE])
    write_changed(table, fit_half=True)
    with refused(str(table), "fewer than two images at temperature fitted"):
        read_tokens(table, "fitted", [MAE])


def test_influence_on_a_mean_is_its_derivative_by_weight(table):
    tokens = read_tokens(table, "1", [MAE])
    found = image_influence(tokens)
    step = 1e-6
    for i in range(len(tokens.images)):
        weights = np.where(tokens.image_index == i, 1 + step, 1.0)
        moved = np.average(tokens.values[MAE.name], weights=weights) - found.values[MAE.name]
        assert found.influence[MAE.name][i] == pytest.approx(moved / step, rel=1e-4, abs=1e-6)


def test_influence_on_a_quantile_uses_the_true_density():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 40, 3000)
    index = np.repeat(np.arange(3000), counts)
    errors = rng.exponential(1.0, len(index))
    value, influence = quantile_influence(errors, index, counts, 0.9)
    assert value == np.quantile(errors, 0.9)
    below = np.bincount(index[errors <= value], minlength=3000)
    truth = (0.9 * counts - below) / len(errors) / expon.pdf(expon.ppf(0.9))
    assert influence.std() / truth.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(influence, truth)[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("name", ["expected_bin_mae", "expected_bin_abs_err_p90"])
def test_influence_predicts_the_metrics_of_resamples(name):
    """Σ (w - 1) influence against the exact metric of each resample."""
    rng = np.random.default_rng(1)
    index = np.repeat(np.arange(300), rng.integers(1, 30, 300))
    easy = rng.normal(0, 0.5, 300)[index]
    tokens = TokenColumns(
        np.arange(300), index, {name: np.exp(easy + rng.normal(0, 1, len(index)))}
    )
    found, weights = image_influence(tokens), image_weights(300)
    exact = bootstrap_draws(tokens, METRICS[name], weights)
    linear = found.values[name] + (weights - 1.0) @ found.influence[name]
    assert np.corrcoef(exact, linear)[0, 1] > 0.95
    assert linear.std() / exact.std() == pytest.approx(1, abs=0.1)
    assert found.influence[name].sum() == pytest.approx(0, abs=0.02 * exact.std())


def test_influence_on_a_quantile_of_equal_errors_is_zero():
    tokens = TokenColumns(np.arange(5), np.repeat(np.arange(5), 3), {P90.name: np.full(15, 7.0)})
    found = image_influence(tokens)
    assert found.values[P90.name] == 7
    assert not found.influence[P90.name].any()


def test_influence_does_not_depend_on_image_order_or_ids(table):
    tokens = read_tokens(table, "1", [MAE, P90])
    turned = replace(tokens, image_index=(len(tokens.images) - 1 - tokens.image_index))
    for name in (MAE.name, P90.name):
        assert image_influence(turned).influence[name] == pytest.approx(
            image_influence(tokens).influence[name][::-1]
        )


def test_density_of_a_small_table_uses_the_whole_range():
    # The density is 1 everywhere, and 0.9 + h lies beyond the last token.
    errors = np.linspace(0, 1, 6)
    counts = np.array([2, 3, 1])
    value, influence = quantile_influence(errors, np.repeat(np.arange(3), counts), counts, 0.9)
    assert value == pytest.approx(0.9)
    assert influence == pytest.approx((0.9 * counts - [2, 3, 0]) / 6)


def test_every_metric_reads_columns_that_are_written():
    known = set(column_names())
    for m in REGISTRY.values():
        for label in TEMPERATURE_LABEL.values():
            assert m.per_token is None or set(m.per_token.columns(label)) <= known, m.name


def test_table_with_other_columns_is_not_written(tmp_path):
    table = frame().assign(object_index=0, argmax_bin=0)
    write_table(table, tmp_path / "whole.parquet", 1.0, 1.0)
    with pytest.raises(ValueError, match="gt_bin"):
        write_table(table.drop(columns="gt_bin"), tmp_path / "cut.parquet", 1.0, 1.0)
    assert not (tmp_path / "cut.parquet").exists()
