"""The committed JSON Schemas are generated from the types, and written files satisfy them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from studies import eval_row, write_run, write_study

from coordexp.schemas import TYPES, schema_path, schema_text
from coordexp.study.inputs import collect


@pytest.mark.parametrize("name", TYPES)
def test_committed_schema_is_the_generated_one(name):
    assert schema_path(name).read_text() == schema_text(name), "run `python -m coordexp.schemas`"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The directory of a study with one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        run = write_run("mixed", eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0))
        path = write_study([run])
        collect(path)
        return {"run": run.manifest.absolute(), **{p.stem: p.absolute() for p in path.iterdir()}}


@pytest.mark.parametrize("name", ["run", "preregistration", "runs"])
def test_written_file_satisfies_its_schema(study, name):
    schema = json.loads(schema_path(name).read_text())
    jsonschema.validate(json.loads(Path(study[name]).read_text()), schema)
