"""A control explains a lead: it is trained and shown, and changes nothing of the decision."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_readers import page
from studies import eval_row, write_run, write_study

from coordexp.analysis.audit.findings import read_audit
from coordexp.analysis.comparison.findings import Difference, read_comparison
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.analysis.recommendation.control import parts_of_lead
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.compare import compare
from coordexp.cli.main import main
from coordexp.config.compose import compose
from coordexp.errors import UserError
from coordexp.study.comparison import plan_comparison
from coordexp.study.plan import plan_study
from coordexp.study.preregistration import preregister, read_preregistration
from coordexp.study.sources import parse_sources
from coordexp.study.study_runs import read_study_runs

CANDIDATES = {
    "softce_w1_gate": eval_row(20.0, 50.0, 0.18, 0.10, 36.0, 5.0),
    "pure_ce": eval_row(25.0, 58.0, 0.20, 0.14, 41.0, 3.0),
    "mixed": eval_row(22.0, 52.0, 0.19, 0.11, 38.0, 4.0),
}
SPLIT = eval_row(21.0, 51.0, 0.20, 0.12, 37.0, 4.0)
BEST = eval_row(10.0, 20.0, 0.90, 0.80, 15.0, 6.0)
WORST = eval_row(90.0, 190.0, 0.01, 0.01, 99.0, 1.0)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decided(rows, controls=(), seeds: int = 1, tables: bool = True, steps=(), **of_control):
    """The study directory of these rows, after the steps of the analysis."""
    runs = []
    for variant, row in rows.items():
        facts = of_control if variant in controls else {}
        runs += [write_run(variant, row, seed=s, tables=tables, **facts) for s in range(seeds)]
    study = write_study(runs, seeds=seeds, controls=controls)
    for step in ("audit", "compare", "collect-probes", "recommend", *steps):
        main(["step", step, str(study)])
    return study


def decision(study: Path):
    """All that the study decided, without what names or explains the control."""
    found = read_recommendation(study)
    return replace(
        found,
        study=replace(found.study, hash8="00000000"),
        audit=replace(found.audit, verdicts={}),
        caveats=[line for line in found.caveats if "ce_split" not in line],
        statements=[s for s in found.statements if "ce_split" not in s.text],
    )


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("row", "facts"),
    [
        (SPLIT, {}),
        (BEST, {}),
        (WORST, {}),
        (SPLIT, {"overrides": ("optim.lr=5e-4",)}),
        (SPLIT, {"status": "diverged", "reason": "diverged at step 7 (loss nan)"}),
        (SPLIT, {"inputs_sha256": {"data": "e" * 64, "base": "b" * 64}}),
        (SPLIT, {"ratio": 8.0}),
    ],
)
def test_decision_is_the_same_with_and_without_a_control(row, facts, seeds):
    """Results of the control also existed before the rule was written down (see write_study)."""
    without = decision(decided(CANDIDATES, seeds=seeds))
    assert without.primary is not None
    rows = CANDIDATES | {"ce_split": row}
    assert decision(decided(rows, ["ce_split"], seeds, **facts)) == without


def test_control_that_differs_fails_alone():
    """With two candidates, the control could make the majority."""
    rows = {v: CANDIDATES[v] for v in ("mixed", "pure_ce")} | {"ce_split": SPLIT}
    other = {"inputs_sha256": {"data": "e" * 64, "base": "b" * 64}}
    audit = read_audit(decided(rows, ["ce_split"], **other))
    assert {run.variant: run.passed for run in audit.runs} == {
        "mixed": True,
        "pure_ce": True,
        "ce_split": False,
    }
    assert audit.passed == ["mixed s0", "pure_ce s0"]


def test_control_is_measured_and_never_the_best():
    comparison = read_comparison(decided(CANDIDATES | {"ce_split": BEST}, ["ce_split"]))
    assert comparison.controls == ["ce_split"]
    assert [row.variant for row in comparison.decision_rows][-1] == "ce_split"
    assert {d.first for d in comparison.differences if d.second == "ce_split"} == {*CANDIDATES}
    assert all("ce_split" not in winners.values() for winners in comparison.winners.values())
    assert all(s.last_winner != "ce_split" for s in comparison.stability.values())
    assert comparison.resolution_limit is None or comparison.resolution_limit.best_mae_bins > 15
    alone = comparison.of_candidates
    assert {row.variant for row in alone.curves} == {*CANDIDATES}
    assert not any("ce_split" in (d.first, d.second) for d in alone.differences)


# The sentence


def control_line(study: Path) -> str | None:
    lines = [line for line in read_recommendation(study).caveats if "ce_split" in line]
    assert len(lines) <= 1
    return lines[0] if lines else None


def value(study: Path, variant: str) -> float:
    rows = read_comparison(study).decision_rows
    return next(r.values["expected_bin_mae"] for r in rows if r.variant == variant)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("tables", [False, True])
def test_lead_is_split_into_weighting_and_objective(tables, seeds):
    study = decided(CANDIDATES | {"ce_split": SPLIT}, ["ce_split"], seeds, tables)
    line = control_line(study)
    assert line is not None
    whole, weighting, objective = map(
        float, re.findall(r"(?:of|pure_ce,|and) (\d+\.\d+)(?= bins| \[| stand| between)", line)
    )
    best, split, pure = (value(study, v) for v in ("softce_w1_gate", "ce_split", "pure_ce"))
    assert whole == pytest.approx(pure - best, abs=0.006)
    assert weighting == pytest.approx(pure - split, abs=0.006)
    assert objective == pytest.approx(split - best, abs=0.006)
    assert line.count("[") == (2 if tables else 0)
    assert line.startswith("of softce_w1_gate's MAE lead of ")
    assert "stand between pure_ce and ce_split (the re-weighting of coordinates against" in line
    assert line.endswith("between ce_split and softce_w1_gate (the objective and its weights)")


def test_parts_of_opposite_signs_say_who_leads():
    rows = CANDIDATES | {"ce_split": eval_row(18.0, 49.0, 0.2, 0.12, 35.0, 4.0)}
    line = control_line(decided(rows, ["ce_split"], tables=False))
    assert line == (
        "of softce_w1_gate's MAE lead of 5.00 bins over pure_ce, the two parts have opposite "
        "signs: ce_split leads pure_ce by 7.00 (the re-weighting of coordinates against text), "
        "ce_split leads softce_w1_gate by 2.00 (the objective and its weights)"
    )


def test_where_pure_ce_is_primary_the_best_other_is_told():
    rows = CANDIDATES | {"pure_ce": eval_row(19.0, 45.0, 0.3, 0.2, 33.0, 3.0), "ce_split": SPLIT}
    line = control_line(decided(rows, ["ce_split"], tables=False))
    assert line == (
        "of pure_ce's MAE lead of 1.00 bins over softce_w1_gate, the two parts have opposite "
        "signs: pure_ce leads ce_split by 2.00 (the re-weighting of coordinates against text), "
        "softce_w1_gate leads ce_split by 1.00 (the objective and its weights)"
    )


@pytest.mark.parametrize(
    "rows",
    [
        {v: row for v, row in CANDIDATES.items() if v != "pure_ce"},
        {"pure_ce": CANDIDATES["pure_ce"]},
        {"pure_ce": CANDIDATES["mixed"], "mixed": CANDIDATES["mixed"]},
        CANDIDATES | {"pure_ce": CANDIDATES["pure_ce"] | {"text_token_acc": 0.1}},
    ],
    ids=["no pure_ce", "nothing else", "equal", "pure_ce not eligible"],
)
def test_without_a_lead_over_pure_ce_there_is_no_line(rows):
    assert control_line(decided(rows | {"ce_split": SPLIT}, ["ce_split"], tables=False)) is None


def test_control_with_other_weights_explains_nothing():
    facts = {"overrides": ("variant.gate=2",)}
    assert control_line(decided(CANDIDATES | {"ce_split": SPLIT}, ["ce_split"], **facts)) is None


def test_control_with_other_settings_says_so():
    facts = {"overrides": ("optim.lr=5e-4",)}
    line = control_line(decided(CANDIDATES | {"ce_split": SPLIT}, ["ce_split"], **facts))
    assert line is not None
    assert line.endswith("; but control and candidates also differ in optim.lr")


def test_failed_control_is_named_with_its_reason():
    facts = {"status": "diverged", "reason": "diverged at step 7 (loss nan)"}
    line = control_line(decided(CANDIDATES | {"ce_split": SPLIT}, ["ce_split"], **facts))
    assert line == "control ce_split: seed 0 diverged at step 7 (loss nan): it explains no lead"


def difference(first: str, second: str, value: float) -> Difference:
    estimate = Estimate(value, value - 1, value + 1, 0.5, None, 0.9, None, "m", None, 0.2, None, 90)
    return Difference(first, second, "expected_bin_mae", 0.5, value, estimate, None)


def test_part_whose_interval_holds_0_is_unresolved():
    pairs = [("a", "b", 3.0), ("a", "c", 2.5), ("c", "b", 0.5)]
    found = [difference(first, second, value) for first, second, value in pairs]
    line = parts_of_lead(found, ("b", "c", "a"), "expected_bin_mae")
    assert line is not None
    assert "0.50 [-0.50, +1.50; unresolved] stand between b and c" in line.text
    assert "2.50 [+1.50, +3.50] between c and a" in line.text


def test_parts_that_do_not_sum_to_the_lead_are_not_told():
    """As where a seed of the control is missing."""
    pairs = [("a", "b", 3.0), ("a", "c", 1.0), ("c", "b", 2.0)]
    found = [difference(first, second, value) for first, second, value in pairs]
    assert parts_of_lead(found, ("b", "c", "a"), "expected_bin_mae") is not None
    found[1] = difference("a", "c", 1.5)
    assert parts_of_lead(found, ("b", "c", "a"), "expected_bin_mae") is None


# Where the control is named


def test_registration_names_the_controls():
    registered = read_preregistration(preregister(plan_study({})).parent)
    assert registered.controls == ["ce_split"]
    assert [run.variant for run in registered.runs if run.control] == ["ce_split"]


def test_experiments_of_seconds_train_no_control():
    for experiment in ("smoke", "lvis_rehearsal"):
        overrides = [f"experiment={experiment}"]
        if experiment == "lvis_rehearsal":
            overrides.append("data.annotations=a.json")
        assert compose(overrides).study.controls == []


def test_report_marks_the_control_and_never_as_the_best():
    study = decided(CANDIDATES | {"ce_split": BEST}, ["ce_split"])
    report = page(study)
    assert "3 variants and 1 control" in report.card.text
    table = report.tables["step-360"]
    assert [row[0].text for row in table.rows] == [*CANDIDATES, "ce_split control"]
    for row in table.rows:
        is_best = any("best" in cell.classes for cell in row)
        assert is_best == (row[0].text in ("softce_w1_gate", "pure_ce"))
    for line in read_recommendation(study).caveats:
        assert line in report.text


def test_comparison_of_logs_takes_a_control(capsys):
    logs = []
    for variant, row in (CANDIDATES | {"ce_split": BEST}).items():
        run = write_run(variant, row)
        Path(f"{variant}.jsonl").write_bytes(run.log.read_bytes())
        logs.append(f"{variant}={variant}.jsonl")
    main(["compare", *logs, "--out", "out", "--control", "ce_split"])
    assert "Start Stage-2 from softce_w1_gate" in capsys.readouterr().out
    line = control_line(Path("out"))
    assert line is not None
    assert "the two parts have opposite signs" in line
    assert "--control ce_split" in Path("out/report.html").read_text()
    as_candidate = plan_comparison(parse_sources(logs), compose().study.rule)
    as_control = plan_comparison(parse_sources(logs), compose().study.rule, controls=["ce_split"])
    assert as_candidate.hash8 != as_control.hash8


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        (["ce_spli"], "control ce_spli: no run has that name: did you mean ce_split?"),
        (["ce_split", "mixed"], "control ce_split, mixed: no other run is left to compare"),
    ],
)
def test_impossible_control_costs_one_line(controls, says):
    logs = {v: write_run(v, SPLIT).path for v in ("ce_split", "mixed")}
    with pytest.raises(UserError) as refused:
        compare(logs, "out", controls=controls)
    assert str(refused.value) == says
    assert not Path("out").exists()


def test_control_of_an_earlier_study_stays_one():
    earlier = decided(CANDIDATES | {"ce_split": BEST}, ["ce_split"])
    found = compare([f"old={earlier}"], "out")
    assert found.primary is not None
    assert found.primary.variant == "old/softce_w1_gate"
    assert [run.variant for run in read_study_runs(Path("out")) if run.control] == ["old/ce_split"]


def test_control_is_tagged_in_mlflow():
    from mlflow import MlflowClient

    study = decided(CANDIDATES | {"ce_split": SPLIT}, ["ce_split"], tables=False, steps=["track"])
    client = MlflowClient(f"sqlite:///{Path('results/mlflow/mlflow.db').resolve()}")
    tracked = json.loads((study / "mlflow.json").read_text())
    tags = {key: client.get_run(run_id).data.tags for key, run_id in tracked["runs"].items()}
    assert len(tags) == 4
    of_study = f"stage1_ablation/{study.name}"
    assert {key.partition("/")[0]: t.get("coordexp.control_of") for key, t in tags.items()} == {
        **dict.fromkeys(CANDIDATES),
        "ce_split": of_study,
    }
