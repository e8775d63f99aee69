"""`coordexp compare NAME=PATH …` and its DAG: the same study directory from runs that exist
already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import composed
from mlflow import MlflowClient
from note import write_log
from studies import NOTE_RULE, eval_row, write_run, write_study
from workflows import copy_project, served, snakemake

from coordexp.cli.main import main
from coordexp.config.digests import plain
from coordexp.storage.files import read_json
from coordexp.storage.logs.jsonl import read_log
from coordexp.study.plan import plan_study
from coordexp.study.sources import read_source

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "preregistration.json",
    "digests.json",
    "runs.json",
    "audit.json",
    "audit.csv",
    "comparison.json",
    "comparison.csv",
    "probe.json",
    "recommendation.json",
    "recommendation.md",
    "report.html",
    "figures",
    "tables",
)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def logs(tmp_path) -> list[str]:
    return [
        f"{v}={write_log(tmp_path / f'{v}.jsonl', v).name}"
        for v in ("pure_ce", "softce_w1_gate", "mixed")
    ]


def test_it_writes_a_whole_study_directory_and_prints_the_card(logs, capsys):
    main(["compare", *logs, "--out", "out"])
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(FILES)
    printed = capsys.readouterr().out
    assert printed == Path("out/recommendation.md").read_text()
    assert printed.startswith("# Start Stage-2 from ")
    main(["show", "out"])
    assert capsys.readouterr().out == printed


def test_each_log_is_parsed_once(logs, monkeypatch):
    parsed = []

    def counted(path, told):
        parsed.append(path.name)
        return read_log(path, told)

    monkeypatch.setattr("coordexp.study.sources.read_log", counted)
    read_source.cache_clear()
    main(["compare", *logs, "--out", "out"])
    assert sorted(parsed) == ["mixed.jsonl", "pure_ce.jsonl", "softce_w1_gate.jsonl"]


def test_rule_of_logs_without_fitted_temperature_is_the_notes(logs):
    main(["compare", *logs, "--out", "out"])
    assert read_json(Path("out/preregistration.json"))["rule"] == plain(NOTE_RULE)
    changed = Path("rule.yaml")
    changed.write_text("margins: {expected_bin_mae: 2.0}\n")
    main(["compare", *logs, "--out", "changed", "--rule", str(changed)])
    rule = read_json(Path("changed/preregistration.json"))["rule"]
    assert rule == plain(NOTE_RULE) | {"margins": NOTE_RULE.margins | {"expected_bin_mae": 2.0}}


def test_rule_of_runs_with_fitted_temperature_is_the_default_one():
    one, other = run_pair("1e-3")
    main(["compare", f"a={one.path}", f"b={other.path}", "--out", "out"])
    assert read_json(Path("out/preregistration.json"))["rule"] == plain(composed().study.rule)
    found = read_json(Path("out/recommendation.json"))
    assert list(found["primary"]["metrics"])[:2] == ["crps", "nll"]
    assert found["confirmatory"][0]["metric"] == "crps"


def test_same_logs_give_the_same_study_and_others_are_refused(logs):
    main(["compare", *logs, "--out", "out"])
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    main(["compare", *logs, "--out", "out"])
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    with pytest.raises(SystemExit, match="out: holds another study"):
        main(["compare", *logs[:2], "--out", "out"])
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_failed_comparison_does_not_block_the_corrected_one(logs):
    log = Path("mixed.jsonl").read_text()
    Path("mixed.jsonl").write_text(
        log.replace('"global_step/max_steps": "', '"global_step/max_steps": "9')
    )
    Path("elsewhere").mkdir()
    Path("link").symlink_to("elsewhere")
    for out in ("out", "link"):
        with pytest.raises(SystemExit, match=r"share no eval step: .*--step"):
            main(["compare", *logs, "--out", out])
        assert not list(Path(out).iterdir())
    Path("mixed.jsonl").write_text(log)
    with pytest.raises(SystemExit, match=r"^coordexp: \.: a directory, not a file"):
        main(["compare", *logs, "--out", "out", "--evidence", "."])
    for out in ("out", "link"):
        main(["compare", *logs, "--out", out])
    before = {path.name for path in Path("out").iterdir()}
    with pytest.raises(SystemExit, match="a directory, not a file"):
        main(["compare", *logs, "--out", "out", "--evidence", "."])
    assert {path.name for path in Path("out").iterdir()} == before, "a study that was there stays"
    assert Path("link").is_symlink()


def test_a_log_that_grows_while_it_is_compared_is_noticed(logs):
    main(["compare", *logs, "--out", "out"])
    with open("mixed.jsonl", "a") as log:
        log.write(json.dumps({"global_step/max_steps": "720/720", "eval_loss": 1.0}) + "\n")
    with pytest.raises(SystemExit, match=r"mixed.jsonl: has changed since the study began"):
        main(["step", "compare", "out"])


def broken_middle() -> None:
    text = Path("pure_ce.jsonl").read_text().splitlines()
    text[3] = text[3][:20]
    Path("pure_ce.jsonl").write_text("\n".join(text) + "\n")


@pytest.mark.parametrize(
    ("prepare", "arguments", "says"),
    [
        (None, ["pure_ce.jsonl", "--out", "out"], "must be NAME=PATH"),
        (None, ["a=nowhere.jsonl", "--out", "out"], "nowhere.jsonl: no such file"),
        (None, ["a=pure_ce.jsonl", "--out", "pure_ce.jsonl"], "is not a study directory"),
        (None, ["a=pure_ce.jsonl", "--out", "taken"], "is not a study directory"),
        (
            None,
            ["a=pure_ce.jsonl", "--out", "out", "--rule", "nowhere.yaml"],
            "nowhere.yaml: no such file",
        ),
        (
            None,
            ["a=pure_ce.jsonl", "--out", "out", "--rule", "taken/rule.yaml"],
            "cannot rank variants: each objective",
        ),
        (None, ["a=pure_ce.jsonl", "--out", "out", "--rule", "taken/typo.yaml"], "margin"),
        (None, ["a=pure_ce.jsonl", "--out", "out", "--image-side", "0"], "image side 0"),
        (broken_middle, ["a=pure_ce.jsonl", "--out", "out"], "line 4 is broken"),
    ],
)
@pytest.mark.usefixtures("logs")
def test_a_slip_costs_one_line(prepare, arguments, says):
    Path("taken").mkdir()
    Path("taken/rule.yaml").write_text("rule:\n  metrics: [expected_bin_mae, eval_loss]\n")
    Path("taken/typo.yaml").write_text("rule:\n  margin: {}\n")
    if prepare:
        prepare()
    with pytest.raises(SystemExit) as refused:
        main(["compare", *arguments])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_imports_neither_torch_nor_mlflow(logs):
    program = (
        "import sys; from coordexp.cli.main import main; "
        f"main(['compare', *{logs!r}, '--out', 'out']); print('torch' in sys.modules, 'mlflow' in "
        "sys.modules, file=sys.stderr)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["False", "False"]


def run_pair(lr: str):
    overrides = (f"optim.lr={lr}",)
    return [
        write_run(
            "pure_ce", eval_row(23.0, 55, 0.2, 0.2, 30, 3.0), overrides=overrides, tables=True
        ),
        write_run("mixed", eval_row(25.0, 58, 0.1, 0.1, 33, 4.0), overrides=overrides, tables=True),
    ]


def test_run_directories_keep_their_tables_manifests_and_checkpoints():
    one, other = run_pair("1e-3")
    main(["compare", f"a={one.path}", f"b={other.path}", "--out", "out"])
    found = read_json(Path("out/recommendation.json"))
    assert found["primary"]["variant"] == "a"
    assert found["primary"]["checkpoint"] == str(one.checkpoint(360))
    assert found["confidence"]["stage1_ranking"]["grade"] == "provisional"
    assert found["confirmatory"][0]["verdict"] in ("superior", "better", "inconclusive")


def test_a_study_is_compared_with_an_earlier_one():
    studies = []
    for lr in ("1e-3", "5e-4"):
        study = write_study(run_pair(lr))
        for verb in ("audit", "compare", "collect-probes", "recommend"):
            main(["step", verb, str(study)])
        studies.append(study)
    main(["compare", f"old={studies[0]}", f"new={studies[1]}", "--out", "out"])
    comparison = read_json(Path("out/comparison.json"))
    names = [row["variant"] for row in comparison["snapshots"][0]["rows"]]
    assert names == ["old/pure_ce", "old/mixed", "new/pure_ce", "new/mixed"]
    found = read_json(Path("out/recommendation.json"))
    assert any("optim.lr" in caveat for caveat in found["caveats"])
    assert len(comparison["differences"]) == 6 * 5


def test_the_dag_is_named_by_the_bytes_of_the_logs(logs):
    settings = {"logs": " ".join(logs)}
    first = plan_study(settings)
    assert first.path.parent == Path("results/compare_logs")
    assert plan_study({"logs": logs}).path == first.path
    with open("mixed.jsonl", "a") as log:
        log.write(json.dumps({"global_step/max_steps": "720/720", "eval_loss": 1.0}) + "\n")
    assert plan_study(settings).path != first.path


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of what a clone holds; we stand in it."""
    with served(copy_project(tmp_path / "clone")) as copy:
        monkeypatch.chdir(copy)
        yield copy


def test_compare_logs_without_logs_says_what_is_missing(tmp_path):
    done = snakemake(copy_project(tmp_path / "clone"), "-n", "compare_logs", check=False)
    assert done.returncode != 0
    assert "compare_logs: give the logs: --config logs=" in done.stderr


def test_a_file_in_the_place_of_results_is_one_line(tmp_path):
    clone = copy_project(tmp_path / "clone")
    (clone / "results").write_text("a file")
    done = snakemake(clone, "-n", "stage1_ablation", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("\nstage1_ablation: results: not a directory: move it away\n")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_dag_goes_from_logs_to_mlflow_and_trains_nothing(logs, clone):
    given = "logs=" + " ".join(entry.replace("=", "=../") for entry in logs)
    done = snakemake(clone, "compare_logs", "--config", given)
    assert "# Start Stage-2 from " in done.stdout
    (study,) = [path for path in Path("results/compare_logs").iterdir() if not path.is_symlink()]
    assert len(read_json(study / "mlflow.json")["runs"]) == 3
    assert not list(Path("results").glob("runs/*/*"))
    again = snakemake(clone, "compare_logs", "--config", given)
    assert "Nothing to be done" in again.stdout + again.stderr
    # A database that was removed comes back whole, with the comparison.
    before = runs_in_mlflow(clone)
    shutil.rmtree("results/mlflow")
    snakemake(clone, "compare_logs", "--config", given)
    assert runs_in_mlflow(clone) == before
    assert len(before) == 4


def runs_in_mlflow(clone: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{clone}/results/mlflow/mlflow.db")
    return sorted(str(run.info.run_name) for run in client.search_runs(["1"]))


def write_as_ms_swift(path: Path, variant: str) -> Path:
    """The log with the extra keys of ms-swift, whose names MLflow refuses."""
    rows = [json.loads(line) for line in write_log(path, variant).read_text().splitlines()]
    for row in rows:
        row |= {"memory(GiB)": 40.1, "train_speed(iter/s)": 0.25, "elapsed_time": "1h 2m"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_the_dag_imports_every_metric_of_ms_swift(tmp_path, clone):
    for variant in ("pure_ce", "mixed"):
        write_as_ms_swift(tmp_path / f"swift_{variant}.jsonl", variant)
    given = "logs=pure_ce=../swift_pure_ce.jsonl mixed=../swift_mixed.jsonl"
    done = snakemake(clone, "compare_logs", "--config", given)
    assert "# Start Stage-2 from " in done.stdout
    for run_id in read_json(Path("results/compare_logs/latest/mlflow.json"))["runs"].values():
        run = MlflowClient(f"sqlite:///{clone}/results/mlflow/mlflow.db").get_run(run_id)
        assert run.data.metrics["detail/memory_GiB"] == 40.1
        assert run.data.metrics["detail/train_speed_iter_per_s"] == 0.25
        assert "comparable_as_logged/expected_bin_mae" in run.data.metrics
        note = run.data.tags["mlflow.note.content"]
        assert "`detail/memory_GiB` is `memory(GiB)` of the log" in note


@pytest.mark.slow
def test_a_failed_import_into_mlflow_stops_neither_card_nor_report(logs, clone):
    database = Path("results/mlflow/mlflow.db")
    database.parent.mkdir(parents=True)
    database.write_text("not a database")
    given = "logs=" + " ".join(entry.replace("=", "=../") for entry in logs)
    done = snakemake(clone, "compare_logs", "--config", given, check=False)
    assert done.returncode == 1
    assert "# Start Stage-2 from " in done.stdout
    assert "MLflow lacks this study: its import failed" in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("coordexp: ")]
    assert len(said) == 1
    assert "mlflow.db: not a database that MLflow can read" in said[0]
    latest = Path("results/compare_logs/latest")
    assert (latest / "report.html").exists()
    assert not (latest / "mlflow.json").exists()

    database.unlink()
    again = snakemake(clone, "compare_logs", "--config", given)
    assert "# Start Stage-2 from " in again.stdout
    assert len(read_json(latest / "mlflow.json")["runs"]) == 3
    back = snakemake(clone, "compare_logs", "--config", given)
    assert "Nothing to be done" in back.stdout + back.stderr


@pytest.mark.slow
def test_two_snakemakes_and_a_clock_a_day_off_change_nothing(logs, clone):
    """One directory, two workflows at once; then clocks that were a day ahead and are back."""
    given = "logs=" + " ".join(entry.replace("=", "=../") for entry in logs)
    with ThreadPoolExecutor(2) as both:
        calls = [
            both.submit(snakemake, clone, "compare_logs", "--config", given, check=False)
            for _ in range(2)
        ]
    done = [call.result() for call in calls]
    finished = [call for call in done if call.returncode == 0]
    assert finished, done
    for refused in (call for call in done if call.returncode != 0):
        assert "Directory cannot be locked" in refused.stdout + refused.stderr
    latest = Path("results/compare_logs/latest").resolve()
    card = (latest / "recommendation.json").read_bytes()
    assert len(read_json(latest / "mlflow.json")["runs"]) == 3
    main(["verify"])

    tomorrow = time.time() + 86400
    for path in (*Path("..").glob("*.jsonl"), *latest.glob("*.json")):
        os.utime(path, (tomorrow, tomorrow))  # written while the clock was ahead
    again = snakemake(clone, "compare_logs", "--config", given)
    assert "Error" not in again.stderr
    assert (latest / "recommendation.json").read_bytes() == card
    assert len(list(Path("results/compare_logs").glob("*/preregistration.json"))) == 2  # + latest
    main(["verify"])
