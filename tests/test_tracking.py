"""MLflow: what an import writes, that a second one adds nothing, and that the server shows it."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import composed
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
from mlflow.exceptions import MlflowException
from studies import run_manifest
from tracked_runs import (
    EVAL,
    FORK,
    STARTED_S,
    TRAIN,
    client,
    counts,
    finish,
    log,
    make_run,
    query,
)

from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.coords import parse_coordjson
from coordexp.data.chat import PROMPT
from coordexp.data.records import Record, RecordObject, write_records
from coordexp.errors import UserError
from coordexp.report.style import looks
from coordexp.storage.files import read_json, sha256_directory, sha256_file, write_json, write_text
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory, run_directory, write_config
from coordexp.study.study_runs import read_study_runs
from coordexp.study.tracked import read_tracked_study
from coordexp.tracking import metric_series, names, registration
from coordexp.tracking import mlflow_import as tracking
from coordexp.tracking.experiment import ui_link
from coordexp.tracking.study_import import import_study

pytest_plugins = ("tracking_fixtures",)
pytestmark = pytest.mark.usefixtures("project")


def role(run: RunDirectory, step: int, mae: float = 37.0) -> dict[str, Any]:
    checkpoint = run.checkpoint(step)
    return {
        "variant": run.path.parent.name,
        "seed": 0,
        "step": step,
        "checkpoint": str(checkpoint),
        "sha256": sha256_directory(checkpoint),
        "metrics": {"expected_bin_mae": mae},
        "reasons": ["made up"],
    }


def make_study(
    hash8: str, runs: list[RunDirectory], primary: dict | None, secondary: dict | None
) -> Path:
    study = Path("results/stage1_ablation") / hash8
    write_json(
        study / "runs.json",
        {
            "runs": [
                {"variant": run.path.parent.name, "seed": i, "directory": str(run.path)}
                for i, run in enumerate(runs)
            ]
        },
    )
    write_json(study / "recommendation.json", recommendation(primary, secondary))
    write_text(study / "recommendation.md", "# Take pure CE")
    write_text(study / "figures" / "mae.svg", "<svg/>")
    return study


def recommendation(primary: dict | None, secondary: dict | None) -> dict:
    """A recommendation that says nothing but who holds these roles."""
    nothing: dict[str, list] = {key: [] for key in ("optional", "tied", "ineligible", "alerts")}
    nothing |= {key: [] for key in ("confirmatory", "evidence", "would_overturn", "would_take")}
    grade = {"grade": "descriptive", "reason": "made up"}
    return nothing | {
        "schema_version": 5,
        "decision": {"eliminated": [], "left": [], "preference": None, "contradictions": []},
        "statements": [],
        "withheld": None,
        "rehearsal": None,
        "study": {"name": "stage1_ablation", "hash8": "0123abcd", "seeds": 1},
        "decision_step": 8,
        "confidence": {"stage1_ranking": grade, "stage2_fitness": grade},
        "primary": primary,
        "secondary": secondary,
        "probe": None,
        "audit": {"passed": [], "verdicts": {}},
        "caveats": [],
        "rule": {"text": "", "sha256": "a" * 64},
    }


def artifacts(run_id: str) -> set[str]:
    root = tracking.ROOT / "artifacts" / run_id / "artifacts"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def shown_metrics(variant: str) -> dict[str, float]:
    """TRAIN and EVAL under their names in MLflow."""
    mae = "coord_diag/expected_bin_mae"
    return {
        f"detail/{variant}/loss": TRAIN["loss"],
        f"detail/{mae}": TRAIN[mae],
        f"detail/{variant}/eval_loss": EVAL["loss"],
        "comparable_as_logged/expected_bin_mae": EVAL[mae],
        "comparable/coord_token_acc": EVAL["coord_token_acc"],
    }


def alias_target(role_name: str) -> str | None:
    """Directory of the checkpoint that a role's alias points at."""
    try:
        version = client().get_model_version_by_alias(
            registration.MODEL, registration.ALIASES[role_name]
        )
        return unquote(urlsplit(version.source).path)
    except MlflowException:
        return None


def test_telemetry_is_off() -> None:
    assert MLFLOW_DISABLE_TELEMETRY.get() is True


def test_database_is_created_once_and_kept() -> None:
    (tracking.ROOT / "mlflow.db").unlink()
    written = read_json(tracking.create_database())
    assert written["tracking_uri"] == "sqlite:///results/mlflow/mlflow.db"
    assert written["name"] == "coordexp-stage1"
    assert read_json(tracking.create_database()) == written
    assert query("select experiment_id from experiments where name = 'coordexp-stage1'") == [
        (int(written["experiment_id"]),)
    ]


def test_second_import_adds_nothing() -> None:
    run = finish(make_run())
    run_id = tracking.import_run(run)
    first = counts()
    assert first["metrics"] == 2 * len(TRAIN) + len(EVAL)

    assert tracking.import_run(run) == run_id
    assert counts() == first


def test_import_writes_points_params_tags_and_files() -> None:
    run = finish(make_run("pure_ce", seed=1))
    imported = client().get_run(tracking.import_run(run))
    info, data = imported.info, imported.data
    assert (info.run_name, info.status) == ("pure_ce s1", "FINISHED")
    assert (info.start_time, info.end_time) == (1_700_000_002_500, 1_700_000_004_750)
    assert data.params["optim.lr"] == str(composed().optim.lr)
    assert data.params["seed"] == "1"
    assert not any(key.startswith(("study.", "runtime.")) for key in data.params)
    assert data.metrics == shown_metrics("pure_ce")
    assert data.tags["mlflow.source.name"] == "coordexp-train"
    assert data.tags["coordexp.run"] == "pure_ce/s1-0badcafe"
    assert data.tags["hash8"] == "0badcafe"
    assert data.tags["data_sha256"] == "d" * 64
    assert data.tags["base_sha256"] == "b" * 64
    assert "step 4 of" in data.tags["mlflow.note.content"]
    assert "190" in data.tags["mlflow.note.content"]
    assert artifacts(info.run_id) == {"config.yaml", "run.json"}


def test_more_points_than_one_mlflow_batch_are_imported() -> None:
    run = make_run()
    log(run, "train", 6, {"loss": 1.0} | {f"many/{i}": float(i) for i in range(1500)})
    tracking.import_run(run)
    assert counts()["metrics"] == 2 * len(TRAIN) + len(EVAL) + 1501


def test_growing_log_is_imported_piece_by_piece() -> None:
    run = make_run(steps=(2,))
    run.log.write_text("".join(line for line in run.log.open() if "eval_loss" not in line))
    run_id = tracking.import_run(run)
    assert client().get_run(run_id).info.status == "RUNNING"
    assert counts()["metrics"] == len(TRAIN)
    assert artifacts(run_id) == {"config.yaml"}

    log(run, "eval", 2, EVAL)  # belongs to a step that was imported already
    log(run, "train", 4, TRAIN)
    with run.log.open("a") as torn:
        torn.write('{"global_step/max_steps": "6/8", "lo')
    assert tracking.import_run(run) == run_id
    assert counts()["metrics"] == 2 * len(TRAIN) + len(EVAL)

    log(run, "train", 8, TRAIN)
    assert tracking.import_run(finish(run)) == run_id
    assert client().get_run(run_id).info.status == "FINISHED"
    assert client().get_run(run_id).info.end_time == 1_700_000_008_500
    assert [m.step for m in client().get_metric_history(run_id, "detail/mixed/loss")] == [2, 4, 8]
    assert artifacts(run_id) == {"config.yaml", "run.json"}


def test_diverged_run_is_failed_and_says_why() -> None:
    imported = client().get_run(
        tracking.import_run(finish(make_run(), "diverged", "diverged at step 5"))
    )
    assert (imported.info.status, imported.data.tags["status"]) == ("FAILED", "diverged")
    assert "diverged at step 5" in imported.data.tags["mlflow.note.content"]


def test_nan_and_infinity_become_gaps() -> None:
    run = make_run()
    log(run, "train", 6, {"loss": math.nan, "grad_norm": math.inf})
    for _ in range(2):
        tracking.import_run(run)
        assert query("select key, is_nan from metrics where step = 6 order by key") == [
            ("detail/grad_norm", 1),
            ("detail/mixed/loss", 1),
        ]


def test_rows_without_a_time_are_imported_once() -> None:
    run = make_run()
    rows = [json.loads(line) for line in run.log.open()]
    write_text(
        run.log,
        "".join(
            json.dumps({k: v for k, v in row.items() if "time" not in k}) + "\n" for row in rows
        ),
    )
    assert tracking.import_run(run) == tracking.import_run(run)
    assert (counts()["runs"], counts()["metrics"]) == (1, 2 * len(TRAIN) + len(EVAL))


def test_run_without_a_log_is_left_out() -> None:
    run = run_directory("mixed", 0, "0badcafe")
    write_config(run, composed("variant=mixed"))
    assert tracking.import_run(run) == ""
    assert counts()["runs"] == 0


def test_run_trained_anew_does_not_mix_with_the_old_one() -> None:
    run = finish(make_run())
    old = tracking.import_run(run)
    shutil.rmtree(run.path)
    new = tracking.import_run(make_run(started_s=STARTED_S + 1000))
    assert new != old
    assert client().get_run(old).info.lifecycle_stage == "deleted"
    assert [m.step for m in client().get_metric_history(new, "detail/mixed/loss")] == [2, 4]


def test_run_of_an_earlier_form_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, each metric had the name of its key in the log."""
    run = finish(make_run())
    with monkeypatch.context() as patch:
        patch.setattr(metric_series, "shown_points", lambda log, _: metric_series.log_points(log))
        patch.setattr(tracking, "FORM", "1")
        old = tracking.import_run(run)
    assert "eval_loss" in client().get_run(old).data.metrics
    new = tracking.import_run(run)
    assert client().get_run(old).info.lifecycle_stage == "deleted"
    assert client().get_run(new).data.metrics == shown_metrics("mixed")
    assert tracking.import_run(run) == new


def test_losses_of_variants_never_share_a_name() -> None:
    keys = ["loss", "eval_loss", "base_ce/loss", "eval_train_subset/loss", "coord_softce_w1/gate"]
    keys += [
        "grad_norm",
        "eval_coord_diag_fitted_t/crps",
        "eval_coord_diag/crps",
        "eval_text_ce/loss",
    ]
    first, second = names.shown_names(keys, "pure_ce"), names.shown_names(keys, "mixed")
    assert {key for key in keys if first[key] != second[key]} == set(keys[:5])
    assert first["eval_train_subset/loss"] == "detail/pure_ce/eval_train_subset/loss"
    assert first["eval_coord_diag_fitted_t/crps"] == "comparable/crps"
    assert first["eval_coord_diag/crps"] == "detail/eval_coord_diag/crps"
    assert len(set(first.values())) == len(keys)
    bare = names.shown_names(["eval_coord_diag/crps"], "pure_ce")
    assert bare == {"eval_coord_diag/crps": "comparable_as_logged/crps"}


def test_experiment_explains_itself_and_opens_on_what_compares() -> None:
    experiment_id = read_json(tracking.create_database())["experiment_id"]
    tags = client().get_experiment(experiment_id).tags
    assert "never the losses of two variants" in tags["mlflow.note.content"]
    (key,) = re.findall(r"viewStateShareKey=(\w+)", ui_link(experiment_id))
    state = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert "metrics.`comparable/crps`" in state["selectedColumns"]
    assert state["chartsSearchFilter"] == "comparable"
    # What an earlier version wrote is brought up to date.
    client().set_experiment_tag(experiment_id, "mlflow.note.content", "old")
    tracking.create_database()
    assert client().get_experiment(experiment_id).tags == tags


def test_finished_run_has_its_records_as_dataset_once() -> None:
    run = make_run()
    assert client().get_run(tracking.import_run(run)).inputs.dataset_inputs == []
    write_manifest(finish(run), run_manifest(data="results/data/scenes-0badcafe", val_images=24))
    for _ in range(2):
        (given,) = client().get_run(tracking.import_run(run)).inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("scenes-0badcafe", "d" * 8)
        assert "results/data/scenes-0badcafe" in given.dataset.source


def test_registered_checkpoint_has_a_chat_as_example() -> None:
    run = finish(make_run("pure_ce"))
    data = Path("results/data/scenes-0badcafe")
    write_manifest(run, run_manifest(data=str(data)))
    obj = RecordObject("red cup", "bbox_2d", (0.0, 0.0, 99.0, 99.0))
    data.mkdir(parents=True)
    write_records(data / "val.jsonl", [Record("a.png", 100, 100, (obj,))])
    (data / "a.png").write_bytes(b"a picture")
    study = make_study("11111111", [run], role(run, 8), None)
    run_id = import_study(study).runs["pure_ce/s0-0badcafe"]
    assert artifacts(run_id) >= {"input_example/chat.json", "input_example/a.png"}
    example = read_json(tracking.ROOT / "artifacts" / run_id / "artifacts/input_example/chat.json")
    (question,) = example["messages"]
    assert question["content"][0] == {"type": "image", "image": "a.png"}
    assert question["content"][1] == {"type": "text", "text": PROMPT}
    assert parse_coordjson(example["ground_truth"]["content"]).objects[0].desc == "red cup"
    version = client().get_model_version_by_alias(registration.MODEL, "stage2-primary")
    assert "pure_ce" in version.description


def test_experiment_deleted_in_the_ui_is_restored() -> None:
    client().delete_experiment(read_json(tracking.create_database())["experiment_id"])
    assert client().get_run(tracking.import_run(make_run())).info.status == "RUNNING"


def test_moved_project_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.create_database()
    shutil.copytree("results", "elsewhere/results")
    monkeypatch.chdir("elsewhere")
    with pytest.raises(
        UserError, match=f"moved, its artifacts went to {project.as_uri()}/results/mlflow"
    ):
        tracking.create_database()


def test_second_import_of_a_study_adds_nothing() -> None:
    first, second, live = (
        finish(make_run("pure_ce")),
        finish(make_run("mixed")),
        make_run("softce_w1_gate"),
    )
    study = make_study("11111111", [first, second, live], role(first, 8), role(second, 4, mae=41.0))
    decided = card(read_recommendation(study), study)
    result = import_study(study)
    before = counts()
    assert read_tracked_study(study) == result
    assert set(result.runs) == {"pure_ce/s0-0badcafe", "mixed/s0-0badcafe"}
    assert result.models == {"primary": 1, "secondary": 2}
    assert f"http://127.0.0.1:5000/#/experiments/{result.experiment_id}/runs?" in result.ui_link

    comparison = client().get_run(result.comparison_run_id)
    assert (comparison.info.run_name, comparison.info.status) == (
        "stage1_ablation comparison 11111111",
        "FINISHED",
    )
    assert comparison.data.metrics == {
        "primary/expected_bin_mae": 37.0,
        "secondary/expected_bin_mae": 41.0,
    }
    # Of recommendation.json, whose seal is checked; nobody checks recommendation.md.
    assert comparison.data.tags["mlflow.note.content"] == decided
    assert artifacts(comparison.info.run_id) == {
        "recommendation.json",
        "recommendation.md",
        "figures/mae.svg",
    }

    version = client().get_model_version_by_alias(registration.MODEL, "stage2-primary")
    assert version.run_id == result.runs["pure_ce/s0-0badcafe"]
    expected = {
        "variant": "pure_ce",
        "seed": "0",
        "step": "8",
        "study": "11111111",
        "sha256": role(first, 8)["sha256"],
    }
    assert version.tags == expected

    assert import_study(study) == result
    assert counts() == before


def test_a_variant_has_one_colour_in_report_and_mlflow() -> None:
    runs = [finish(make_run(variant)) for variant in ("mixed", "pure_ce")]
    study = make_study("11111111", runs, role(runs[0], 8), None)
    imported = import_study(study).runs
    drawn = looks(entry.variant for entry in read_study_runs(study))
    for variant in ("mixed", "pure_ce"):
        run = client().get_run(imported[f"{variant}/s0-0badcafe"])
        assert run.data.tags["mlflow.runColor"] == drawn[variant].colour


def test_damaged_checkpoint_is_not_registered(refused) -> None:
    first, second = finish(make_run("pure_ce")), finish(make_run("mixed"))
    study = make_study("11111111", [first, second], role(first, 8), role(second, 4))
    write_text(first.checkpoint(8) / "config.json", "damaged")
    with refused("step-000008: changed or damaged", "recommendation.json recorded"):
        import_study(study)
    assert query("select count(*) from model_versions") == [(0,)]


def test_aliases_follow_the_study_and_are_removed() -> None:
    first, second = finish(make_run("pure_ce")), finish(make_run("mixed"))
    runs = [first, second]
    older = make_study("11111111", runs, role(first, 8), role(second, 4))
    make_study("22222222", runs, role(second, 8), None)
    latest = Path("results/stage1_ablation/latest")
    latest.symlink_to("22222222")

    import_study(older)
    assert import_study(latest).models == {"primary": 3, "secondary": None}
    assert alias_target("primary") == str(second.checkpoint(8).resolve())
    assert alias_target("secondary") is None
    assert query("select name from runs where name like '% comparison %' order by name") == [
        ("stage1_ablation comparison 11111111",),
        ("stage1_ablation comparison 22222222",),
    ]

    assert import_study(older).models == {"primary": 1, "secondary": 2}
    assert alias_target("primary") == str(first.checkpoint(8).resolve())
    assert alias_target("secondary") == str(second.checkpoint(4).resolve())
    assert counts()["model_versions"] == 3


def test_aliases_stay_if_a_study_is_no_reason_to_start() -> None:
    first, second = finish(make_run("pure_ce")), finish(make_run("mixed"))
    import_study(make_study("11111111", [first, second], role(first, 8), None))
    later = make_study("22222222", [first, second], role(second, 8), None)
    found = json.loads((later / "recommendation.json").read_text())
    for key in ("rehearsal", "blind"):
        write_json(later / "recommendation.json", found | {key: "nothing to start from"})
        assert import_study(later).models == {"primary": None, "secondary": None}
        assert alias_target("primary") == str(first.checkpoint(8).resolve())


def test_log_without_a_run_is_imported_once_without_a_model() -> None:
    entry = {
        "variant": "pure_ce",
        "seed": 0,
        "step": 8,
        "checkpoint": None,
        "sha256": None,
        "metrics": {},
        "reasons": ["made up"],
    }
    study = make_study("11111111", [], entry, None)
    write_text(
        Path("theirs.jsonl"),
        '{"step": 4, "loss": 2.0}\n{"step": 4, "eval_loss": 2.5, "eval_coord_token_acc": 0.25}\n',
    )
    sha256 = sha256_file(Path("theirs.jsonl"))
    log = {
        "variant": "pure_ce",
        "seed": 0,
        "directory": None,
        "log": "theirs.jsonl",
        "kind": "log",
        "sha256": sha256,
    }
    write_json(study / "runs.json", {"runs": [log]})
    result = import_study(study)
    assert result.models == {"primary": None, "secondary": None}
    ((key, run_id),) = result.runs.items()
    assert key == f"logs/pure_ce/s0-{sha256[:8]}"
    imported = client().get_run(run_id)
    assert imported.data.metrics == {
        "detail/pure_ce/loss": 2.0,
        "detail/pure_ce/eval_loss": 2.5,
        "comparable/coord_token_acc": 0.25,
    }
    assert (imported.info.status, imported.data.tags["variant"]) == ("FINISHED", "pure_ce")
    assert import_study(study) == result


def test_missing_checkpoint_is_one_line() -> None:
    run = finish(make_run())
    study = make_study("11111111", [run], role(run, 8), None)
    shutil.rmtree(run.checkpoint(8))
    with pytest.raises(UserError, match=f"{run.checkpoint(8)}: recommended as primary"):
        import_study(study)


def share(barrier: Any) -> None:
    """Start of a worker of the pool below."""
    import_together.barrier = barrier


def import_together(run: RunDirectory) -> str:
    """Import a run at the moment the other worker does."""
    import_together.barrier.wait(timeout=120)
    return tracking.import_run(run)


def test_two_importers_at_once_import_every_run_once() -> None:
    runs = [make_run(variant, seed) for variant in ("mixed", "pure_ce") for seed in (0, 1)]
    # Both importers are forked before this process opens the database: connections of SQLite do
    # not outlive a fork, and MLflow, which takes seconds to import, is imported already.
    with FORK.Pool(2, share, (FORK.Barrier(2),)) as pool:
        tracking.create_database()
        ids = pool.map(import_together, [run for run in runs for _ in range(2)], chunksize=1)
    assert ids[0::2] == ids[1::2]
    assert (counts()["runs"], counts()["metrics"]) == (4, 4 * (2 * len(TRAIN) + len(EVAL)))


def test_copy_of_a_killed_import_is_removed() -> None:
    run_id = tracking.import_run(make_run())
    artifacts = tracking.ROOT / "artifacts" / run_id / "artifacts"
    left = artifacts / ".artifact.uploading.x1y2z3"
    artifacts.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half")
    tracking.import_run(make_run())
    assert not left.exists()
