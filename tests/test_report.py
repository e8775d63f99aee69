"""The report of real studies: what the analysis writes, drawn and laid out."""

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
from report_readers import Page, page
from studies import eval_row, write_run, write_study

from coordexp.cli import main
from coordexp.report.html import write_report
from coordexp.storage.files import read_json, write_json
from coordexp.storage.runs import RunDirectory

ROWS = {
    "softce_w1_gate": eval_row(24.1, 55.5, 0.171, 0.086, 40.0, 5.0),
    "pure_ce": eval_row(23.6, 55.1, 0.218, 0.167, 39.0, 3.0),
    "mixed": eval_row(24.3, 56.5, 0.200, 0.104, 41.0, 4.0),
}
FIGURES = {"effects", "curves", "ranks", "leads", "ratios", "slices", "losses"}


def decided(runs: list[RunDirectory], **study: Any) -> Path:
    path = write_study(runs, **study)
    for step in ("audit", "compare", "fitness", "recommend"):
        main(["step", step, str(path)])
    return path


def figures_of(study: Path) -> set[str]:
    return {path.stem for path in study.glob("figures/*.svg")}


def renamed(run: RunDirectory, variant: str) -> RunDirectory:
    """The same run under another variant's name."""
    new = RunDirectory(Path("results/runs") / variant / run.path.name)
    shutil.copytree(run.path, new.path)
    write_json(new.manifest, read_json(new.manifest) | {"variant": variant})
    return new


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with every part there, and its report; absolute, so that tests may stand anywhere."""
    root = tmp_path_factory.mktemp("whole")
    with chdir(root):
        study = decided([write_run(variant, row, tables=True) for variant, row in ROWS.items()])
        write_report(study)
    return root / study


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`coordexp compare` of the same runs' logs alone; the directory it was called in."""
    root = tmp_path_factory.mktemp("logs")
    with chdir(root):
        named = []
        for variant, row in ROWS.items():
            shutil.copy(write_run(variant, row).log, f"{variant}.jsonl")
            named.append(f"{variant}={variant}.jsonl")
        shutil.rmtree("results")
        main(["compare", *named, "--out", "out"])
    return root


def shape(value: Any) -> Any:
    """The keys of a value, however deep; of a list those of all its entries; names of variants and metrics left out."""
    if isinstance(value, list):
        found: dict[str, Any] = {}
        for one in value:
            if isinstance(one, dict):
                for key, below in one.items():
                    found[key] = found.get(key) or shape(below)
        return found
    named = isinstance(value, dict) and any(
        key in value for key in (*ROWS, *reports.METRICS, *reports.MAIN, "x1", "small")
    )
    if isinstance(value, dict):
        return (
            shape(list(value.values()))
            if named
            else {key: shape(below) for key, below in value.items()}
        )
    return None


@pytest.mark.parametrize("name", ["audit", "comparison", "recommendation"])
def test_the_files_that_other_tests_write_by_hand_have_the_keys_of_real_ones(
    whole: Path, name: str
) -> None:
    by_hand = shape(read_json(reports.study_files() / f"{name}.json"))
    real = shape(read_json(whole / f"{name}.json"))

    def missing(expected: Any, found: Any, where: str) -> list[str]:
        if not isinstance(expected, dict) or not isinstance(found, dict):
            return []
        lost = [f"{where}.{key}" for key in expected.keys() - found.keys()]
        return lost + [
            line
            for key in expected.keys() & found.keys()
            for line in missing(expected[key], found[key], f"{where}.{key}")
        ]

    assert missing(by_hand, real, name) == []


def test_a_real_study_has_every_figure_and_its_recommendation_on_the_card(whole: Path) -> None:
    found, text = (
        read_json(whole / "recommendation.json"),
        Page((whole / "report.html").read_text()).text,
    )
    assert figures_of(whole) == FIGURES
    assert f"Start Stage-2 from pure_ce (seed 0, step {found['decision_step']})" in text
    for line in (
        *found["would_overturn"],
        *found["would_take"],
        *found["caveats"],
        *found["primary"]["reasons"],
    ):
        assert line in text
    assert "paired bootstrap" in text


def test_real_logs_give_a_page_and_a_command_that_gives_the_same_study(logs: Path) -> None:
    text = Page((logs / "out/report.html").read_text()).text
    assert figures_of(logs / "out") == FIGURES - {"slices"}
    assert "no intervals, and no claim" in text
    assert not re.search(r"\b(None|Undefined|nan|inf)\b", text)
    (command,) = re.findall(
        r"<pre>(coordexp compare .*?)</pre>", (logs / "out/report.html").read_text()
    )
    with chdir(logs):
        shutil.rmtree("again", ignore_errors=True)
        main(shlex.split(command.replace("--out out", "--out again"))[1:])
        assert (
            read_json(Path("again/preregistration.json"))["hash8"]
            == read_json(Path("out/preregistration.json"))["hash8"]
        )


def tied() -> Path:
    run = write_run("pure_ce", ROWS["pure_ce"], tables=True)
    return decided([run, renamed(run, "again")])


def diverged_at_once() -> Path:
    """Before the first row: the log is empty, as is the pre-flight."""
    runs = [write_run(v, row) for v, row in ROWS.items() if v != "mixed"]
    dead = write_run(
        "mixed", ROWS["mixed"], status="diverged", reason="diverged at step 1", preflight={}
    )
    dead.log.write_text("")
    return decided([*runs, dead])


def all_diverged() -> Path:
    return decided(
        [
            write_run(v, row, status="diverged", reason="diverged at step 3")
            for v, row in ROWS.items()
        ]
    )


def five_variants_three_seeds() -> Path:
    runs = [write_run(v, row, seed=seed) for v, row in ROWS.items() for seed in range(3)]
    return decided(
        [*runs, *(renamed(run, f"{run.path.parent.name}_again") for run in (*runs[:3], *runs[6:]))],
        seeds=3,
    )


def scaling_fault() -> Path:
    return decided(
        [write_run(v, row, ratio=1 / 8 if v == "mixed" else 1.0) for v, row in ROWS.items()]
    )


@pytest.mark.parametrize(
    ("build", "missing", "says"),
    [
        (tied, {"leads"}, ["No primary at step 360", "are tied"]),
        (
            diverged_at_once,
            {"slices"},
            ["Start Stage-2 from pure_ce", "Not eligible", "diverged at step 1", "✗ missing"],
        ),
        (
            all_diverged,
            FIGURES - {"ratios", "losses"},
            ["No recommendation", "there are no curves", "nothing to compare"],
        ),
        (
            five_variants_three_seeds,
            {"slices"},
            ["3 seeds a variant", "5 variants", "mixed_again s2", "thin: seeds"],
        ),
        (scaling_fault, {"slices"}, ["✗ ≈ 1/GAS", "mixed not eligible", "GAS is 8"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_study_with_parts_missing_has_a_report_that_says_so(build, missing, says) -> None:
    study = build()
    found = page(study)
    assert figures_of(study) == FIGURES - missing
    for words in says:
        assert words in found.text, f"{words!r} is not said"
    assert not re.search(r"\b(None|Undefined|nan|inf)\b", found.text.replace("(loss nan)", ""))


def test_the_same_files_give_the_same_bytes_and_nothing_heavy_is_needed(whole: Path) -> None:
    files = [whole / "report.html", *sorted(whole.glob("figures/*.svg"))]
    before = [path.read_bytes() for path in files]
    program = (
        "import sys; from pathlib import Path; from coordexp.report.html import write_report; write_report(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'mlflow', 'pandas', 'matplotlib'} & set(sys.modules), 'heavy imports'"
    )
    root = whole.parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", program, str(whole.relative_to(root))],
        cwd=root,
        env=environment,
        check=True,
    )
    assert [path.read_bytes() for path in files] == before


def test_a_figure_that_is_no_longer_drawn_is_removed() -> None:
    study = reports.study_files()
    write_report(study)
    assert figures_of(study) == FIGURES
    write_report(reports.change(study, "comparison", lambda c: c.update(slices={})))
    assert figures_of(study) == FIGURES - {"slices"}
