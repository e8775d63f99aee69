"""The pins and the lock, what imports what, and which modules a run vouches for."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from coordexp.storage.manifest import TRAINING_MODULES

ROOT = Path(__file__).resolve().parents[1]


def project_file() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def project() -> dict[str, Any]:
    return project_file()["project"]


def runtime_pins() -> list[str]:
    return project()["dependencies"]


def development_pins() -> list[str]:
    return project()["optional-dependencies"]["dev"]


LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-torch-cpu.lock")
BUILD_LOCKS = ("requirements-build.lock", ".ci/triton.lock")


def blocks(lock: str) -> list[list[str]]:
    """The lines of each package of a lock: its pin, then its hashes."""
    text = (ROOT / lock).read_text()
    found = re.split(r"^(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.M), flags=re.M)
    return [[line.strip(" \\") for line in block.splitlines()] for block in found if block]


def locked_versions() -> dict[str, str]:
    """Version by normalised name, without +cpu, from the locks."""
    pins = [block[0].split(" ; ")[0].split("==") for lock in LOCKS for block in blocks(lock)]
    return {canonicalize_name(name): Version(version).public for name, version in pins}


def installed_dependencies(requirements: list[str]) -> dict[str, str]:
    """Version by normalised name of what the requirements need here, directly or in turn."""
    versions: dict[str, str] = {}
    visited = set()
    ahead = [Requirement(requirement) for requirement in requirements]
    while ahead:
        requirement = ahead.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in visited:
            continue
        visited.add((name, extras))
        found = distribution(name)
        versions[name] = Version(found.version).public  # without +cpu
        for needed in map(Requirement, found.requires or ()):
            environments = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(map(needed.marker.evaluate, environments)):
                ahead.append(needed)
    return versions


def test_environment_yml_repeats_the_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == runtime_pins()


def test_every_dependency_is_pinned_and_explained():
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for pin in runtime_pins() + development_pins():
        assert re.fullmatch(r"[A-Za-z0-9_-]+==[0-9.]+", pin), pin
        assert f"`{pin.split('==')[0]}`" in explained, pin


def test_lock_holds_the_pins_themselves():
    locked = locked_versions()
    for pin in runtime_pins() + development_pins():
        name, version = pin.split("==")
        assert locked[canonicalize_name(name)] == Version(version).public


def test_lock_names_each_version_that_is_installed():
    installed = installed_dependencies(runtime_pins() + development_pins())
    of_the_interpreter = {"pip"}
    assert len(installed) > 150
    for name in installed.keys() - of_the_interpreter:
        assert locked_versions().get(name) == installed[name], name


@pytest.mark.parametrize("lock", LOCKS + BUILD_LOCKS)
def test_each_line_of_a_lock_has_a_pin_and_hashes(lock):
    assert "://" not in (ROOT / lock).read_text()
    for pin, *hashes in blocks(lock):
        assert re.match(r"[a-z0-9._-]+==[0-9a-z.]+(\+cpu)?( ; |$)", pin), pin
        assert hashes, pin
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", line) for line in hashes), pin


def test_build_lock_pins_the_build_backend():
    assert set(project_file()["build-system"]["requires"]) <= {
        block[0] for block in blocks("requirements-build.lock")
    }


def test_make_installs_nothing_without_a_hash():
    """But this package, whose files are those of the checkout."""
    steps = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/.installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installs = re.findall(r"pip install [^|\n]*", steps)
    own = [step for step in installs if step.endswith("--no-deps --no-build-isolation -e .")]
    assert len(own) == 1
    assert len(installs) == 5
    assert all("--require-hashes --no-deps" in step for step in installs if step not in own)
    in_ci = (ROOT / ".ci" / "run").read_text()
    assert all("--require-hashes" in line for line in re.findall("pip install.*", in_ci))


def tiny_wheel(folder: Path) -> Path:
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.mark.parametrize("change", [False, True])
def test_pip_refuses_a_file_whose_hash_the_lock_has_not(tmp_path, change):
    wheel = tiny_wheel(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if change:
        digest = ("1" if digest[0] == "0" else "0") + digest[1:]
    lock = tmp_path / "tiny.lock"
    lock.write_text(f"{wheel} \\\n    --hash=sha256:{digest}\n")
    options = ["--require-hashes", "--no-deps", "--no-index"]
    to = ["--target", str(tmp_path / "to"), "-r", str(lock)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--isolated", "install", *options, *to],
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "to" / "tiny.py").exists() is not change
    assert bool(done.returncode) is change
    assert ("DO NOT MATCH THE HASHES" in done.stderr) is change


def licences() -> ModuleType:
    """The program that writes docs/licences.md."""
    spec = spec_from_file_location("licences", ROOT / ".ci" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    program = module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def test_each_locked_package_has_a_permitted_licence():
    """As installed, and as the page lists it."""
    program = licences()
    names = program.locked_names()
    assert len(names) > 150
    assert program.PAGE.read_text().endswith("\n" + program.table(names) + "\n")


def test_a_licence_that_is_not_permitted_is_refused():
    program = licences()
    assert program.is_known("Apache-2.0 AND (MIT OR MPL-2.0)")
    assert not program.is_known("MIT AND AGPL-3.0-only")


def test_mlflow_is_imported_by_tracking_alone():
    knows = [
        p.relative_to(ROOT / "coordexp").as_posix()
        for p in (ROOT / "coordexp").rglob("*.py")
        if re.search(r"^\s*(import|from) mlflow", p.read_text(), re.M)
    ]
    assert sorted(knows) == [
        "tracking/database.py",
        "tracking/mlflow_import.py",
        "tracking/registration.py",
        "tracking/study_import.py",
    ]


def test_peft_is_imported_by_adapters_and_lora_alone():
    knows = [
        p.name
        for p in (ROOT / "coordexp").rglob("*.py")
        if re.search(r"^\s*(import|from) peft", p.read_text(), re.M)
    ]
    assert sorted(knows) == ["adapters.py", "lora.py"]


def test_analysis_and_report_import_no_torch():
    program = (
        "import sys, coordexp.cli.arguments, coordexp.study.plan, "
        "coordexp.analysis.recommendation.recommend, "
        "coordexp.analysis.comparison.compare, "
        "coordexp.analysis.audit.audit, coordexp.report.html; print('torch' in sys.modules, "
        "'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


BOOKKEEPING = {
    "training/launch.py",
    "config/checks.py",
    "config/command_line.py",
    "config/compose.py",
    "config/digests.py",
    "config/input_schema.py",
    "config/limits.py",
    "config/messages.py",
    "config/overrides.py",
    "config/package.py",
    "config/schema.py",
    "config/setting_types.py",
    "config/suggest.py",
    "config/training_schema.py",
    "config/yaml_file.py",
    "errors.py",
    "metrics.py",
    "models/base_manifest.py",
    "models/embeddings.py",
    "storage/digest_store.py",
    "storage/files.py",
    "storage/identity.py",
    "storage/logs/dialects.py",
    "storage/logs/doubts.py",
    "storage/logs/rollout_figures.py",
    "storage/logs/eval_sets.py",
    "storage/logs/jsonl.py",
    "storage/logs/log.py",
    "storage/logs/number_rows.py",
    "storage/logs/resembling.py",
    "storage/logs/rows.py",
    "storage/logs/writer.py",
    "storage/manifest.py",
    "storage/runs.py",
    "storage/token_tables.py",
    "storage/typed.py",
    "training/memory.py",
    "training/seal.py",
    "training/state.py",
    "training/interruption.py",
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


def test_manifest_digests_every_module_that_trains():
    """All that the trainer imports, but bookkeeping, and what makes the data, whose own bytes have
    a digest.
    """
    seen, ahead = set(), [ROOT / "coordexp" / "training" / "train.py"]
    while ahead:
        if (file := ahead.pop()) not in seen:
            seen.add(file)
            ahead += imported(file)
    found = {file.relative_to(ROOT / "coordexp").as_posix() for file in seen}
    names = ("batches", "chat", "packing", "patches", "records")
    read_by_training = {f"data/{name}.py" for name in names}
    makes_data = {name for name in found if name.startswith("data/")} - read_by_training
    assert set(TRAINING_MODULES) == found - BOOKKEEPING - makes_data


def test_names_of_tests_are_sixty_characters_at_most():
    long = []
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and len(node.name) > len("test_") + 60:
                long.append(f"{file.name}: {node.name}")
    assert long == []
