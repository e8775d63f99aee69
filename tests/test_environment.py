"""One list of pinned dependencies, and a house whose imports go one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import yaml

from coordexp.storage.runs import TRAINING_MODULES

ROOT = Path(__file__).resolve().parents[1]


def pins(path: Path) -> list[str]:
    return [
        line.strip()
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_environment_yml_repeats_the_one_list():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == pins(ROOT / "requirements.txt")


def test_every_dependency_is_pinned_and_justified():
    told = (ROOT / "docs" / "dependencies.md").read_text()
    for pin in pins(ROOT / "requirements.txt") + pins(ROOT / "requirements-dev.txt"):
        assert re.fullmatch(r"[A-Za-z0-9_-]+==[0-9.]+", pin), pin
        assert f"`{pin.split('==')[0]}`" in told, pin


def test_only_tracking_knows_mlflow():
    knows = [
        p.name
        for p in (ROOT / "coordexp").rglob("*.py")
        if re.search(r"^\s*(import|from) mlflow", p.read_text(), re.M)
    ]
    assert knows == ["mlflow_import.py"]


def test_only_adapters_knows_peft():
    knows = [
        p.name
        for p in (ROOT / "coordexp").rglob("*.py")
        if re.search(r"^\s*(import|from) peft", p.read_text(), re.M)
    ]
    assert knows == ["adapters.py"]


def test_analysis_report_and_planning_do_not_import_torch():
    program = (
        "import sys, coordexp.cli, coordexp.study.plan, coordexp.analysis.recommendation.recommend, "
        "coordexp.analysis.comparison.compare, "
        "coordexp.analysis.audit.audit, coordexp.report.html; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


BOOKKEEPING = {
    "config/compose.py",
    "config/schema.py",
    "errors.py",
    "metrics.py",
    "models/embeddings.py",
    "storage/files.py",
    "storage/logs.py",
    "storage/runs.py",
    "storage/token_tables.py",
    "training/memory.py",
    "training/state.py",
}


def imported(file: Path) -> set[Path]:
    """The modules of this package that a file imports."""
    nodes = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    names = {
        name
        for node in nodes
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    }
    return {path for name in names if (path := ROOT / f"{name.replace('.', '/')}.py").is_file()}


def test_every_module_that_can_change_a_trained_weight_is_vouched_for():
    """All that the trainer imports, but bookkeeping, and what makes the data, whose own bytes have a digest."""
    seen, ahead = set(), [ROOT / "coordexp" / "training" / "train.py"]
    while ahead:
        if (file := ahead.pop()) not in seen:
            seen.add(file)
            ahead += imported(file)
    found = {file.relative_to(ROOT / "coordexp").as_posix() for file in seen}
    read_by_training = {f"data/{name}.py" for name in ("batches", "packing", "patches", "records")}
    makes_data = {name for name in found if name.startswith("data/")} - read_by_training
    assert set(TRAINING_MODULES) == found - BOOKKEEPING - makes_data
