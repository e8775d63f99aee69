"""The digest of a step's code covers what the step runs, and nothing of the training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.cli import code_digest as this
from coordexp.cli.code_digest import code_digest, reached_files
from coordexp.cli.steps import STUDY_STEPS

PACKAGE = Path(this.__file__).parents[1]
ANALYSIS = ("audit", "compare", "collect-probes", "recommend", "report")

# The modules that a step has loaded when it fails for want of a study, beside those of the version.
LOADED_BY = """
import json, sys
from pathlib import Path
import coordexp
of_every_program = set(sys.modules)
from coordexp.cli.steps import STUDY_STEPS
from coordexp.errors import UserError
try:
    STUDY_STEPS[sys.argv[1]](Path("no study"))
except UserError:
    pass
loaded = {n for n in sys.modules if n.startswith("coordexp.")} - of_every_program
print(json.dumps([sys.modules[n].__file__ for n in loaded]))
"""


def reached(step: str) -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for path in reached_files(STUDY_STEPS[step])}


@pytest.mark.parametrize("step", ANALYSIS)
def test_every_module_that_a_step_loads_is_reached(step):
    command = [sys.executable, "-c", LOADED_BY, step]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {Path(file) for file in json.loads(done.stdout)}
    modules = {path for path in loaded if path.name not in ("__init__.py", "steps.py")}
    assert PACKAGE / "metrics.py" in modules
    assert modules <= set(reached_files(STUDY_STEPS[step]))


@pytest.mark.parametrize("step", ANALYSIS)
def test_metrics_are_reached_and_training_is_not(step):
    files = reached(step)
    assert "metrics.py" in files
    packages = {file.partition("/")[0] for file in files}
    assert not packages & {"training", "models", "losses", "probe", "tracking"}


def test_templates_are_reached_by_the_report_alone():
    templates = {file for step in ANALYSIS for file in reached(step) if file.endswith(".html")}
    assert "report/templates/report.html" in templates
    assert templates <= reached("report")
    assert not any(templates & reached(step) for step in ANALYSIS if step != "report")


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A copy of the package that digests are taken of."""
    copy = tmp_path / "coordexp"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(this, "_PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget() -> None:
    this._imports_of_file.cache_clear()
    this._data_files.cache_clear()


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("metrics.py", set(ANALYSIS)),
        ("analysis/audit/ratios.py", {"audit", "report"}),
        ("analysis/recommendation/reasons.py", {"recommend"}),
        ("report/templates/card.html", {"report"}),
        ("training/step.py", set()),
        ("losses/fused.py", set()),
    ],
)
def test_edited_file_changes_the_digests_of_its_steps(copied, file, changed):
    before = {step: code_digest(STUDY_STEPS[step]) for step in ANALYSIS}
    with (copied / file).open("a") as edited:
        edited.write("\n")
    forget()
    after = {step: code_digest(STUDY_STEPS[step]) for step in ANALYSIS}
    assert {step for step in ANALYSIS if before[step] != after[step]} == changed
