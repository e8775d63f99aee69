"""The committed JSON Schemas are generated from the types, and written files satisfy them."""

from __future__ import annotations

import json

import jsonschema
import pytest
from studies import eval_row, write_run, write_study

from coordexp.analysis.audit.findings import read_audit
from coordexp.analysis.comparison.findings import read_comparison
from coordexp.analysis.comparison.probe_findings import read_study_probe
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.schemas import TYPES, schema_path, schema_text
from coordexp.cli.steps import audit_study, collect_probes, compare_study, recommend_study
from coordexp.errors import UserError
from coordexp.storage.typed import write_sealed
from coordexp.study.preregistration import read_preregistration
from coordexp.study.study_runs import read_study_runs


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
        collect_probes(study)
        recommend_study(study)
        return {path.stem: path.absolute() for path in [runs[0].manifest, *study.glob("*.json")]}


READERS = {
    "audit": read_audit,
    "comparison": read_comparison,
    "probe": read_study_probe,
    "recommendation": read_recommendation,
    "preregistration": read_preregistration,
    "runs": read_study_runs,
}


@pytest.mark.parametrize("name", READERS)
def test_wrong_file_is_one_line_that_names_file_and_key(files, name):
    path = files[name]
    whole = json.loads(path.read_text())
    digests = path.parent / "digests.json"
    recorded = digests.read_bytes()
    digests.unlink()  # it would tell the edit first
    without = [{k: v for k, v in whole.items() if k != key} for key in whole]
    try:
        for content in (*without, {}, [], None, 5):
            if isinstance(content, dict):
                write_sealed(path, content)
            else:
                path.write_text(json.dumps(content))
            try:
                READERS[name](path.parent)  # a key with a default may be missing
            except UserError as error:
                message = str(error)
                assert message.startswith(str(path))
                assert "\n" not in message
                missing = set(whole) - set(content) if isinstance(content, dict) else {"object"}
                assert any(f"`{key}`" in message for key in missing)
            else:
                assert content in without
    finally:
        path.write_text(json.dumps(whole))
        digests.write_bytes(recorded)


@pytest.mark.parametrize("name", TYPES)
def test_written_file_satisfies_its_schema(files, name):
    schema = json.loads(schema_path(name).read_text())
    jsonschema.validate(json.loads(files[name].read_text()), schema)
