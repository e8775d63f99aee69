"""The public interface: `from coordexp import …`."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from note import write_log
from studies import eval_row, write_run

import coordexp
from coordexp.analysis.recommendation.findings import read_recommendation


@pytest.fixture(autouse=True)
def in_empty_directory(in_tmp):
    """Each test runs in a directory of its own."""


def test_public_names_exist_and_are_documented():
    assert sorted(coordexp.__all__) == sorted(coordexp._MODULES)
    for name in coordexp.__all__:
        public = getattr(coordexp, name)
        assert public.__name__ == name
        assert inspect.getdoc(public), name
    assert set(coordexp.__all__) <= set(dir(coordexp))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'objectiv'"):
        coordexp.objectiv  # noqa: B018


def test_import_loads_neither_torch_nor_mlflow():
    program = (
        "import sys; from coordexp import compare, load_run, to_bins, parse_coordjson, UserError; "
        "print({'torch', 'mlflow', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_compare_takes_paths_by_name_and_returns_the_decision():
    logs = {name: write_log(Path(f"{name}.jsonl"), name) for name in ("pure_ce", "mixed")}
    decision = coordexp.compare(logs, "compared")
    assert decision == read_recommendation(Path("compared"))
    assert decision.primary is not None
    assert decision.primary.variant in logs


def test_compare_leaves_a_new_directory_empty_on_refusal():
    Path("broken.jsonl").write_text("{}\n")
    logs = {"a": write_log(Path("a.jsonl"), "pure_ce"), "b": Path("broken.jsonl")}
    with pytest.raises(coordexp.UserError, match="holds no row"):
        coordexp.compare(logs, "compared")
    assert not list(Path("compared").iterdir())


def test_load_run_reads_a_log():
    run = coordexp.load_run(write_log(Path("a.jsonl"), "pure_ce"))
    assert run.variant == "run"
    assert run.manifest is None
    assert run.log.evals


def test_load_run_reads_a_run_directory():
    written = write_run("mixed", eval_row(25.0, 58, 0.1, 0.1, 33, 4.0))
    run = coordexp.load_run(written.path)
    assert (run.variant, run.seed) == ("mixed", 0)
    assert run.manifest is not None
    assert run.log.evals
