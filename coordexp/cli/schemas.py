"""JSON Schemas of the files of a study and a run, generated from their types.

python -m coordexp.cli.schemas        writes workflow/schemas/<name>.schema.json
"""

from __future__ import annotations

import json
from pathlib import Path

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.findings import Recommendation
from coordexp.config.package import package_data
from coordexp.storage.files import write_text
from coordexp.storage.manifest import RunManifest
from coordexp.storage.typed import json_schema
from coordexp.study.preregistration import Preregistration
from coordexp.study.study_files import StudyDigests
from coordexp.study.study_runs import StudyRuns

DIRECTORY = package_data("schemas")

# The type of each file, by the file's name without `.json`.
TYPES: dict[str, type] = {
    "run": RunManifest,
    "preregistration": Preregistration,
    "runs": StudyRuns,
    "audit": Audit,
    "comparison": Comparison,
    "probe": StudyProbe,
    "recommendation": Recommendation,
    "digests": StudyDigests,
}


def schema_path(name: str) -> Path:
    return DIRECTORY / f"{name}.schema.json"


def schema_text(name: str) -> str:
    """The JSON Schema of `<name>.json`, as text of the committed file."""
    schema = json_schema(TYPES[name], f"{name}.json")
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name in TYPES:
        write_text(schema_path(name), schema_text(name))
        print(schema_path(name))


if __name__ == "__main__":
    main()
