"""The report of studies that the analysis has read, compared and decided."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import reports
from report_readers import Page, page, tables_of
from studies import eval_row, write_run, write_study

from coordexp.cli.main import main
from coordexp.report.html import write_report
from coordexp.storage.files import read_json
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_sealed

ROWS = {
    "softce_w1_gate": eval_row(24.1, 55.5, 0.171, 0.086, 40.0, 5.0),
    "pure_ce": eval_row(23.6, 55.1, 0.218, 0.167, 39.0, 3.0),
    "mixed": eval_row(24.3, 56.5, 0.200, 0.104, 41.0, 4.0),
}
FIGURES = {"effects", "course", "curves", "ranks", "leads", "ratios", "slices", "losses"}
PYTHON_VALUES = r"\b(None|Undefined|nan|inf)\b"


def decided(runs: list[RunDirectory], **study: Any) -> Path:
    path = write_study(runs, **study)
    for step in ("audit", "compare", "collect-probes", "recommend"):
        main(["step", step, str(path)])
    return path


def figures_of(study: Path) -> set[str]:
    return {path.stem for path in study.glob("figures/*.svg")}


def renamed(run: RunDirectory, variant: str) -> RunDirectory:
    """The same run under another variant's name."""
    new = RunDirectory(Path("results/runs") / variant / run.path.name)
    shutil.copytree(run.path, new.path)
    write_sealed(new.manifest, read_json(new.manifest) | {"variant": variant})
    return new


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The absolute path of a study with every part there, and its report."""
    root = tmp_path_factory.mktemp("whole")
    with chdir(root):
        study = decided([write_run(variant, row, tables=True) for variant, row in ROWS.items()])
        write_report(study)
    return root / study


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which `coordexp compare` was called on the logs of the same runs."""
    root = tmp_path_factory.mktemp("logs")
    with chdir(root):
        named = []
        for variant, row in ROWS.items():
            shutil.copy(write_run(variant, row).log, f"{variant}.jsonl")
            named.append(f"{variant}={variant}.jsonl")
        shutil.rmtree("results")
        main(["compare", *named, "--out", "out"])
    return root


def test_complete_study_has_every_figure_and_table(whole: Path) -> None:
    assert figures_of(whole) == FIGURES
    found = Page((whole / "report.html").read_text())
    assert {"roles", "leads", "stability", "audit", "checks"} <= found.tables.keys()
    assert {"temperatures", "plateau", "drift", "votes", "trained"} <= found.tables.keys()
    assert not re.search(PYTHON_VALUES, found.text)


def test_logs_alone_give_leads_without_intervals(logs: Path) -> None:
    found = Page((logs / "out/report.html").read_text())
    assert figures_of(logs / "out") == FIGURES - {"slices"}
    assert tables_of(found.section("evidence")).keys() == {"leads", "eliminations"}, "no claims"
    assert "[" not in found.tables["leads"].cell("pure_ce over mixed", "coord acc").text.split()[0]
    assert not re.search(PYTHON_VALUES, found.text)


def test_compare_command_of_the_page_repeats_the_study(logs: Path) -> None:
    section = Page((logs / "out/report.html").read_text()).section("again")
    (command,) = section.all("pre")
    arguments = shlex.split(command.text.replace("--out out", "--out again"))
    with chdir(logs):
        shutil.rmtree("again", ignore_errors=True)
        main(arguments[1:])
        first, second = (read_json(Path(out, "preregistration.json")) for out in ("out", "again"))
    assert first["hash8"] == second["hash8"]


def readable(study: Path, missing_figures: set[str]) -> Page:
    """The page of a study with parts missing, which shows no Python values and no other figures."""
    found = page(study)
    assert figures_of(study) == FIGURES - missing_figures
    assert not re.search(PYTHON_VALUES, found.text)
    return found


def headline(found: Page) -> str:
    (heading,) = found.card.all("h1")
    return heading.text


def test_equal_runs_give_a_primary_that_is_said_to_be_a_preference() -> None:
    run = write_run("pure_ce", ROWS["pure_ce"], tables=True)
    found = readable(decided([run, renamed(run, "again")]), set())
    assert headline(found) == "Start Stage-2 from pure_ce (seed 0, step 360)"
    assert "a preference, not a finding: pure_ce and again are indistinguishable" in found.card.text
    assert "eliminations" not in found.tables
    assert "here none did" in found.section("evidence").text


def test_run_that_diverged_at_once_is_not_eligible() -> None:
    runs = [write_run(v, row) for v, row in ROWS.items() if v != "mixed"]
    dead = write_run("mixed", ROWS["mixed"], status="diverged", reason="diverged at step 1")
    dead.log.write_text("")
    found = readable(decided([*runs, dead]), {"slices"})
    assert headline(found).startswith("Start Stage-2 from pure_ce")
    assert "Not eligible" in [heading.text for heading in found.card.all("h2")]
    assert "diverged at step 1" in found.card.text
    assert found.tables["audit"].text("mixed s0", "verdict").startswith("✗ missing")


def test_study_of_diverged_runs_recommends_nothing() -> None:
    runs = []
    for variant, row in ROWS.items():
        runs.append(write_run(variant, row, status="diverged", reason="diverged at step 3"))
    found = readable(decided(runs), FIGURES - {"ratios", "losses"})
    assert headline(found).startswith("No recommendation")
    assert "there are no curves" in found.section("curves").text
    assert "nothing to compare" in found.section("evidence").text
    assert "leads" not in found.tables


def test_five_variants_of_three_seeds_are_all_shown() -> None:
    runs = [write_run(v, row, seed=seed) for v, row in ROWS.items() for seed in range(3)]
    copied = [*runs[:3], *runs[6:]]
    runs += [renamed(run, f"{run.path.parent.name}_again") for run in copied]
    found = readable(decided(runs, seeds=3), {"slices"})
    (study,) = [node.text for node in found.card.all("p") if "study" in node.classes]
    assert "5 variants · 3 seeds a variant" in study
    audited = [row[0].text for row in found.tables["audit"].rows]
    assert len(audited) == 15
    assert "mixed_again s2" in audited
    assert "thin: seeds" in found.html


def test_run_with_a_scaling_fault_is_not_eligible() -> None:
    runs = []
    for variant, row in ROWS.items():
        runs.append(write_run(variant, row, ratio=1 / 8 if variant == "mixed" else 1.0))
    found = readable(decided(runs), {"slices"})
    assert found.tables["audit"].text("mixed s0", "verdict") == "✗ ≈ 1/GAS"
    assert "mixed not eligible" in [row[0].text for row in found.tables["step-360"].rows]
    assert "GAS is 8" in found.section("audit").text


@pytest.fixture(scope="module")
def second_report(whole: Path) -> tuple[dict[Path, bytes], list[str]]:
    """Writes the report again in a fresh interpreter.

    Returns the files as they were before, and the modules that were imported.
    """
    paths = [whole / "report.html", *whole.glob("figures/*"), *whole.glob("tables/*")]
    files = {path: path.read_bytes() for path in paths}
    program = (
        "import sys; from pathlib import Path; from coordexp.report.html import write_report;"
        "write_report(Path(sys.argv[1])); print(*sys.modules)"
    )
    root = whole.parents[2]
    repository = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program, str(whole.relative_to(root))],
        cwd=root,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": repository},
        check=True,
        capture_output=True,
        text=True,
    )
    return files, done.stdout.split()


def test_same_files_give_the_same_bytes(second_report) -> None:
    files, _ = second_report
    assert {path.suffix for path in files} == {".html", ".svg", ".csv", ".tex"}
    for path, content in files.items():
        assert path.read_bytes() == content, path.name


def test_report_imports_nothing_heavy(second_report) -> None:
    _, modules = second_report
    assert "coordexp.report.html" in modules
    assert not {"torch", "transformers", "mlflow", "pandas", "matplotlib"} & set(modules)


def test_figure_that_is_no_longer_drawn_is_removed() -> None:
    study = reports.study_files()
    write_report(study)
    assert figures_of(study) == FIGURES
    write_report(reports.change(study, "comparison", lambda c: c.update(slices={})))
    assert figures_of(study) == FIGURES - {"slices"}
