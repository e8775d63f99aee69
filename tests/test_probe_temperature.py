"""The probe decodes each candidate at the temperature that was fitted to its token table."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from studies import eval_row, token_table
from test_probe import Truth, by_hand, checkpoint, manifest, settings  # noqa: F401  # a fixture

from coordexp.config.compose import compose
from coordexp.config.digests import group_hash
from coordexp.probe.run import run_probe
from coordexp.probe.temperature import DecodeTemperature, decode_temperature
from coordexp.storage.token_tables import read_fitted_temperature, write_table
from coordexp.training.evaluate import evenly_spaced


def write_fitted(path: Path, temperature: float) -> None:
    """A token table whose metadata name this fitted temperature."""
    token_table(path, eval_row(20.0, 50.0, 0.2, 0.1, 30.0, 4.0))
    write_table(pd.read_parquet(path), path, own_temperature=0.7, fitted_temperature=temperature)


@pytest.fixture
def candidate(checkpoint: Path, tmp_path) -> Path:  # noqa: F811
    """The checkpoint in a run directory whose token table was fitted at T = 0.4."""
    run = tmp_path / "run" / "s0-12345678"
    shutil.copytree(checkpoint, run / "checkpoints" / "step-000080")
    write_fitted(run / "eval" / "step-000080.parquet", 0.4)
    return run / "checkpoints" / "step-000080"


def test_temperature_comes_from_the_table_of_the_same_step(candidate):
    assert decode_temperature("fitted", candidate) == DecodeTemperature(0.4, "token table")
    assert decode_temperature("2.0", candidate) == DecodeTemperature(2.0, "setting")
    other = Path(shutil.copytree(candidate, candidate.with_name("step-000160")))
    assert decode_temperature("fitted", other) == DecodeTemperature(1.0, "no token table")


def test_table_without_the_temperature_is_refused(candidate, refused):
    table = candidate.parent.parent / "eval" / "step-000080.parquet"
    pq.write_table(pq.read_table(table).replace_schema_metadata(), table)
    with refused(str(table), "names no fitted temperature"):
        decode_temperature("fitted", candidate)
    table.write_bytes(b"PAR1")
    with refused(str(table), "not a readable parquet file"):
        read_fitted_temperature(table)


def test_losses_are_those_of_the_fitted_temperature(candidate, scenes, tiny, tmp_path):
    out = tmp_path / "out"
    run_probe(candidate, scenes.path, out, settings(), generator=Truth())
    found = manifest(out)
    assert found["settings"]["temperature"] == "fitted"
    assert (found["temperature"], found["temperature_source"]) == (0.4, "token table")
    images = evenly_spaced(9, 6).tolist()
    val = scenes.dataset("val", tiny.processor)
    expected = by_hand(copy.deepcopy(tiny.vlm).float(), val, images, 0.4)
    losses = [loss for of_image in expected.values() for loss in of_image]
    assert found["before"]["geo_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    first = json.loads((out / "probe.jsonl").read_text().splitlines()[0])
    run_probe(
        candidate, scenes.path, tmp_path / "at-1", settings("temperature=1"), generator=Truth()
    )
    at_one = json.loads((tmp_path / "at-1" / "probe.jsonl").read_text().splitlines()[0])
    assert first["geo_loss"] != at_one["geo_loss"], "the fine-tune, too, is at that temperature"


def test_probe_at_another_temperature_is_not_finished(candidate, scenes, tmp_path):
    out, cfg = tmp_path / "out", settings("steps=1")
    run_probe(candidate, scenes.path, out, cfg, generator=Truth())
    before = (out / "probe.json").read_bytes()
    os.utime(out / "probe.json", (1, 1))
    run_probe(candidate, scenes.path, out, cfg, generator=Truth())
    assert (out / "probe.json").read_bytes() == before
    write_fitted(candidate.parent.parent / "eval" / "step-000080.parquet", 0.5)
    run_probe(candidate, scenes.path, out, cfg, generator=Truth())
    assert manifest(out)["temperature"] == 0.5


def test_probe_json_without_a_temperature_is_made_again(candidate, scenes, tmp_path):
    """As an earlier version of this project wrote it, with a number for all candidates."""
    out, cfg = tmp_path / "out", settings("steps=1")
    run_probe(candidate, scenes.path, out, cfg, generator=Truth())
    old = manifest(out)
    old["settings"]["temperature"] = 1.0
    del old["temperature"], old["temperature_source"]
    (out / "probe.json").write_text(json.dumps(old))
    run_probe(candidate, scenes.path, out, cfg, generator=Truth())
    assert manifest(out)["temperature"] == 0.4


def test_checkpoint_without_a_table_says_that_nothing_is_fitted(checkpoint, scenes, tmp_path):  # noqa: F811
    run_probe(checkpoint, scenes.path, tmp_path, settings("steps=1"), generator=Truth())
    found = manifest(tmp_path)
    assert (found["temperature"], found["temperature_source"]) == (1.0, "no token table")


def test_equal_spellings_of_a_temperature_are_one_recipe():
    recipes = [compose([f"probe.temperature={word}"]).probe for word in ("1", "1.0", "1e0")]
    assert len({group_hash(recipe) for recipe in recipes}) == 1
    assert recipes[0].temperature == "1.0"
    assert compose().probe.temperature == "fitted"


@pytest.mark.parametrize("word", ["fit", "0", "-1", "inf", "nan", "null"])
def test_impossible_temperature_is_refused(word, refused):
    with refused("probe.temperature"):
        compose([f"probe.temperature={word}"])
