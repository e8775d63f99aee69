"""The committed JSON Schemas are generated from the types, and written files satisfy them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from studies import eval_row, write_run, write_study

from coordexp.cli.schemas import TYPES, schema_path, schema_text
from coordexp.cli.steps import audit_study, compare_study


@pytest.mark.parametrize("name", TYPES)
def test_committed_schema_is_the_generated_one(name):
    assert schema_path(name).read_text() == schema_text(name), (
        "run `python -m coordexp.cli.schemas`"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a study of two runs and of one of the runs, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        row = eval_row(24.0, 55.0, 0.2, 0.1, 40.0, 4.0)
        runs = [write_run(variant, row, tables=True) for variant in ("mixed", "pure_ce")]
        study = write_study(runs)
        audit_study(study)
        compare_study(study)
        return {path.stem: path.absolute() for path in [runs[0].manifest, *study.glob("*.json")]}


@pytest.mark.parametrize("name", ["run", "preregistration", "runs", "audit", "comparison"])
def test_written_file_satisfies_its_schema(files, name):
    schema = json.loads(schema_path(name).read_text())
    jsonschema.validate(json.loads(files[name].read_text()), schema)
