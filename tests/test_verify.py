"""Recorded digests are enforced: `coordexp verify`, and a trainer whose inputs are damaged."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from training import MIXED, flip_byte, only

from coordexp.cli.main import main
from coordexp.cli.verify import verify

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow

# A file of each kind below results; with `*` the first that fits.
FILES = (
    "base/*/model/model.safetensors",
    "base/*/model/tokenizer.json",
    "base/*/base.json",
    "data/*/train.jsonl",
    "data/*/val.jsonl",
    "data/*/images/train/*.png",
    "data/*/data.json",
    "runs/mixed/*/config.yaml",
    "runs/mixed/*/logging.jsonl",
    "runs/mixed/*/run.json",
    "runs/mixed/*/eval/*.parquet",
    "runs/mixed/*/checkpoints/*/model.safetensors",
)


@pytest.fixture
def results(finished) -> Path:
    """Results with data, a base model and a run, none of them shared with other tests."""
    found = finished.parents[2]  # results/runs/mixed/<run>
    for part in ("data", "base"):
        original = (found / part).resolve()
        (found / part).unlink()
        shutil.copytree(original, found / part)
    return found


def flip_bit(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def test_flipped_bit_of_any_kind_of_file_is_found(results, capsys):
    main(["verify", str(results)])
    assert "3 directories, 0 with a difference" in capsys.readouterr().out
    rng = random.Random(0)
    for pattern in FILES:
        file = min(results.glob(pattern))
        intact = file.read_bytes()
        for _ in range(4):
            flip_bit(file, rng)
            faults = [entry for entry in verify(results) if entry.fault]
            assert len(faults) == 1, (pattern, faults)
            assert file.is_relative_to(faults[0].path), pattern
            file.write_bytes(intact)
    flip_byte(min(results.glob(FILES[0])), -1)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(results)])
    assert end.value.code == 1
    assert "model: sha256 " in capsys.readouterr().out


@pytest.mark.parametrize("pattern", FILES[:7])
def test_trainer_refuses_damaged_inputs_before_its_first_step(fork_server, results, pattern):
    shutil.rmtree(results / "runs")
    flip_bit(min(results.glob(pattern)), random.Random(1))
    line = fork_server.run(results.parent, *MIXED).refusal()
    assert "base.json" in line or "data.json" in line
    assert not (results / "runs").exists()


def test_damaged_checkpoint_is_neither_probed_nor_passed(fork_server, results):
    run = only(results / "runs" / "mixed")
    flip_byte(max(run.glob("checkpoints/*/model.safetensors")), -1)
    told = fork_server.run(results.parent, "probe", str(run), entry="cli").refusal()
    assert "changed or damaged: its sha256 is " in told
    assert not (run / "stage2").exists()


@pytest.mark.usefixtures("in_tmp")
def test_verify_of_nothing_says_so():
    with pytest.raises(SystemExit, match="results: no such directory"):
        main(["verify"])
    Path("results").mkdir()
    with pytest.raises(SystemExit, match="results: holds no results"):
        main(["verify"])
