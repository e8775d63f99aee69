"""MLflow takes every log: names it refuses, values it cannot store, and imports that fail."""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric, _validate_param

from coordexp.errors import UserError
from coordexp.storage.files import sha256_file
from coordexp.study.locate import LOG
from coordexp.study.study_runs import StudyRun
from coordexp.tracking import mlflow_import as tracking
from coordexp.tracking.legal import NOTE_CHARACTERS, cut_note, is_legal, legal_names
from coordexp.tracking.metric_series import NOTE_TAG, MetricSeries, series_of_entry

pytest_plugins = ("tracking_fixtures",)

ODD = (
    "memory(GiB)",
    "memory[GiB]",
    "train_speed(iter/s)",
    "a" * 251,
    "(" * 400,
    "/absolute/x",
    "../up",
    "a/../b",
    "a//b",
    "a/./b",
    "",
    ".",
    "..",
    "...",
    "..a",
    "tab\tkey",
    "nul\0key",
    "50%",
    "x/",
    "é(ü)",
    "坐标(像素)",
    "\U0001f600",
)
PLAIN = ("loss", "Loss", "loss/a", "memory_GiB", "a b: c-d.e", "坐标", " x ")


def accepted(name: str) -> bool:
    """Whether MLflow's own checks take this name."""
    try:
        _validate_metric(name, 1.0, 1, 1)
        _validate_param(name, "1")
    except MlflowException:
        return False
    return True


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    tracking.ROOT.mkdir(parents=True)
    shutil.copy(empty_database, tracking.ROOT / "mlflow.db")
    return MlflowClient(f"sqlite:///{(tracking.ROOT / 'mlflow.db').resolve()}")


def series(points: list[tuple[str, float, int, int]], status: str = "FINISHED") -> MetricSeries:
    note = {NOTE_TAG: "- a run"}
    return MetricSeries("logs/a/s0-0badcafe", "a s0", points, {"seed": "0"}, note, status=status)


def statuses() -> list[tuple[str]]:
    return (
        sqlite3.connect(tracking.ROOT / "mlflow.db").execute("select status from runs").fetchall()
    )


def test_legal_names_keep_their_name_and_others_get_a_unique_one() -> None:
    names = legal_names(ODD + PLAIN)
    assert {name: names[name] for name in PLAIN} == {name: name for name in PLAIN}
    assert all(map(accepted, names.values()))
    assert all(name.isprintable() for name in names.values())
    assert len(set(names.values())) == len(names)
    assert names["train_speed(iter/s)"] == "train_speed_iter_per_s"
    assert names["memory(GiB)"].startswith("memory_GiB-"), "memory_GiB is a key of its own"
    assert legal_names(["memory(GiB)"]) == {"memory(GiB)": "memory_GiB"}
    assert legal_names(reversed(ODD + PLAIN)) == names


def test_rule_of_legal_names_is_mlflows() -> None:
    rng = random.Random(16)
    for _ in range(20_000):
        name = "".join(rng.choices("aB_/.-: (%é\t坐", k=rng.randint(0, 6)))
        assert is_legal(name) == accepted(name), repr(name)
        assert accepted(legal_names([name])[name]), repr(name)
    assert is_legal("a" * 250)
    assert not is_legal("a" * 251)
    assert not is_legal("loss\n"), "MLflow would take it"


def test_every_key_reaches_mlflow_and_the_note_names_the_changed_ones(database) -> None:
    points = [
        (key, float(i), 5 + step, step) for step in (1, 2) for i, key in enumerate(ODD + PLAIN)
    ]
    run = database.get_run(tracking.import_series(series(points)))
    names = legal_names(ODD + PLAIN)
    assert run.data.metrics == {names[key]: float(i) for i, key in enumerate(ODD + PLAIN)}
    note = run.data.tags[NOTE_TAG]
    assert note.startswith("- a run\n")
    assert "- `train_speed_iter_per_s` is `train_speed(iter/s)` of the log" in note
    assert "- `" + names["tab\tkey"] + "` is `tab\\tkey` of the log" in note
    assert "`loss`" not in note


def test_values_that_cannot_be_stored_are_told_in_the_note(database) -> None:
    points = [("loss", 1.0, 7, 1), ("grad_norm", math.inf, 7, 1), ("grad_norm", math.nan, 8, 2)]
    points += [("loss", 1e308, 2**80, 2), ("loss", 2.0, 9, 2**63)]
    run_id = tracking.import_series(series(points))
    note = database.get_run(run_id).data.tags[NOTE_TAG]
    assert "- `grad_norm` is inf at step 1, and 1 more: a gap in the chart" in note
    assert "- 1 values at steps beyond 2^63 are left out" in note
    assert [m.value for m in database.get_metric_history(run_id, "loss")] == [1.0, 1e308]
    assert all(math.isnan(m.value) for m in database.get_metric_history(run_id, "grad_norm"))


def test_long_note_is_cut_at_a_line_and_says_so() -> None:
    lines = [f"- line {i}" for i in range(2000)]
    cut = cut_note("\n".join(lines))
    assert len(cut) <= NOTE_CHARACTERS
    *kept, last = cut.split("\n")
    assert kept == lines[: len(kept)]
    assert last == f"- … and {len(lines) - len(kept)} more lines"


def test_row_with_an_impossible_time_is_imported_at_its_step(database) -> None:
    rows = [{"global_step/max_steps": f"{i}/3", "loss": 1.0} for i in (1, 2, 3)]
    for row, time_s in zip(rows, (-5.0, 1e300, math.nan), strict=True):
        row["time_unix_s"] = time_s
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sha256 = sha256_file(Path("a.jsonl"))
    entry = StudyRun(variant="a", seed=0, log="a.jsonl", kind=LOG, sha256=sha256)
    run_id = tracking.import_series(series_of_entry(entry))
    history = database.get_metric_history(run_id, "detail/a/loss")
    assert [m.step for m in history] == [1, 2, 3]


def broken(*_: object, **__: object) -> None:
    raise MlflowException("the disk says no\nand more")


@pytest.mark.parametrize("status", ["FINISHED", None])
def test_failed_import_is_one_line_and_the_next_one_completes_it(
    database, monkeypatch, status
) -> None:
    points = [("loss", 1.0, 7, 1), ("memory(GiB)", 2.0, 8, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", broken)
        with pytest.raises(UserError) as refused:
            tracking.import_series(series(points, status))
    assert "\n" not in str(refused.value)
    assert "the import into MLflow failed (the disk says no)" in str(refused.value)
    assert statuses() == [("FAILED",)]

    for _ in range(2):
        run_id = tracking.import_series(series(points, status))
        run = database.get_run(run_id)
        assert statuses() == [(status or "RUNNING",)]
        assert tracking.FAILURE_TAG not in run.data.tags
        assert run.data.metrics == {"loss": 1.0, "memory_GiB": 2.0}
        assert len(database.get_metric_history(run_id, "loss")) == 1


@pytest.mark.usefixtures("database")
def test_interrupted_import_leaves_no_running_run(monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "log_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracking.import_series(series([("loss", 1.0, 7, 1)]))
    assert statuses() == [("FAILED",)]
