"""The comparison's parts: plateaus, drift, floor, and differences paired on seeds and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import NOTE_RULE, STEPS, eval_row, run_manifest, token_table, write_run

from coordexp.analysis.comparison.compare import compare
from coordexp.analysis.comparison.findings import (
    BlindMae,
    Drift,
    JudgedImages,
    Plateau,
    SnapshotRow,
)
from coordexp.analysis.comparison.judged import judged_images
from coordexp.analysis.comparison.plateau import collapse_end, drifts, plateaus
from coordexp.analysis.comparison.resolution_limit import resolution_limit, vision_facts
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.logs.log import Log
from coordexp.storage.manifest import read_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import RunData
from coordexp.study.study import Vision

RULE = NOTE_RULE


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def log_of(curve: dict[int, float], name: str = "coord_diag/expected_bin_mae") -> Log:
    return Log(Path("x"), evals={step: {name: value} for step, value in curve.items()})


def plateaus_of(curve: dict[int, float]) -> list[Plateau]:
    return plateaus([RunData("a", 0, log_of(curve))], "1")


def load(run, variant: str, seed: int = 0) -> RunData:
    return RunData(variant, seed, read_log(run.log), run, read_manifest(run), None)


def test_a_collapse_ends_where_the_curve_settles():
    steps = range(40, 721, 40)
    assert collapse_end(log_of({s: 24 + 200 * np.exp(-s / 20) for s in steps})) == 120
    assert collapse_end(log_of(dict.fromkeys(steps, 24.0))) == 40
    # Never settles before its last third.
    assert collapse_end(log_of({s: 1000.0 / s for s in steps})) > 400
    assert collapse_end(Log(Path("x"))) == 0


def test_a_plateau_has_level_spread_and_slope_by_least_squares():
    steps = list(range(40, 721, 40))
    falling = {s: 30 - s / 100 for s in steps}
    (found,) = plateaus_of(falling)
    tail = [s for s in steps if s > 480]
    assert found.from_step == tail[0]
    assert found.level == pytest.approx(np.mean([falling[s] for s in tail]))
    assert found.spread == pytest.approx(falling[tail[0]] - falling[tail[-1]])
    assert found.slope_percent_per_100_steps == pytest.approx(-1 / found.level * 100)
    assert not found.flat
    (still,) = plateaus_of(dict.fromkeys(steps, 24.0))
    assert still.flat
    assert plateaus_of({40: 1.0, 80: 1.0}) == []


def test_variants_differ_only_if_farther_apart_than_one_drifts():
    def rows(level: float, wobble: float):
        logs = {
            v: log_of({s: base + wobble * (s % 80 == 0) for s in range(40, 721, 40)})
            for v, base in (("a", 20), ("b", level))
        }
        return drifts(plateaus([RunData(v, 0, log) for v, log in logs.items()], "1"))

    (near,), (far,) = rows(20.5, 1.0), rows(25.0, 1.0)
    assert near.metric == "expected_bin_mae"
    assert (near.between, near.within) == (pytest.approx(0.5), pytest.approx(1.0))
    assert (near.differ, far.differ) == (False, True)
    assert drifts([]) == []


def row_of(variant: str, mae: float) -> SnapshotRow:
    return SnapshotRow(variant, [0], {"expected_bin_mae": mae})


@pytest.mark.parametrize(
    ("mae", "differ", "says"),
    [
        (24.0, False, "the variants differ by less than each drifts: the size of a cell may be"),
        (24.0, True, "still differ by more than each drifts"),
        (10.0, False, "below half of one"),
        (80.0, False, "the cell alone does not explain"),
    ],
)
def test_the_suggested_limit_follows_the_numbers(mae, differ, says):
    rows = [row_of("a", mae), row_of("b", mae + 1)]
    drift = Drift("expected_bin_mae", between=1.0, within=1.0, differ=differ)
    found = resolution_limit(rows, [drift], [480, 640, 800], 32)
    assert says in found.sentence
    assert found.best_mae_px == pytest.approx([mae / 999 * (side - 1) for side in (480, 640, 800)])
    assert found.best_mae_cells == pytest.approx(mae / 999 * 639 / 32)


@pytest.mark.parametrize("mae", [10.0, 24.0, 80.0])
@pytest.mark.parametrize("differ", [True, False])
def test_no_cause_is_claimed_for_the_limit(mae, differ):
    drift = Drift("expected_bin_mae", between=1.0, within=1.0, differ=differ)
    for blind in (None, 90.0, 300.0):
        known = blind and BlindMae(2 * blind, blind, images=9, coordinates=90)
        found = resolution_limit([row_of("a", mae)], [drift], [640] * 3, 32, known).sentence
        assert "floor" not in found
        assert "not of the loss" not in found
        if blind and mae > blind / 2:
            assert found.startswith("nothing about the cell: the best MAE, 80.0 bins, is 0.89 of")
        elif mae == 24.0:
            assert "too few pictures or too short a training fit these numbers as well" in found
            assert ("if the model looks at its pictures at all" in found) == (blind is None)


def test_without_image_sizes_there_is_no_resolution_limit():
    rows = [row_of("a", 24.0)]
    assert resolution_limit(rows, [], *vision_facts([], None)) is None
    side_alone = vision_facts([], Vision(640))
    assert resolution_limit(rows, [], *side_alone).best_mae_cells is None


def test_images_are_counted_by_what_they_serve_for(tmp_path):
    final = eval_row(20.0, 40, 0.3, 0.2, 30, 3.0)
    run = RunDirectory(tmp_path)
    groups = {"mixed": [RunData("mixed", 0, Log(Path("x")), run)]}
    assert judged_images(groups, 40, "fitted") is None
    token_table(run.table(40), final, n_images=9)
    assert judged_images(groups, 40, "fitted") == JudgedImages(judged=4, fitted_on=5)
    assert judged_images(groups, 40, "1") == JudgedImages(judged=9, fitted_on=5)
    frame = pd.read_parquet(run.table(40)).assign(fit_half=False)
    frame.to_parquet(run.table(40))
    assert judged_images(groups, 40, "fitted") == JudgedImages(judged=9, fitted_on=0)


def test_sizes_come_from_the_manifest():
    sides = {"width": [100, 640, 900], "height": [80, 480, 700]}
    manifest = run_manifest(val_sides_px=sides, cell_px=32)
    run = RunData("a", 0, Log(Path("x")), None, manifest)
    assert vision_facts([run], None) == ([80, 560, 900], 32)


def test_differences_use_only_the_seeds_both_variants_have():
    finals = {"a": [20.0, 21.0, 22.0], "b": [25.0, 27.0]}
    runs = [
        load(
            write_run("pure_ce", eval_row(mae, 50, 0.2, 0.2, 30, 3.0), seed=s, tables=True), "a", s
        )
        for s, mae in enumerate(finals["a"])
    ]
    runs += [
        load(write_run("mixed", eval_row(mae, 60, 0.1, 0.1, 40, 4.0), seed=s, tables=True), "b", s)
        for s, mae in enumerate(finals["b"])
    ]
    comparison = compare(runs, RULE)
    (found,) = [d for d in comparison.differences if d.metric == "expected_bin_mae"]
    errors = [
        (t["expected_bin_t1"] - t["gt_bin"]).abs().mean()
        for t in (pd.read_parquet(r.run.table(STEPS[-1])) for r in runs)
    ]
    expected = np.mean(errors[3:]) - np.mean(errors[:2])  # seed 2 of `a` has no partner
    assert found.difference == pytest.approx(expected)
    assert found.interval.method == "paired bootstrap over images"
    assert found.interval.low < expected < found.interval.high
    assert found.window.n == len(comparison.window.steps) == 5
    assert comparison.stability["expected_bin_mae"].last_winner == "a"
    bands = [b for b in comparison.bands if b.metric == "expected_bin_mae"]
    assert {b.variant for b in bands} == {"a", "b"}
    for band in bands:
        mean = np.mean(errors[:3] if band.variant == "a" else errors[3:])
        assert band.low < mean < band.high


def test_variants_of_three_seeds_that_share_one_are_bootstrapped():
    final = eval_row(20.0, 50, 0.2, 0.2, 30, 3.0)
    runs = [load(write_run("pure_ce", final, seed=s, tables=True), "a", s) for s in (0, 1, 2)]
    runs += [load(write_run("mixed", final, seed=s, tables=True), "b", s) for s in (2, 3, 4)]
    methods = {d.interval.method for d in compare(runs, RULE).differences if d.interval}
    assert methods == {"paired bootstrap over images"}


def test_other_validation_images_cannot_be_paired():
    runs = [
        load(write_run(v, eval_row(20, 50, 0.2, 0.2, 30, 3.0), tables=True), v)
        for v in ("pure_ce", "mixed")
    ]
    path = runs[1].run.table(STEPS[-1])
    table = pd.read_parquet(path)
    table["image_id"] += 1000
    table.to_parquet(path)
    assert all(d.interval is None for d in compare(runs, RULE).differences)


def test_later_steps_of_some_runs_are_shown_and_not_decisive():
    def run(name: str, last: int, mae: float) -> RunData:
        return RunData(name, 0, log_of(dict.fromkeys(range(40, last + 1, 40), mae)))

    found = compare([run("a", 120, 20.0), run("b", 200, 10.0), run("c", 160, 30.0)], RULE)
    assert found.decision_step == 120
    assert [(s.step, [r.variant for r in s.rows]) for s in found.snapshots] == [
        (120, ["a", "b", "c"]), (160, ["b", "c"]), (200, ["b"])]  # fmt: skip
